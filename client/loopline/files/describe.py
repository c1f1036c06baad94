"""An inspection as lines of plain text, for people."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from loopline.files.inference import Inferred, Reason
from loopline.files.inspection import Inspection
from loopline.files.report import Bin, Report

WIDTH = 80
_INDENT = 16
_BAR = 30
_MOST_BINS = 10
_MOST_CLASSES = 12
_MOST_UNUSED = 12
_FORMATS = {
    **{"csv": "CSV", "tsv": "TSV", "parquet": "Parquet", "jsonl": "JSONL", "ts": ".ts", "text": "plain text"},
    **{"folder": "a folder of files", "npy": ".npy", "frame": "a data frame"},
}
_TARGETS = {
    "classes": "one class for each sequence",
    "tags": "one class for each step",
    "multilabel": "several yes-or-no labels for each sequence",
    "values": "one value for each sequence",
    "step_values": "one value for each step",
}
_OF_TEXTS = {"classes": "one class for each text", "values": "one value for each text"}
_ALWAYS = ("layout", "group", "order", "features", "target")
"""Fields that are shown even where they have no value."""


def describe(inspection: Inspection, width: int = WIDTH) -> list[str]:
    """The lines, none wider than `width` except for long names."""
    found = list(_of_file(inspection, width))
    if inspection.inferred:
        found += ["", "What the columns are"]
        found += _of_inference(inspection.inferred, width)
    if inspection.report:
        found += ["", "What is in it"]
        found += _of_report(inspection.report, is_text=_is_text(inspection), width=width)
        found += _of_remarks(inspection.report, width)
    if inspection.problems:
        found += ["", "Problems"]
        found += [line for problem in inspection.problems for line in _item(str(problem), width)]
    found += ["", *textwrap.wrap(_end(inspection), width)]
    return found


def _is_text(inspection: Inspection) -> bool:
    return inspection.inferred is not None and inspection.inferred.schema.layout == "text"


def _of_file(inspection: Inspection, width: int) -> Iterator[str]:
    table = inspection.table
    if table is None:
        yield inspection.name
        return
    counts = f"{_counted(table.data.num_rows, 'row')}, {_counted(table.data.num_columns, 'column')}"
    yield f"{inspection.name}: {_FORMATS[table.format]}, {counts}"
    if inspection.report is None:  # otherwise they are among its remarks
        for note in table.notes:
            yield from _item(note, width)


def _of_inference(inferred: Inferred, width: int) -> Iterator[str]:
    unused = 0
    for reason in inferred.reasons:
        if reason.field == "unused":
            unused += 1
            if unused > _MOST_UNUSED:
                continue
        elif reason.value == "none" and reason.field not in _ALWAYS:
            continue
        yield from _of_reason(reason, width)
    if unused > _MOST_UNUSED:
        yield from _field("", f"and {unused - _MOST_UNUSED:,} more columns are not used", width)


def _of_reason(reason: Reason, width: int) -> Iterator[str]:
    yield from _field("not used" if reason.field == "unused" else reason.field, reason.value, width)
    why = "given" if reason.sure == "given" else f"{reason.sure}: {reason.why}"
    yield from _field("", why, width)


def _of_report(report: Report, *, is_text: bool, width: int) -> Iterator[str]:
    if is_text:
        yield from _field("texts", f"{report.sequences:,}", width)
    else:
        lengths = f"{report.min_length:,} to {report.max_length:,} steps"
        if report.min_length == report.max_length:
            lengths = _counted(report.min_length, "step")
        yield from _field("sequences", f"{report.sequences:,} of {lengths}, {report.steps:,} steps in all", width)
        yield from _field("features", f"{len(report.features):,}", width)
        yield from _histogram(report, width)
    if report.targets:
        means = (_OF_TEXTS if is_text else {}).get(report.targets, _TARGETS[report.targets])
        yield from _field("target", f"{_listed(report.target_names)}: {means}", width)
    if report.classes:
        shown = [f"{label} ({count:,})" for label, count in report.classes[:_MOST_CLASSES]]
        more = len(report.classes) - len(shown)
        words = f"{len(report.classes):,}: {', '.join(shown)}{f' and {more:,} more' if more else ''}"
        yield from _field("classes", words, width)
    if report.split:
        yield from _field("split", ", ".join(f"{name} {count:,}" for name, count in report.split), width)
    if report.first_time:
        every = f", usually {report.usual_step} apart" if report.usual_step else ""
        yield from _field("times", f"{report.first_time} to {report.last_time}{every}", width)
    if names := report.calendar:
        yield from _field("calendar", f"a forecast also reads the {' and the '.join(names)}", width)
    if report.missing:
        yield from _field("missing", ", ".join(f"{name} {count:,}" for name, count in report.missing[:8]), width)


def _histogram(report: Report, width: int) -> Iterator[str]:
    bins = report.lengths
    if len(bins) < 2:
        return
    if len(bins) > _MOST_BINS:
        pairs = [bins[place : place + 2] for place in range(0, len(bins), 2)]
        bins = tuple(Bin(pair[0].low, pair[-1].high, sum(bin_.count for bin_ in pair)) for pair in pairs)
    yield from _field("lengths", f"median {report.median_length:,.10g}", width)
    most = max(bin_.count for bin_ in bins)
    names = [f"{bin_.low:,}" if bin_.low == bin_.high else f"{bin_.low:,} to {bin_.high:,}" for bin_ in bins]
    widest, digits = max(map(len, names)), len(f"{most:,}")
    for name, bin_ in zip(names, bins, strict=True):
        bar = "#" * -(-bin_.count * _BAR // most)
        yield f"{'':{_INDENT}}{name:>{widest}}  {bin_.count:>{digits},}  {bar}".rstrip()


def _of_remarks(report: Report, width: int) -> Iterator[str]:
    for severity, title in (("problem", "Problems"), ("warning", "Warnings"), ("note", "Notes")):
        found = [remark for remark in report.remarks if remark.severity == severity]
        if found:
            yield from ("", title)
            for remark in found:
                yield from _item(str(remark), width)


def _end(inspection: Inspection) -> str:
    if not inspection.is_trainable:
        return "It cannot be trained on as it is."
    inferred, report = inspection.inferred, inspection.report
    warned = report is not None and any(remark.severity == "warning" for remark in report.remarks)
    first = " But read the warnings first." if warned else ""
    if inferred and any(reason.sure == "guess" and reason.value != "none" for reason in inferred.reasons):
        return f"It can be trained on.{first} Some columns are guessed: check them, and name those that are wrong."
    return f"It can be trained on.{first}"


def _field(name: str, words: str, width: int) -> list[str]:
    return textwrap.wrap(
        words,
        width,
        initial_indent=f"  {name:{_INDENT - 2}}",
        subsequent_indent=" " * _INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _item(words: str, width: int) -> list[str]:
    return textwrap.wrap(
        words, width, initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:6])} and {len(names) - 6:,} more"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
