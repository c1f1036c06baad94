"""What `loopline submit` finds out before it uploads and submits, and `loopline submit --dry-run`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from http import HTTPStatus
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopline import errors
from loopline import spec as specs
from loopline.cli import batches, datasets
from loopline.cli.shared import print_json
from loopline.view.notes import note, say

if TYPE_CHECKING:
    from loopline.client import Client
    from loopline.files.inspection import Inspection
    from loopline.job import Job
    from loopline.spec import SpecFile
    from loopline.types import DryRun

LARGE_BYTES = 8 << 20
"""The service finds out about a smaller file as soon as this computer would."""
FIRST_EVENTS = 5
"""Of a job: what was chosen for its data is among them."""


def tried(
    client: Client, files: Sequence[str], read: Sequence[SpecFile], name: str | None, *, is_batch: bool
) -> Sequence[DryRun]:
    """A dry run of each job. Raises BadRequest with every problem, each with the name of its file."""
    try:
        if is_batch:
            return client.batches.dry_run(read[0] if len(read) == 1 else read, name=name)
        return [client.jobs.dry_run(read[0])]
    except errors.BadRequest as error:
        in_file = batches.of_file if is_batch else _of_one
        raise errors.BadRequest(error.message, problems=[in_file(each, files) for each in error.problems]) from None


def check_before_upload(
    client: Client, files: Sequence[str], read: Sequence[SpecFile], try_: Callable[[], object]
) -> None:
    """If files are to be uploaded, finds the mistakes of the specs first, and with them those of the files.

    `try_` is a dry run. A file is read on this computer if a spec has mistakes, so that all are told together; or if it
    is large. Raises BadRequest.
    """
    if not any(map(specs.local_files, read)):
        return
    problems: list[errors.Problem] = []
    try:
        try_()
    except errors.BadRequest as error:
        if not error.problems:
            raise
        problems += error.problems
    except errors.ServiceError as error:
        if error.status != HTTPStatus.METHOD_NOT_ALLOWED:  # that is an older service, which says it after the upload
            raise
    is_wrong = bool(problems)
    for _ in _looked_at(client, files, read, problems, lambda path: is_wrong or _bytes(path) > LARGE_BYTES):
        pass
    if problems:
        raise specs.refused(problems)


def show(
    client: Client,
    files: Sequence[str],
    read: Sequence[SpecFile],
    try_: Callable[[], Sequence[DryRun]],
    *,
    as_json: bool,
) -> None:
    """Prints the dry run of one job, or of a batch, and how each file that it names is understood.

    Raises BadRequest with every problem, those of the files too.
    """
    found: Sequence[DryRun] = ()
    problems: list[errors.Problem] = []
    try:
        found = try_()
    except errors.BadRequest as error:
        if not error.problems:
            raise
        problems += error.problems
    looked_at = dict(_looked_at(client, files, read, problems))
    if problems:
        raise specs.refused(problems)
    understood = [each for each in looked_at.values() if each is not None]
    if as_json:
        raw = [each.raw for each in found]
        more = {"files": [each.document() for each in understood]} if understood else {}
        return print_json({**raw[0], **more} if len(raw) == 1 else raw)
    from loopline.view import dry_runs as view
    from loopline.view import table

    data = str(next(iter(looked_at))) if looked_at else None
    table.console().print(view.job(found[0], data) if len(found) == 1 else view.jobs(found))
    for path, inspection in looked_at.items():
        say("\n".join(["", *_described(path, inspection)]))
    return note("Nothing was submitted.")


def _looked_at(
    client: Client,
    files: Sequence[str],
    read: Sequence[SpecFile],
    problems: list[errors.Problem],
    is_due: Callable[[Path], bool] = lambda path: True,
) -> Iterator[tuple[Path, Inspection | None]]:
    """Each file that is to be uploaded, with its inspection if it is due and can be made here. Adds its problems."""
    for file, spec in zip(files, read, strict=True):
        for pointer, path in specs.local_files(spec).items():
            if lost := specs.missing(f"{file} {pointer}", path):
                problems.append(lost)
            else:
                inspection = _inspected(client, spec, path) if is_due(path) else None
                if inspection is not None:
                    problems += _problems(inspection, f"{file} {pointer}")
                    problems += _unfit(inspection, spec, file)
                yield path, inspection


def _described(path: Path, inspection: Inspection | None) -> list[str]:
    if inspection is None:
        return [f"{path} was not looked at: the service checks it when it is uploaded."]
    from loopline.files.describe import describe

    return describe(inspection)


def _inspected(client: Client, spec: SpecFile, path: Path) -> Inspection | None:
    """How a file is understood; None if only the service can say that."""
    before = _columns_before(client, path)
    with suppress(errors.LooplineError):  # an .npz file; no library that reads files; a schema that is wrong itself
        given = spec.document(specs.SCHEMA) or before
        if given is None:
            return None
        found = datasets.inspected(path, given)
        from loopline.cli import local_data

        return local_data.for_spec(spec, found)
    return None


def _columns_before(client: Client, path: Path) -> dict[str, Any] | None:
    """The columns that a new version of the file's data set takes over; empty if there is no version, or it has none.
    None if the newest version is not ready, so that only the service knows which one counts."""
    try:
        newest = client.datasets.get(specs.dataset_name(path))
    except errors.NotFound:
        return {}
    return dict(newest.schema or {}) if newest.status == "ready" else None


def _unfit(found: Inspection, spec: SpecFile, file: str) -> list[errors.Problem]:
    from loopline.cli import local_data

    return [errors.Problem(f"{file} {each.pointer}", each.detail) for each in local_data.problems(spec, found)]


def _problems(found: Inspection, place: str) -> list[errors.Problem]:
    if found.is_trainable:
        return []
    said = [str(each) for each in found.problems]
    if found.report is not None:
        said += [str(each) for each in found.report.remarks if each.severity == "problem"]
    return [errors.Problem(place, sentence) for sentence in said]


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(each.stat().st_size for each in files if each.is_file())


def _of_one(problem: errors.Problem, files: Sequence[str]) -> errors.Problem:
    return errors.Problem(f"{files[0]} {problem.pointer}".rstrip(), problem.detail)


def tell_chosen(job: Job, why: str) -> None:
    """Says what was chosen for the data of a job whose spec names no network. `why` is the command that tells why."""
    from loopline.view import dry_runs as view

    with suppress(errors.LooplineError):
        told = next((event for event in islice(job.events(), FIRST_EVENTS) if event.type == "chosen"), None)
        if told is not None:
            note(f"Chosen for this data: {view.values(told.data.get('fields') or ())}. The reasons: {why}")


def tell_time(client: Client, job: Job) -> None:
    """Says how long a job that was submitted will take, if that is known, and what would make it faster."""
    with suppress(errors.LooplineError):
        found = client.jobs.dry_run(job.spec)
        if found.is_estimated:
            note(found.message)
        if found.cheaper:
            note(found.cheaper)
