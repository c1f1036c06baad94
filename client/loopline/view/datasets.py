"""What the commands about data sets print."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from loopline import text
from loopline.types import Dataset, InboxFile
from loopline.view import table

STATUS = {"raw": Text("raw", "dim"), "validating": Text("being checked", "yellow"), "rejected": Text("rejected", "red")}
"""Of a data set that is not ready."""
MOST_COLUMNS = 12
"""Names that a row shows."""


def datasets(found: Iterable[Dataset]) -> table.Listing:
    rows = [
        {
            "data set": dataset.reference,
            "sequences": _if_ready(dataset, str(dataset.samples)),
            "features": _if_ready(dataset, str(dataset.features)),
            "length": _if_ready(dataset, _lengths(dataset)),
            "target": STATUS.get(dataset.status) or text.targets(dataset),
            "size": text.size(dataset.bytes),
            "created": text.ago(dataset.created_at),
            "id": dataset.id,
        }
        for dataset in found
    ]
    return table.Listing(rows, drop=("created", "size"), wrap=("data set",), last=("id",))


def inbox(found: Iterable[InboxFile]) -> table.Listing:
    rows = [
        {
            "file": text.printable(file.id),
            "when": text.ago(file.at),
            "became": _with_warnings(file) or file.dataset_id or _no_dataset(file.error or ""),
        }
        for file in found
    ]
    return table.Listing(rows, wrap=("file", "became"), last=("became",))


def _with_warnings(file: InboxFile) -> str | None:
    return f"{file.dataset} ({text.count(len(file.warnings), 'warning')})" if file.warnings else file.dataset


def _no_dataset(error: str) -> Text:
    return Text(f"no data set: {text.printable(' '.join(error.split()))}", "red")


def dataset(shown: Dataset) -> RenderableType:
    if shown.status in STATUS:
        return table.pairs(_unready(shown))
    rows: list[tuple[str, str | Text]] = [
        ("data set", shown.reference),
        ("id", shown.id),
        ("sequences", str(shown.samples)),
        ("features", str(shown.features)),
        ("length", f"{_lengths(shown)} {text.steps_of(shown)}s"),
        ("target", text.targets(shown)),
    ]
    if shown.given_split:
        rows.append(("split", ", ".join(f"{name}: {count}" for name, count in shown.given_split.items())))
    rows += _schema(shown)
    rows += table.warnings(shown.warnings)
    rows += [("size", text.size(shown.bytes)), ("sha256", shown.sha256), ("created", text.when(shown.created_at))]
    if not shown.classes:
        return table.pairs(rows)
    counts = [str(count) for count in shown.class_counts or []] or [text.NOTHING] * len(shown.classes)
    labelled = zip(shown.classes, counts, strict=False)
    what, where = ("tag", "steps") if shown.target == "tags" else ("class", "sequences")
    return Group(table.pairs(rows), "", table.Listing([{what: str(label), where: count} for label, count in labelled]))


def _unready(shown: Dataset) -> Iterator[tuple[str, str | Text]]:
    yield from (("data set", shown.reference), ("id", shown.id), ("status", STATUS[shown.status]))
    if shown.message:
        yield "message", text.one_line(shown.message)
    for problem in shown.problems:
        yield "problem", Text(text.one_line(str(problem.get("detail") or "")), "red")
    yield from (("size", text.size(shown.bytes)), ("created", text.when(shown.created_at)))


def _if_ready(shown: Dataset, words: str) -> str:
    return text.NOTHING if shown.status in STATUS else words


def _schema(shown: Dataset) -> Iterator[tuple[str, str]]:
    """What each column of the file is."""
    if shown.schema is None:
        return
    yield "format", f"{shown.format}, {shown.schema.get('layout', '')}"
    for field, value in shown.schema.items():
        if value and field != "layout":
            names = [value] if isinstance(value, str) else [str(name) for name in value]
            more = f" and {len(names) - MOST_COLUMNS:,} more" if len(names) > MOST_COLUMNS else ""
            yield field.replace("_", " "), text.printable(", ".join(names[:MOST_COLUMNS])) + more


def columns(shown: Dataset, named: Collection[str] = ()) -> str:
    """`Columns: target state (a guess: name it if it is another one); features acc_x, acc_y; group walk.` Empty for an
    `.npz`. `named` are the fields of the schema that a person has given."""
    found = dict(_schema(shown))
    found.pop("format", None)
    if found.get("target") and "target" not in named:
        found["target"] += " (a guess: name it if it is another one)"
    first = [field for field in ("target", "features") if field in found]
    said = [f"{field} {found[field]}" for field in (*first, *(field for field in found if field not in first))]
    return f"Columns: {'; '.join(said)}." if said else ""


def _lengths(shown: Dataset) -> str:
    low, high = shown.min_length, shown.max_length
    return str(high) if low == high else f"{low} to {high}"
