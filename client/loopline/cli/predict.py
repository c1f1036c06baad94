"""`loopline predict`: asks a model about a file or texts."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import typer

from loopline import asking, errors, text
from loopline.cli import by_job
from loopline.cli.by_job import LAST, SENT_BYTES, Target
from loopline.cli.shared import AsJson, connected, print_json
from loopline.view.notes import meter, note, warned

if TYPE_CHECKING:
    from loopline.client import Client
    from loopline.types import Prediction

OUTPUTS = (".csv", ".jsonl", ".parquet")
INVALID = "input_invalid"
"""The code of the error of a model that cannot take what it is asked."""


def predict(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="`vowels@production`, `vowels@3`, the id of a job or of a search, `last`, or the folder of a model. "
            "`vowels` alone means `vowels@production`.",
        ),
    ],
    file: Annotated[
        str | None,
        typer.Argument(metavar="[FILE]", help="A file or folder of any format of an upload; `-` reads CSV from stdin."),
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option("--text", metavar="TEXT", help="A text to ask about. May be repeated.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Save the answers to this file: .csv, .jsonl or .parquet."),
    ] = None,
    job: Annotated[
        bool, typer.Option("--job", help="Let a job of the service answer, however few sequences there are.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Ask a model about a file or texts.

    The service answers about texts, and about a CSV of up to 4 MB and 10,000 sequences. If a file has more, and --out
    ends in .csv or .parquet, a job answers: the file is uploaded, and the same command goes on with that job later. For
    other files the model is downloaded once, and this computer answers; that needs `pip install "loopline[predict]"`.
    The answers are the same.

    Example: loopline predict vowels@production new.csv --out answers.csv
    """
    if (file is None) == (not text):
        raise errors.BadRequest("Give a FILE, or --text: one of the two.")
    if out is not None and out.suffix.lower() not in OUTPUTS:
        raise errors.BadRequest(f"No format is known for {out.name}: give a file that ends in {', '.join(OUTPUTS)}.")
    folder = _folder(model)
    target = by_job.target_of(file, out, folder, as_json=as_json)
    if job and target is None:
        raise errors.BadRequest("A job needs a MODEL of the service, a FILE, and --out with a .csv or .parquet file.")
    try:
        if (
            target is not None
            and (job or by_job.is_large(target.file))
            and by_job.answered(ctx, model, target, is_asked=job)
        ):
            return
        found = _asked(ctx, model, file, text, target) if folder is None else _here(folder, file, text)
    except errors.NotFound as error:
        raise _or_last(model, error) from None
    if found is not None:
        _tell(found, out, as_json)


def _tell(found: Prediction, out: Path | None, as_json: bool) -> None:
    warned(found.warnings)
    if as_json:
        print_json(found.raw)
    if out is not None:
        _save(found, out)
        note(f"Saved {text.count(len(found.rows), 'row')} to {out}.")
    elif not as_json:
        from loopline.view import predictions

        predictions.print_rows(found)


def _folder(model: str) -> Path | None:
    """The folder that MODEL means; None if it names a model of the service. Raises BadRequest if there is none."""
    folder = Path(model).expanduser()
    if _has_model(folder):
        return folder
    if not model.startswith((".", "~")) and os.sep not in model and "/" not in model:
        return None
    if folder.is_dir():
        raise errors.BadRequest(f"{model} has no model.json: give the folder of a downloaded model.")
    raise errors.BadRequest(
        f"{model} is a file: give the folder of a model." if folder.exists() else f"There is no folder {model}."
    )


def _has_model(folder: Path) -> bool:
    return (folder / "model.json").is_file()


def _asked(
    ctx: typer.Context, model: str, file: str | None, texts: list[str] | None, target: Target | None
) -> Prediction | None:
    """The answer of the service, or of the downloaded model where the file cannot be sent; None if a job saved it."""
    with connected(ctx) as client:
        model = by_job.named(client, model)
        content = _sendable(file)
        if texts or content is not None:
            try:
                return client.predict(model, texts or content)
            except errors.BadRequest as error:
                if error.code != "too_large" or file is None:
                    raise _of_model(model, error) from None
                if target is not None and by_job.answered(ctx, model, target):
                    return None
        folder = _downloaded(client, model)
    try:
        return _here(folder, file, texts, content)
    except errors.BadRequest as error:
        raise _of_model(model, error) from None


def _of_model(model: str, error: errors.BadRequest) -> errors.BadRequest:
    """The error, with the name of the model if it is the model that refuses the input."""
    if error.code != INVALID:
        return error
    named = f"{asking.in_full(model)}: {error.message}"
    return errors.BadRequest(named, status=error.status, code=error.code, problems=error.problems)


def _or_last(model: str, error: errors.NotFound) -> errors.NotFound:
    """The error, with the question whether `last` was meant."""
    if not get_close_matches(model, [LAST]):
        return error
    return errors.NotFound(f"{error.message} Did you mean `{LAST}`, the newest job?", code=error.code)


def _sendable(file: str | None) -> bytes | None:
    """The content of a CSV that is not too large to be sent."""
    if file == "-":
        return sys.stdin.buffer.read()
    path = Path(file or "")
    if file is None or path.suffix.lower() != ".csv" or not path.is_file() or path.stat().st_size > SENT_BYTES:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise errors.BadRequest(f"Cannot read {path}: {error.strerror or error}.") from error


def _downloaded(client: Client, model: str) -> Path:
    """The folder of the model on this computer. A job's model never changes, so it is downloaded once."""
    job_id = model if model.startswith("job_") else client.models.version(asking.in_full(model)).job_id
    place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "loopline" / "models"
    folder = place / job_id
    if not _has_model(folder):
        part = place / f".{uuid4().hex}.part"
        try:
            with meter(f"Downloading {job_id}") as on_bytes:
                client.job(job_id).download(part, on_bytes=on_bytes)
            part.replace(folder)
        except OSError as error:
            if not _has_model(folder):  # no other command was faster
                raise errors.BadRequest(f"Cannot write to {folder}: {error.strerror or error}.") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder


def _here(folder: Path, file: str | None, texts: list[str] | None, content: bytes | None = None) -> Prediction:
    """The answer of the model in a folder."""
    from loopline.types import Prediction

    try:
        from loopline.prediction.errors import InputInvalid, ModelUnusable
        from loopline.prediction.loading import load
    except ModuleNotFoundError as error:
        raise errors.BadRequest(f'Predicting here needs {error.name}: pip install "loopline[predict]".') from None
    if file == "-" and content is None:
        content = sys.stdin.buffer.read()
    if file is not None and content is None and not Path(file).exists():
        raise errors.BadRequest(f"There is no file {file}.")
    try:
        model = load(folder)
        with tempfile.TemporaryDirectory(prefix="loopline-") as work:
            asked: Any = list(texts) if texts else Path(file or "")
            if content is not None:
                asked = Path(work) / "stdin.csv"
                asked.write_bytes(content)
            answer = model.predict(asked)
    except (InputInvalid, ModelUnusable) as error:
        raise errors.BadRequest(f"{error}", code=INVALID if isinstance(error, InputInvalid) else None) from error
    return Prediction.of({"object": "prediction", "model": {"folder": str(folder)}, **answer.to_dict()})


def _save(found: Prediction, path: Path) -> None:
    rows = found.rows
    try:
        if path.suffix.lower() == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet

            pa.parquet.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)
            return
        with path.open("w", newline="", encoding="utf-8") as file:
            if path.suffix.lower() == ".jsonl":
                import json

                file.writelines(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows)
                return
            import csv

            lines = csv.writer(file)
            lines.writerow(rows[0] if rows else ())
            lines.writerows([_word(value) for value in row.values()] for row in rows)
    except ModuleNotFoundError as error:
        raise errors.BadRequest(f'Parquet needs {error.name}: pip install "loopline[predict]".') from None
    except OSError as error:
        raise errors.BadRequest(f"Cannot write {path}: {error.strerror or error}.") from error


def _word(value: Any) -> Any:
    return ("false", "true")[value] if isinstance(value, bool) else value
