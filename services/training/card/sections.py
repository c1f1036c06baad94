"""The sections of a model card, as lines of Markdown. Each one is empty if there is nothing to say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from services.training.card import names as files
from services.training.card.facts import Facts
from services.training.card.markdown import block, cell, name, number, sentence, table
from services.training.gate import drift
from services.training.measures import SPLITS

MOST_ROWS = 30
"""Of a table of classes, labels or targets."""
MOST_WRITTEN = 12
"""The most classes whose whole confusion matrix is a table too."""
MOST_CONFUSIONS = 10
MOST_FEATURES = 30
FEW = 100
"""Fewer samples than this say little."""
KINDS = {"classes": "class", "labels": "label", "targets": "target", "horizon": "step ahead"}
WHY = {"cancelled": "the job was cancelled", "time_limit": "the job reached its time limit"}

Lines = list[str]
Pictures = Mapping[str, bytes]


# ---- what it is


def head(facts: Facts) -> Lines:
    """The title, whether the model is complete, and one sentence on what it does."""
    found = [f"# {name(facts.spec['name'])}" if facts.spec["name"] else "# A model trained with Loopline", ""]
    if facts.model.get("complete") is False:
        why = facts.model["incomplete_because"]
        found += [
            f"> **This model is not complete**: {WHY.get(why, sentence(str(why)))} after "
            f"{_counted(facts.model['epochs'], 'epoch')} of {facts.spec['training']['epochs']:,}. It has the best "
            "weights until then, and only the numbers of the epoch that they are from.",
            "",
        ]
    return [*found, f"{_does(facts)} {_beats(facts)}".strip(), ""]


def _does(facts: Facts) -> str:
    model, width = facts.model, facts.model["output_size"]
    match model["task"]:
        case "series":
            found = model["forecast"]
            targets = _listed(found["targets"], name)
            ahead = f"forecasts the next {found['horizon']:,} of {targets}"
            what = f"reads {found['lookback']:,} steps of a series and {ahead}"
        case "values":
            what = "predicts a value" if width == 1 else f"predicts {width:,} values"
        case "tags":
            what = f"gives each step of a sequence one of {width:,} tags"
        case "text":
            what = "predicts the next character or word of a text"
        case "multilabel" if model["classes"] is None:
            what = f"answers {_counted(width, 'yes-or-no label')} for each sequence"
        case _:
            what = f"gives each sequence one of {len(model['classes']):,} classes"
    return f"This {facts.spec['architecture']['cell'].upper()} network {what}."


def _beats(facts: Facts) -> str:
    found = facts.model["baseline"]
    if not found["is_beaten"]:
        return sentence(found["message"] or "")
    metric, plain = found["metric"], found["metrics"][found["metric"]]
    gives = f", and {found['answer']} gives {number(plain)}" if plain is not None else ""
    return sentence(f"It beats its baseline: {_metric(metric)} is {number(facts.model['metrics'][metric])}{gives}.")


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
        (
            "made with",
            f"Loopline {made['loopline']}, PyTorch {made['torch']}, Python {made['python']}, {made['device']}",
        ),
    ]
    return [*table(("", ""), [(each, said) for each, said in rows if said], right=2)]


def _network(facts: Facts) -> str:
    a = facts.spec["architecture"]
    parts = [
        f"{a['cell'].upper()}{' (' + a['nonlinearity'] + ')' if a['nonlinearity'] else ''}",
        f"{_counted(a['num_layers'], 'layer')} of {_counted(a['hidden_size'], 'unit')}",
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
    names = [each["name"] for each in prepared.get("features") or []]
    static = [each["name"] for each in (prepared.get("static") or {}).get("features", [])]
    beside = f"; of a whole sequence: {_listed(static)}" if static else ""
    if not names or all(str(each).isdigit() for each in names):
        width = len(names) or facts.model["input_size"]
        return f"{_counted(width, 'number')} at each step{beside}"
    return f"{_counted(len(names), 'feature')}: {_listed(names)}{beside}"


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
        found += [f"{said} {_listed(columns)}"] if columns else []
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


# ---- how good it is


def quality(facts: Facts, drawn: Pictures) -> Lines:
    found = ["## How good it is", "", *_metrics(facts), *_folds(facts.model)]
    details = facts.details
    for kind in KINDS:
        if details.get(kind):
            found += [f"### Each {KINDS[kind]} ({facts.split} split)", "", *_each(details, kind)]
    found += _quantiles(facts) + _confusion(facts, drawn) + _calibration(facts, drawn)
    if files.FORECAST in drawn:
        found += ["### Forecasts", "", "Windows that are spread evenly over the split, not chosen.", ""]
        found += _picture("Forecasts beside the truth", files.FORECAST)
    if files.PREDICTIONS in drawn:
        found += ["### Predicted against actual", "", "Samples that are spread evenly over the split, not chosen.", ""]
        found += _picture("Predicted against actual", files.PREDICTIONS)
    if (sample := facts.model.get("sample")) is not None:
        found += ["### A text that it wrote", "", *block(sample["text"])]
    return found


def _metrics(facts: Facts) -> Lines:
    metrics, baseline = facts.model["metrics"], facts.model["baseline"]
    splits = [each for each in reversed(SPLITS) if any(key.startswith(f"{each}_") for key in metrics)]
    names = list(
        dict.fromkeys(
            key.removeprefix(f"{split}_") for split in splits for key in metrics if key.startswith(f"{split}_")
        )
    )
    heads = ["metric", *(head for split in splits for head in (_split_name(split), "baseline"))]
    rows = []
    for each in names:
        keys = [f"{split}_{each}" for split in splits]
        cells = [cell for key in keys for cell in (metrics.get(key), baseline["metrics"].get(key))]
        rows.append([each.replace("_", " "), *map(number, cells)])
    found = [*table(heads, rows), sentence(f"The baseline is {baseline['answer']}.")]
    for other, values in (baseline.get("others") or {}).items():
        found.append(
            sentence(f"With {other}, {_metric(baseline['metric'])} is {number(values.get(baseline['metric']))}.")
        )
    return [*found, ""]


def _folds(model: Mapping[str, Any]) -> Lines:
    if not model.get("folds"):
        return []
    mean, std = model["mean"], model["std"]
    rows = [(_metric(key), number(mean[key]), number(std.get(key))) for key in mean]
    said = f"Mean and standard deviation of {_counted(len(model['folds']), 'fold')}:"
    return [said, "", *table(("metric", "mean", "std"), rows)]


def _each(details: Mapping[str, Any], kind: str) -> Lines:
    """A row for each class, label, target or step; of many classes those with the lowest F1."""
    columns = details[kind]
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    kept, said = rows[:MOST_ROWS], []
    if len(rows) > MOST_ROWS and "f1" in columns:
        kept = sorted(rows, key=lambda row: -1.0 if row["f1"] is None else row["f1"])[:MOST_ROWS]
    if len(rows) > MOST_ROWS:
        said = [f"The {MOST_ROWS} {'with the lowest F1' if 'f1' in columns else 'first'} of {len(rows):,}:", ""]
    cells = [[_cell(column, value) for column, value in row.items()] for row in kept]
    cells += [_mean(each, details[each], columns) for each in ("macro", "weighted") if details.get(each)]
    return [*said, *table([KINDS[kind], *list(columns)[1:]], cells)]


def _mean(which: str, values: Mapping[str, Any], columns: Mapping[str, Any]) -> list[str]:
    """The last rows of a table of classes."""
    return [f"*{which} mean*", *("" if key == "support" else number(values.get(key)) for key in list(columns)[1:])]


def _cell(column: str, value: Any) -> str:
    if column == "name":
        return cell(value)
    return f"{value:,}" if column in ("support", "step") else number(value)


def _confusion(facts: Facts, drawn: Pictures) -> Lines:
    found = facts.details.get("confusion") or {}
    if "matrix" not in found:
        return []
    lines = ["### What is confused", ""]
    if files.CONFUSION in drawn:
        lines += _picture("Confusion matrix", files.CONFUSION)
    names = [cell(each) for each in facts.details["classes"]["name"]]
    if found["matrix"] is not None and len(names) <= MOST_WRITTEN:
        rows = [
            [each, *(f"{count:,}" for count in counts)] for each, counts in zip(names, found["matrix"], strict=True)
        ]
        return [*lines, "Rows are true classes, columns are answers.", "", *table(["", *names], rows)]
    if not found["largest"]:
        return []
    rows = [
        [cell(each["actual"]), cell(each["predicted"]), f"{each['count']:,}"]
        for each in found["largest"][:MOST_CONFUSIONS]
    ]
    return [*lines, "The most frequent confusions:", "", *table(("true class", "answer", "times"), rows, right=2)]


def _calibration(facts: Facts, drawn: Pictures) -> Lines:
    if files.CALIBRATION not in drawn:
        return []
    error = facts.details["calibration"]["error"]
    return [
        "### Calibration",
        "",
        f"The expected calibration error is {number(error)}: on average the probabilities differ by this much from the "
        "share of answers that come true. 0 is best.",
        "",
        *_picture("Calibration", files.CALIBRATION),
    ]


def _quantiles(facts: Facts) -> Lines:
    if not (found := facts.details.get("quantiles")):
        return []
    rows = [(f"{q:g}", number(share)) for q, share in zip(found["quantile"], found["share_below"], strict=True)]
    heads = ("quantile", "share of actual values not above it")
    return [f"### Each quantile ({facts.split} split)", "", *table(heads, rows, right=0)]


# ---- how it was trained


def training(facts: Facts, drawn: Pictures) -> Lines:
    t, model = facts.spec["training"], facts.model
    best = f" The weights are those of epoch {model['best_epoch']:,}." if model["best_epoch"] is not None else ""
    stopped = " Early stopping ended it." if model["stopped_early"] else ""
    how = (
        f"{_counted(model['epochs'], 'epoch')}, batches of {t['batch_size']:,}, loss {t['loss']['name']}, optimizer "
        f"{t['optimizer']['name']} with learning rate {t['optimizer']['lr']:g}, seed {t['seed']}."
    )
    found = ["## How it was trained", "", how.replace("_", " ") + stopped + best, ""]
    if files.LOSS in drawn:
        found += _picture("Loss by epoch", files.LOSS)
    if files.GRADIENTS in drawn:
        found += _picture("Gradient norm by epoch", files.GRADIENTS)
    return found


# ---- what to mind


def advice(facts: Facts) -> Lines:
    said = [
        *(sentence(each) for each in _advised(facts.model)),
        *_limits(facts),
        *_of_retraining(facts.model.get("retrain")),
    ]
    return ["## Advice and limits", "", *(f"- {each}" for each in said), ""] if said else []


def _advised(model: Mapping[str, Any]) -> Sequence[str]:
    found = model.get("advice") or ()
    return [found] if isinstance(found, str) else found


def _limits(facts: Facts) -> Iterator[str]:
    lengths, data, model = facts.model["data"].get("lengths"), facts.spec["data"], facts.model
    if lengths is not None:
        same = lengths["shortest"] == lengths["longest"]
        steps = f"{lengths['longest']:,}" if same else f"{lengths['shortest']:,} to {lengths['longest']:,}"
        yield f"It was trained on sequences of {steps} steps. On shorter or longer ones it may be worse."
    if data["missing"] == "refuse" and model["task"] != "text" and data.get("text") is None:
        yield "It has not learned what to do about missing values, so it refuses them."
    if "test" not in facts.samples and "validation" in facts.samples:
        yield "There is no test split. The validation split chose the best epoch, so its numbers are a little too good."
    for split in ("validation", "test"):
        if 0 < (count := facts.samples.get(split, FEW)) < FEW:
            yield f"The {split} split has only {_counted(count, 'sample')}, so its numbers are rough."
    never = [each for each, precision, support in _answered(facts) if precision is None and support]
    if never:
        yield f"In the {facts.split} split it never answers with {_listed(never, name)}."
    if (share := (model.get("unknown_share") or {}).get("train")) is not None:
        yield f"{share:.2%} of the training text was unknown to its vocabulary."
    if model.get("rollbacks"):
        yield f"Training diverged and was rolled back {_counted(model['rollbacks'], 'time')}."


def _answered(facts: Facts) -> Iterator[tuple[Any, float | None, int]]:
    found = facts.details.get("classes")
    if found:
        yield from zip(found["name"], found["precision"], found["support"], strict=True)


def _of_retraining(found: Mapping[str, Any] | None) -> Iterator[str]:
    if found and found.get("drift"):
        yield sentence(drift.sentence(found["drift"], found["drift"]["than"]))
    if found and found.get("gate"):
        yield sentence(found["gate"]["message"])


# ---- how to use it


def usage(facts: Facts) -> Lines:
    reads_text = (facts.model.get("preprocessing") or {}).get("text") is not None
    asked = '--text "a text"' if reads_text else "new.csv"
    given, said = _given(facts)
    found = [
        "## How to use it",
        "",
        'In Python, with `pip install "loopline[predict]"` and this folder at `model`:',
        "",
        "```python",
        "from loopline import load",
        f'answer = load("model").predict({given})',
        f"print({_shown(facts.model['task'])})",
        "```",
        "",
        *([said, ""] if said else []),
        f"On the command line: `loopline predict ./model {asked}`",
        "",
    ]
    if facts.has_onnx:
        found += [
            "With ONNX Runtime, without Loopline:",
            "",
            "```python",
            "import onnxruntime",
            'session = onnxruntime.InferenceSession("model/model.onnx")',
            "print([(each.name, each.type, each.shape) for each in session.get_inputs()])",
            "```",
            "",
        ]
    return [
        *found,
        "`docs/predict.md` and `docs/onnx.md` of Loopline say what to give a model and what it answers.",
        "",
    ]


def _given(facts: Facts) -> tuple[str, str]:
    """What to ask in Python, and a sentence on what that is."""
    prepared = facts.model.get("preprocessing") or {}
    static = prepared.get("static")
    if facts.model["data"].get("schema"):
        return '"new.csv"', "`new.csv` has the columns of the data set."
    beside = ", static=static" if static else ""
    said = f" `static` has {_counted(len(static['features']), 'value')} of each sequence." if static else ""
    if prepared.get("text") is not None:
        return f'["a text", "another one"]{beside}', said.strip()
    width = len(prepared.get("features") or ()) or facts.model["input_size"]
    return f"x{beside}", f"`x` is an array of numbers (steps, {width}) for one sequence, or a list of them.{said}"


def _shown(task: str) -> str:
    return {"values": "answer.values", "series": "answer.values", "text": "answer.likeliest(10)"}.get(
        task, "answer.labels"
    )


# ---- words


def _picture(said: str, file: str) -> Lines:
    return [f"![{said}]({file})", ""]


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _listed(names: Sequence[Any], shown: Callable[[object], str] = cell) -> str:
    found = ", ".join(shown(each) for each in names[:MOST_FEATURES])
    return f"{found} and {len(names) - MOST_FEATURES:,} more" if len(names) > MOST_FEATURES else found


def _metric(key: str) -> str:
    return key.replace("_", " ")


def _split_name(split: str) -> str:
    return "training" if split == "train" else split
