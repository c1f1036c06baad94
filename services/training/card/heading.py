"""What a model is: the first lines and the first table of a card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loopline.files import calendar

from services.training.card.facts import Facts
from services.training.card.markdown import cell, name, number, sentence, table
from services.training.card.wording import Lines, counted, listed, metric_name

WHY = {
    "cancelled": "the job was cancelled",
    "time_limit": "the job reached its time limit",
    "pruned": "its search stopped the job because other trials were better",
}


def head(facts: Facts) -> Lines:
    """The title, whether the model is complete, and one sentence on what it does."""
    found = [f"# {name(facts.spec['name'])}" if facts.spec["name"] else "# A model trained with Loopline", ""]
    if facts.model.get("complete") is False:
        why = facts.model["incomplete_because"]
        found += [
            f"> **This model is not complete**: {WHY.get(why, sentence(str(why)))} after "
            f"{counted(facts.model['epochs'], 'epoch')} of {facts.spec['training']['epochs']:,}. It has the best "
            "weights until then, and only the numbers of the epoch that they are from.",
            "",
        ]
    return [*found, " ".join(said for said in (_does(facts), _beats(facts), _selected(facts)) if said), ""]


def _does(facts: Facts) -> str:
    model, width = facts.model, facts.model["output_size"]
    match model["task"]:
        case "series":
            found = model["forecast"]
            targets = listed(found["targets"], name)
            ahead = f"forecasts the next {found['horizon']:,} of {targets}"
            what = f"reads {found['lookback']:,} steps of a series and {ahead}"
        case "values":
            what = "predicts a value" if width == 1 else f"predicts {width:,} values"
        case "tags":
            what = f"gives each step of a sequence one of {width:,} tags"
        case "text":
            what = "predicts the next character or word of a text"
        case "multilabel" if model["classes"] is None:
            what = f"answers {counted(width, 'yes-or-no label')} for each sequence"
        case _:
            what = f"gives each sequence one of {len(model['classes']):,} classes"
    return f"This {facts.spec['architecture']['cell'].upper()} network {what}."


def _beats(facts: Facts) -> str:
    found = facts.model["baseline"]
    if not found["is_beaten"]:
        return sentence(found["message"] or "")
    metric, plain = found["metric"], found["metrics"][found["metric"]]
    value, folds = facts.model["metrics"].get(metric), ""
    if value is None and facts.model.get("mean"):
        value, spread = facts.model["mean"].get(metric), number(facts.model["std"].get(metric))
        folds = f" ± {spread} over {counted(len(facts.model['folds']), 'fold')}"
    gives = f", and {found['answer']} gives {number(plain)}" if plain is not None else ""
    low, high = found.get("interval") or (None, None)
    sure = f" ({number(low)} to {number(high)} with a confidence of 95 %)" if low is not None else ""
    return sentence(f"It beats its baseline: {metric_name(metric)} is {number(value)}{folds}{sure}{gives}.")


def _selected(facts: Facts) -> str:
    """How the spec was selected, of the final model of a search."""
    if (found := facts.model.get("selection")) is None:
        return ""
    value = "" if found["value"] is None else f": {number(found['value'])}"
    which = f"the best of {counted(found['trials'], 'trial')} of a search"
    return sentence(f"Its settings are those of {which}, by {metric_name(found['metric'])}{value}.")


def about(facts: Facts) -> Lines:
    """What it is made of, and from what."""
    spec, data, made = facts.spec, facts.model["data"], facts.model["made_with"]
    rows = [
        ("task", str(spec["task"]["name"]).replace("_", " ")),
        ("network", _network(facts)),
        ("parameters", f"{facts.parameters:,}"),
        ("reads", _reads(facts)),
        ("data", _data(spec)),
        ("SHA-256 of the data", cell(data["sha256"]) if data["sha256"] else ""),
        ("samples", _samples(facts)),
        ("split", _split(spec["data"]["split"])),
        ("columns", _roles(data.get("schema") or {})),
        ("made", f"{facts.made_at:%Y-%m-%d %H:%M} UTC, in {_time(facts)} of training"),
        ("made with", _tools(made)),
    ]
    return [*table(("", ""), [(each, said) for each, said in rows if said], right=2)]


def _tools(made: Mapping[str, str]) -> str:
    named = {"Loopline": "loopline", "PyTorch": "torch", "Python": "python"}
    engine = made.get("engine", "torch")  # older models do not say it
    layers = [engine.replace("compiled", "compiled layers")] if engine != "torch" else []
    return ", ".join([*(f"{name} {made[key]}" for name, key in named.items()), made["device"], *layers])


def _network(facts: Facts) -> str:
    a = facts.spec["architecture"]
    parts = [
        f"{a['cell'].upper()}{' (' + a['nonlinearity'] + ')' if a['nonlinearity'] else ''}",
        f"{counted(a['num_layers'], 'layer')} of {counted(a['hidden_size'], 'unit')}",
        "in both directions" if a["bidirectional"] else "",
        f"pooling {a['pooling']}" if a["pooling"] != "none" else "",
        f"dropout {a['dropout']:g}" if a["dropout"] else "",
        "batch norm" if a["batch_norm"] else "",
    ]
    return ", ".join(part for part in parts if part)


def _reads(facts: Facts) -> str:
    prepared = facts.model.get("preprocessing") or {}
    if (text := prepared.get("text")) is not None:
        return f"texts by {text['by']}, {len(text['entries']):,} known"
    clock = (facts.model.get("forecast") or {}).get("calendar") or []
    added = {column.name for column in calendar.columns(clock)}
    names = [each["name"] for each in prepared.get("features") or [] if each["name"] not in added]
    static = [each["name"] for each in (prepared.get("static") or {}).get("features", [])]
    beside = f"; the calendar is added: {listed(clock)}" if clock else ""
    beside += f"; of a whole sequence: {listed(static)}" if static else ""
    if not names or all(str(each).isdigit() for each in names):
        width = len(names) or facts.model["input_size"]
        return f"{counted(width, 'number')} at each step{beside}"
    return f"{counted(len(names), 'feature')}: {listed(names)}{beside}"


def _data(spec: Mapping[str, Any]) -> str:
    if spec["data"]["synthetic"] is not None:
        return "synthetic"
    return cell(spec["data"]["dataset"]) if spec["data"]["dataset"] else ""


def _samples(facts: Facts) -> str:
    what = {"series": "windows", "text": "pieces of text"}.get(facts.model["task"], "sequences")
    return ", ".join(
        f"{count:,} {what} for {'training' if split == 'train' else split}" for split, count in facts.samples.items()
    )


def _split(split: Mapping[str, Any]) -> str:
    by = f" by {cell(split['by'])}" if split["by"] else ""
    folds = f", {split['folds']} folds" if split["folds"] else ""
    return f"{split['method']}{by}, seed {split['seed']}{folds}"


def _roles(schema: Mapping[str, Any]) -> str:
    words = {"group": "sequences by", "order": "ordered by", "target": "to predict", "known_future": "known ahead"}
    found = []
    for role, said in words.items():
        columns = schema.get(role) or []
        columns = [columns] if isinstance(columns, str) else list(columns)
        found += [f"{said} {listed(columns)}"] if columns else []
    return "; ".join(found)


def _time(facts: Facts) -> str:
    seconds = sum(float(epoch.get("seconds") or 0.0) for epoch in facts.epochs)
    return (
        f"{seconds:.1f} s"
        if seconds < 60
        else f"{seconds / 60:.1f} min"
        if seconds < 3600
        else f"{seconds / 3600:.1f} h"
    )
