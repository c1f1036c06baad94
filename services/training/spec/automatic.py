"""Chooses what a spec does not state, if it names no network, for its data. Imports no torch.

    is_open(document)              whether it names neither a preset nor a cell
    choices(document, summary)     what is chosen, and why
    filled(document, choices)      the document with these choices

What a document states is never changed. The completed spec is stored with the job, so a later change of these rules
changes no stored job. docs/defaults.md is the table of these rules; `benchmarks/auto.py` measures how good they are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from services.training.files.summary import DatasetSummary
from services.training.tasks import known

VALIDATION = 0.2
"""The share of the samples that is taken for validation if a document says nothing."""
STEPS = 100
"""A longest sequence of at least twice as many steps is patched to between so many and twice as many."""
FEW_SAMPLES = 100
"""With fewer samples, without those of the test, a validation part is too small, and folds are used."""
FOLDS = 4
SMOOTHING = 0.1
UPDATES = 600
"""The epochs are chosen for about so many updates."""
EPOCHS = (10, 300)
"""At least, and at most."""
BATCHES = (8, 64)
"""Samples of a batch, at least and at most."""
BATCHES_OF_EPOCH = 8
"""An epoch of a small data set has about so many batches."""
MANY_SAMPLES = 5000
"""Training samples, from which on the network is larger."""
MOST_DIFFERENCES = 64
"""With more features, their differences are not added."""
MOST_SPREAD = 1000
"""From this spread on (`DatasetSummary.spread`), each sequence is scaled by itself."""
OF_WHOLE_SEQUENCES = "values of whole sequences are missing, and they get the mean"
UNEQUAL = 3
"""The largest class has so many times the samples of the smallest, and classes are weighted."""


class Choice(NamedTuple):
    """One field that was chosen."""

    field: str
    """Its dotted path in the spec."""
    value: Any
    why: str
    """The reason, as the rest of a sentence that begins with the value."""


def is_open(document: Mapping[str, Any]) -> bool:
    """Whether a document names no network, so that all that it does not state is chosen."""
    architecture = document.get("architecture")
    if document.get("preset") is not None or not isinstance(document.get("data"), Mapping):
        return False
    return architecture is None or (isinstance(architecture, Mapping) and architecture.get("cell") is None)


def choices(document: Mapping[str, Any], summary: DatasetSummary) -> Sequence[Choice]:
    """What is chosen for the data of a document that names no network, without what the document states."""
    return [each for each in _all(document, summary) if not _states(document, each.field)]


def filled(document: Mapping[str, Any], chosen: Sequence[Choice]) -> dict[str, Any]:
    """The document with these choices."""
    found: dict[str, Any] = dict(document)
    for each in chosen:
        *above, last = each.field.split(".")
        place = found
        for key in above:
            place[key] = dict(place.get(key) or {})
            place = place[key]
        place[last] = each.value
    return found


def sentence(chosen: Sequence[Choice]) -> str:
    """A sentence for people that says what was chosen and why."""
    each = "; ".join(f"{one.field} {_word(one.value)}, because {one.why}" for one in chosen)
    return f"The spec names no network. Chosen for this data: {each}."


def _states(document: Mapping[str, Any], field: str) -> bool:
    """Whether a document has a value at this path, or above it one that is no mapping."""
    found: Any = document
    for key in field.split("."):
        if not isinstance(found, Mapping):
            return found is not None
        if key not in found:
            return False
        found = found[key]
    return field != "architecture.cell"


def _all(document: Mapping[str, Any], summary: DatasetSummary) -> Iterator[Choice]:
    task = _named(document.get("task"))
    if task is None and known.named(summary.target).of_series:
        if summary.series is None or not summary.series.targets:
            return  # tasks.py says what is missing
        yield Choice("task", "forecast", "the data set is a series, and names the column to predict")
        task = "forecast"
    elif task is None and summary.target == known.TEXT:
        yield Choice("task", "next_step", "the data set has texts without labels")
        task = "next_step"
    if task == "forecast":
        yield Choice("architecture.cell", "gru", "it forecasts as well as an lstm, with fewer parameters")
        series, inputs = summary.series, summary.inputs
        if series is not None and (series.gaps or series.absent or (inputs is not None and inputs.gaps)):
            yield Choice("data.missing", "forward", "values or rows are missing, and no later one may be known")
        elif _has_static_gaps(summary):
            yield Choice("data.missing", "forward", OF_WHOLE_SEQUENCES)
    elif task == "next_step":
        yield from _of_text_that_goes_on()
    else:
        yield from _of_sequences(document, summary)


def _of_text_that_goes_on() -> Iterator[Choice]:
    yield Choice("architecture.cell", "gru", "it learns texts as well as an lstm, with fewer parameters")
    yield Choice("training.batch_size", 32, "more updates in an epoch")
    yield Choice("training.optimizer", {"name": "adam", "lr": 5e-3}, "it learns in fewer epochs than with 0.001")
    yield Choice("training.early_stopping", {"patience": 3}, "the best epoch is kept")


def _of_sequences(document: Mapping[str, Any], summary: DatasetSummary) -> Iterator[Choice]:
    task = known.named(summary.target)
    samples, folds = _samples(document, summary, "test", "validation"), _wants_folds(document, summary)
    if folds:
        few = _samples(document, summary, "test")
        samples = max(1, round(few * (1 - 1 / FOLDS)))
    yield Choice(
        "architecture.cell", "lstm", "it is as accurate as a gru, and PyTorch trains it several times as fast on a CPU"
    )
    yield Choice("architecture.forget_gate_bias", 1.0, "it remembers over more steps from the start of the training")
    yield from _of_size(samples)
    yield Choice("architecture.num_layers", 2, "the second layer sees patterns that the first one has found")
    if _section(document, "training").get("bptt_steps") is None:
        yield Choice("architecture.bidirectional", True, "the model sees the whole sequence before it answers")
    if not task.by_step:
        yield from _of_pooling(summary)
    yield from _of_training(document, summary, samples, keeps_last=folds)
    if folds:
        yield Choice("data.split.folds", FOLDS, f"{few:,} samples are too few for a validation part")
    yield from _of_gaps(document, summary)
    if summary.texts is None:
        yield from _of_numbers(document, summary)


def _of_size(samples: int) -> Iterator[Choice]:
    if samples >= MANY_SAMPLES:
        yield Choice("architecture.hidden_size", 128, f"{samples:,} training samples can teach so many units")
    else:
        yield Choice("architecture.hidden_size", 64, f"{samples:,} training samples are few")


def _of_pooling(summary: DatasetSummary) -> Iterator[Choice]:
    if summary.target == "values":
        yield Choice("architecture.pooling", "mean", "every step counts alike for a value")
    else:
        yield Choice("architecture.pooling", "max", "what distinguishes classes may be anywhere in a sequence")


def _of_training(
    document: Mapping[str, Any], summary: DatasetSummary, samples: int, *, keeps_last: bool
) -> Iterator[Choice]:
    said = _section(document, "training")
    batch = _number(said.get("batch_size")) or _batch_size(samples)
    yield Choice(
        "training.batch_size", batch, f"{samples:,} training samples make {_several(samples, batch)} of this size"
    )
    per_epoch = max(1, math.ceil(samples / batch))
    epochs = _number(said.get("epochs")) or min(max(round(UPDATES / per_epoch), EPOCHS[0]), EPOCHS[1])
    yield Choice(
        "training.epochs", epochs, f"this makes {epochs * per_epoch:,} updates, unless the training stops early"
    )
    yield Choice("training.optimizer", {"name": "adamw", "lr": 3e-3}, "it is robust, and the rate suits small networks")
    yield Choice(
        "training.lr_schedule", {"name": "cosine"}, "the rate falls to zero by the last epoch, without a step to choose"
    )
    if keeps_last and said.get("early_stopping") is None:
        yield Choice("training.keep", "last", "too few samples are left to say which epoch is the best")
    elif said.get("keep") != "last":
        patience = max(10, epochs // 3)
        why = "a third of the epochs without progress is enough to tell"
        yield Choice("training.early_stopping", {"patience": patience}, why)
    if summary.target == "classes" and _named(document.get("task")) != "regression":
        yield _loss(summary.class_counts or [1])


def _loss(counts: Sequence[int]) -> Choice:
    loss = {"name": "cross_entropy", "label_smoothing": SMOOTHING}
    why = "a network that is not trained to be certain of each sample overfits less"
    if max(counts) < UNEQUAL * min(counts):
        return Choice("training.loss", loss, why)
    why += f"; and the classes have {min(counts):,} to {max(counts):,} samples"
    return Choice("training.loss", {**loss, "class_weights": "balanced"}, why)


def _of_gaps(document: Mapping[str, Any], summary: DatasetSummary) -> Iterator[Choice]:
    in_steps = summary.inputs is not None and summary.inputs.gaps > 0
    if document["data"].get("missing") is not None or not (in_steps or _has_static_gaps(summary)):
        return
    why = "values are missing, and the one before is known when steps arrive" if in_steps else OF_WHOLE_SEQUENCES
    yield Choice("data.missing", "forward", why)
    yield Choice("data.missing_mask", True, "a gap can mean something itself")


def _has_static_gaps(summary: DatasetSummary) -> bool:
    return summary.static is not None and summary.static.gaps > 0


def _of_numbers(document: Mapping[str, Any], summary: DatasetSummary) -> Iterator[Choice]:
    numbers = summary.features if summary.inputs is None else summary.inputs.numbers
    data = document["data"]
    if numbers or (summary.static is not None and summary.static.numbers):
        yield Choice("data.scaling", "standard", "a network learns badly from numbers far from the range 0 to 1")
    if numbers and data.get("scaling") != "none" and (summary.spread or 0) >= MOST_SPREAD:
        why = (
            f"some sequences vary {summary.spread:,.0f} times as much as others, and one scale would flatten the others"
        )
        yield Choice("data.scaling_over", "per_sequence", why)
    if 0 < numbers <= MOST_DIFFERENCES and summary.max_length > 1:
        yield Choice("data.differences", "append", "how a number changes often says more than its value")
    if not known.named(summary.target).by_step and (patch := _patch(data, summary)) > 1:
        why = f"sequences of up to {summary.max_length:,} steps become {math.ceil(summary.max_length / patch):,}"
        yield Choice("data.patch", patch, why)


def _wants_folds(document: Mapping[str, Any], summary: DatasetSummary) -> bool:
    """Whether there are too few samples for a validation part, and the document states nothing that excludes folds."""
    split = document["data"].get("split")
    said = split if isinstance(split, Mapping) else {}
    if document.get("retrain") is not None or not {"validation", "folds", "method"}.isdisjoint(said):
        return False
    if (summary.given_split or {}).get("validation") or min(summary.class_counts or [FOLDS]) < FOLDS:
        return False
    return FOLDS <= _samples(document, summary, "test") < FEW_SAMPLES


def _samples(document: Mapping[str, Any], summary: DatasetSummary, *without: str) -> int:
    """About how many samples are left without these parts."""
    split = document["data"].get("split")
    said = split if isinstance(split, Mapping) else {}
    marked, left = summary.given_split or {}, summary.samples
    share = 0.0
    for name in without:
        wanted = said.get(name)
        if isinstance(wanted, int | float):
            share += wanted
        elif marked.get(name):
            left -= marked[name]
        elif name == "validation" and not said.get("folds"):
            share += VALIDATION
    return max(1, round(left * (1 - min(share, 0.99))))


def _batch_size(samples: int) -> int:
    least, most = BATCHES
    power = math.exp2(round(math.log2(max(1, samples / BATCHES_OF_EPOCH))))
    return min(most, max(least, int(power)))


def _patch(data: Mapping[str, Any], summary: DatasetSummary) -> int:
    longest = min(summary.max_length, _number(data.get("max_length")) or summary.max_length)
    return max(1, longest // (_number(data.get("stride")) or 1) // STEPS)


def _several(samples: int, batch: int) -> str:
    batches = math.ceil(samples / batch)
    return "1 batch" if batches == 1 else f"{batches:,} batches"


def _word(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _section(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return found if isinstance(found, Mapping) else {}


def _named(value: object) -> str | None:
    name = value.get("name") if isinstance(value, Mapping) else value
    return name if isinstance(name, str) else None


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None
