"""What the commands about models print."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.console import Group
from rich.text import Text

from loopline import measures, text
from loopline.models import PRODUCTION
from loopline.types import Document, Model, ModelMove, ModelVersion
from loopline.view import jobs, table


def print_models(found: Iterable[tuple[Model, ModelVersion | None]]) -> None:
    """Each model, and the version that is in production where that is not the latest."""
    rows: list[dict[str, str | Text]] = [
        {
            "model": model.name,
            "production": _production(model, promoted),
            "latest": f"{model.latest.version}: {metric(model.latest.metrics)}",
            "other aliases": ", ".join(
                f"{alias}: {version}" for alias, version in model.aliases.items() if alias != PRODUCTION
            )
            or text.NOTHING,
            "registered": text.ago(model.latest.created_at),
        }
        for model, promoted in found
    ]
    table.console().print(
        table.Listing(rows, drop=("registered",), wrap=("model", "other aliases"), last=("other aliases",))
    )


def _production(model: Model, promoted: ModelVersion | None) -> Text:
    number = model.aliases.get(PRODUCTION)
    if number is None:
        return Text(text.NOTHING)
    version = model.latest if number == model.latest.version else promoted
    return Text(f"{number}: {metric(version.metrics) if version else text.NOTHING}", "green")


def print_versions(found: Iterable[ModelVersion]) -> None:
    rows: list[dict[str, str | Text]] = [
        {
            "version": version.reference,
            "aliases": Text(", ".join(version.aliases) or text.NOTHING, "green" if version.aliases else ""),
            "metric": metric(version.metrics),
            "data": version.dataset_reference or "synthetic",
            "registered": text.ago(version.created_at),
            "job": version.job_id,
            "note": version.note or text.NOTHING,
        }
        for version in found
    ]
    table.console().print(
        table.Listing(rows, drop=("registered",), wrap=("aliases",), below=("note", "data"), last=("job",))
    )


def print_version(shown: ModelVersion) -> None:
    data = f"{shown.dataset_reference} (sha256 {shown.dataset.get('sha256')})" if shown.dataset else "synthetic"
    rows: list[tuple[str, str | Text]] = [
        ("version", shown.reference),
        ("aliases", ", ".join(shown.aliases) or text.NOTHING),
        ("job", shown.job_id),
        ("data set", data),
        ("metrics", jobs.metrics(shown.metrics)),
        ("note", shown.note or text.NOTHING),
        ("registered", text.when(shown.created_at)),
        ("by", shown.created_by or text.NOTHING),
        *((str(file.get("name")), _file(file)) for file in shown.files),
    ]
    table.console().print(Group(table.pairs(rows), Text("\nspec", "dim"), table.spec(shown.spec)))


def print_history(found: Iterable[ModelMove]) -> None:
    rows: list[dict[str, str | Text]] = [
        {
            "when": text.when(move.at),
            "alias": move.alias,
            "what": move.action,
            "from": str(move.from_version or text.NOTHING),
            "to": str(move.to_version or text.NOTHING),
            "by": move.by or text.NOTHING,
            "reason": move.reason or text.NOTHING,
        }
        for move in found
    ]
    table.console().print(table.Listing(rows, wrap=("alias",), below=("reason", "by")))


def _file(found: Document) -> str:
    size = found.get("bytes")
    return f"{text.size(size) if isinstance(size, int) else text.NOTHING}, sha256 {found.get('sha256')}"


def metric(found: Mapping[str, float | None]) -> str:
    """The one that says most: of the test split before that of validation, a measure before a loss."""
    for name in (f"{split}_{kind}" for kind in measures.HIGHER_IS_BETTER for split in ("test", "validation", "train")):
        if found.get(name) is not None:
            return f"{jobs.short(name)} {text.number(found[name])}"
    return text.NOTHING
