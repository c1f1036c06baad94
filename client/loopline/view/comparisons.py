"""Jobs side by side: a line for each, with the fields that differ and the metrics."""

from __future__ import annotations

from rich.text import Text

from loopline import measures, text
from loopline.comparing import Compared, Comparison
from loopline.view import table

NAMED = ("id", "name", "status")


def comparison(found: Comparison) -> table.Listing:
    """The metrics are those of one split, the main one first; where there is no room, only the first. A CSV has all."""
    fields = {path: name if name not in NAMED else path for path, name in table.short_names(found.fields).items()}
    by = found.sorted_by if found.sorted_by in found.metrics else measures.main_of(found.metrics)
    split = (by or "").partition("_")[0]
    metrics = [by, *(name for name in found.metrics if name.partition("_")[0] == split and name != by)] if by else []
    show_status = any(each.job.status != "succeeded" for each in found.jobs)
    rows = [_row(each, fields, metrics, show_status=show_status) for each in found.jobs]
    heads = [_head(name) for name in metrics]
    return table.Listing(
        rows, wrap=("name",), below=("id",), drop=("took", *reversed(heads[1:])), last=[*reversed(fields.values())]
    )


def _row(each: Compared, fields: dict[str, str], metrics: list[str], *, show_status: bool) -> dict[str, str | Text]:
    return {
        "name": table.name(each.job.name),
        **({"status": Text(each.job.status, table.STYLES.get(each.job.status, ""))} if show_status else {}),
        **{
            name: text.NOTHING if each.fields[path] is None else table.value(each.fields[path])
            for path, name in fields.items()
        },
        **{_head(name): text.number(each.metrics.get(name)) for name in metrics},
        "took": text.duration(each.job.seconds),
        "id": each.job.id,
    }


def _head(metric: str) -> str:
    return metric.replace("_", " ")
