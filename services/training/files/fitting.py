"""Reads a file for a model: as the data of the model was read, and without anything to predict."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loopline.files import ending_of
from loopline.files.problems import FileInvalid
from loopline.prediction.errors import InputInvalid, ModelUnusable

from services.errors import DatasetInvalid, Problem


@contextmanager
def refusals() -> Iterator[None]:
    """What a model refuses, in the words of the service. Raises DatasetInvalid."""
    try:
        yield
    except (InputInvalid, FileInvalid) as error:
        problems = [Problem("/data/dataset", str(each)) for each in error.problems]
        raise DatasetInvalid(f"The model cannot answer this data set: {error}", problems) from error


def named(path: Path, name: str | None, work: Path) -> Path:
    """A link in `work` to the file, with the ending of its name, which tells formats apart whose contents look alike.
    It has no ending if the name has none that is known. `name` may be the ending alone."""
    link = work / f"named{ending_of('.' + (name or ''))}"
    link.unlink(missing_ok=True)  # of a check that has crashed
    link.symlink_to(path.absolute())
    return link


def check(model: Path, path: Path) -> tuple[str, ...]:
    """What makes the answers of a model to a file less sure. Of the model's folder only its model.json is read.

    Raises DatasetInvalid if it cannot answer.
    """
    from loopline.prediction import document, inputs, tables

    try:
        known = document.read(model)
    except ModelUnusable as error:
        raise DatasetInvalid(f"The model cannot be used: {error}", [Problem("/model", str(error))]) from error
    with refusals():
        return inputs.check(known, tables.of_file(known, path)).warnings
