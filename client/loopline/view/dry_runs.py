"""What `loopline submit --dry-run` prints."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from loopline import text
from loopline.types import Document, DryRun, SearchDryRun, below
from loopline.view import table

PARTS = (("train", "to train on"), ("validation", "for validation"), ("test", "for the test"))


def job(found: DryRun, data: str | None = None) -> RenderableType:
    """Everything about one job, and its spec as YAML below. `data` is the file that was not uploaded."""
    rows: list[tuple[str, str | Text]] = [("job", found.name or text.NOTHING)]
    dataset = found.dataset or {}
    if data is not None:
        rows.append(("data", f"{data}, not uploaded; the service tells more once it has the file"))
    elif dataset:
        rows.append(("data set", f"{dataset.get('name')} ({dataset.get('id')})"))
    is_open = below(found.spec, "architecture").get("cell") is None
    rows.append(("network", "chosen when the data is there" if is_open else _network(found)))
    if found.samples is not None:
        parts = (f"{found.samples.get(part, 0):,} {name}" for part, name in PARTS if found.samples.get(part))
        rows.append(("samples", ", ".join(parts)))
    if not is_open:
        rows.append(("training", _training(found)))
    if found.memory_bytes is not None:
        rows.append(("memory", f"at least {text.size(found.memory_bytes)}"))
    rows.append(("time", found.message))
    if found.cheaper:
        rows.append(("", found.cheaper))
    rows += [("" if at else "chosen", _chosen(each)) for at, each in enumerate(found.chosen)]
    rows += table.warnings(found.warnings)
    return Group(table.pairs(rows), Text("\nspec", "dim"), table.spec(found.spec))


def values(chosen: Iterable[Document]) -> str:
    """The fields that were chosen for the data, with their values: `architecture.cell lstm, data.patch 4`"""
    return text.one_line(", ".join(f"{each.get('field')} {_value(each)}" for each in chosen))


def _chosen(each: Document) -> str:
    """One field that was chosen, and why."""
    return f"{each.get('field')}: {_value(each)}, because {each.get('why')}"


def _value(each: Document) -> str:
    value = each.get("value")
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def search(found: SearchDryRun) -> RenderableType:
    """Everything about a search, and a trial with the values of the spec below."""
    many = (
        "unbounded, or more than 10,000 combinations"
        if found.combinations is None
        else text.count(found.combinations, "combination")
    )
    limit = "" if found.minutes is None else f", within {text.duration(60.0 * found.minutes)}"
    at_once = f", {found.parallel} at once" if found.parallel > 1 else ""
    rows: list[tuple[str, str | Text]] = [
        ("search", found.name or text.NOTHING),
        ("trials", f"at most {found.trials:,}{at_once}{limit}, by {found.metric}"),
        ("time", found.message),
        ("space", many),
        *(("", f"{path}: {json.dumps(domain, ensure_ascii=False)}") for path, domain in found.space.items()),
    ]
    head = Text("\na trial with the values of the spec", "dim")
    return Group(table.pairs(rows), head, job(found.trial))


def jobs(found: Sequence[DryRun]) -> RenderableType:
    """A batch: a row for each job, and each warning once."""
    rows = [
        {
            "job": each.name or text.NOTHING,
            "parameters": text.NOTHING if each.parameters is None else f"{each.parameters:,}",
            "steps": text.NOTHING if each.steps is None else f"{each.steps:,}",
            "memory": text.size(each.memory_bytes),
            "an epoch": _about(each, "epoch_seconds"),
            "at most": _about(each, "seconds"),
        }
        for each in found
    ]
    said = dict.fromkeys(sentence for each in found for sentence in (*each.warnings, each.cheaper) if sentence)
    return Group(table.Listing(rows, wrap=("job",)), table.pairs(table.warnings([*said])))


def _about(found: DryRun, name: str) -> str:
    seconds = found.estimate.get(name)
    return text.duration(seconds) if isinstance(seconds, int | float) else text.NOTHING


def _network(found: DryRun) -> str:
    a = below(found.spec, "architecture")
    layers = text.count(int(a.get("num_layers", 1)), "layer")
    both = ", both directions" if a.get("bidirectional") else ""
    parameters = "" if found.parameters is None else f": {found.parameters:,} parameters"
    return f"{a.get('cell')}, {layers} of {a.get('hidden_size')} units{both}{parameters}"


def _training(found: DryRun) -> str:
    training = below(found.spec, "training")
    optimizer = below(training, "optimizer")
    epochs = text.count(int(training.get("epochs", 1)), "epoch")
    steps = "" if found.steps_per_epoch is None else f" of {text.count(found.steps_per_epoch, 'step')}"
    total = "" if found.steps is None else f", {found.steps:,} in all"
    loss = f", {below(training, 'loss').get('name')}" if training.get("loss") else ""
    return f"{epochs}{steps}{total}; {optimizer.get('name')} with a learning rate of {optimizer.get('lr'):g}{loss}"
