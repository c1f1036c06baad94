"""What no single field can say: settings that do not go together, and specs that do not fit their data.

Each rule yields problems, a place and a sentence with a way out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loopline.files.counting import counted
from loopline.files.gaps import of_values

from services.errors import Problem
from services.training import measures
from services.training.files.summary import DatasetSummary
from services.training.measures import MEASURES, Answers
from services.training.spec import drawing, folds, shares
from services.training.spec.fields import Architecture, Data, Forecast, Gate, NextStep, Spec, Split, Synthetic, Training
from services.training.tasks import known

FLOAT32_SMALLEST, FLOAT32_LARGEST = 2.0**-126, (2.0 - 2.0**-23) * 2.0**127
"""The sizes of numbers that float32 holds in full. Smaller ones are 0 to a process that flushes denormals."""
MAX_SYNTHETIC_BYTES = 4 << 30
SEVERAL = 2
"""Outputs of a network of which nothing is known yet but that it may have more than one."""

NEEDS_TEST = (
    "the gate compares models on samples that neither training nor the choice of the best epoch has seen, and there "
    "are none: set it to a share such as 0.2 (with `method: content`, so that they stay the same from night to night), "
    "or mark rows as test in the data set"
)


def problems(spec: Spec, document: Mapping[str, Any]) -> Iterator[Problem]:
    """What is wrong with the spec by itself. `document` tells what was given from what was filled in."""
    yield from _architecture(spec.architecture)
    yield from _training(spec)
    yield from _preparation(spec.data)
    yield from problems_of_open(spec, document)


def problems_of_open(spec: Spec, document: Mapping[str, Any]) -> Iterator[Problem]:
    """The same of a spec that leaves the network open: only what is wrong whatever is chosen for its data."""
    yield from _data(spec.data, document)
    yield from _retrain(spec)
    yield from folds.problems(spec)


def _architecture(a: Architecture) -> Iterator[Problem]:
    if a.dropout > 0 and a.num_layers == 1:
        yield Problem(
            "/architecture/dropout",
            "acts between recurrent layers and there is only one: set num_layers to 2 or more, or use head_dropout, "
            "which acts between the last layer and the head",
        )
    if a.nonlinearity is not None and a.cell != "rnn":
        yield Problem("/architecture/nonlinearity", f"belongs to the rnn cell; {a.cell} has its own: leave it out")
    if a.forget_gate_bias is not None and a.cell != "lstm":
        yield Problem(
            "/architecture/forget_gate_bias", f"belongs to the lstm cell; {a.cell} has no such gate: leave it out"
        )
    if a.init == "identity" and not (a.cell == "rnn" and a.nonlinearity == "relu"):
        yield Problem("/architecture/init", "identity is for `cell: rnn` with `nonlinearity: relu`; try orthogonal")


def _training(spec: Spec) -> Iterator[Problem]:
    t = spec.training
    if t.optimizer.name == "sgd" and t.optimizer.nesterov and t.optimizer.momentum == 0:
        yield Problem("/training/optimizer/nesterov", "needs a momentum greater than 0, such as 0.9")
    if spec.architecture.batch_norm and t.batch_size == 1:
        yield Problem("/training/batch_size", "must be at least 2 with batch_norm, which compares samples of one batch")
    if t.keep == "last" and t.early_stopping is not None:
        yield Problem(
            "/training/keep", "last keeps what early_stopping finds worse: use best, or leave one of them out"
        )
    yield from _refit(spec)
    yield from _bptt(spec)
    yield from _on_divergence(spec)
    yield from _beyond_float32(t.model_dump(), "/training")
    yield from _min_lr(t)
    if t.loss is not None:
        yield from _metric_for_loss(t, of_text=isinstance(spec.task, NextStep))


def _refit(spec: Spec) -> Iterator[Problem]:
    split, place = spec.data.split, "/data/split/train_on_validation"
    if not split.train_on_validation:
        return
    if split.folds is not None:
        yield Problem(place, "does not go with folds, whose final model is trained on all samples anyway: leave it out")
    elif (isinstance(spec.task, NextStep) and spec.task.joined) or (
        isinstance(spec.task, Forecast) and split.method == "time"
    ):
        yield Problem(place, "is for sequences, and here one series is divided: set validation to 0.0 instead")
    elif spec.training.keep != "last":
        yield Problem(place, "leaves nothing to choose an epoch by: set training.keep to last")


def _bptt(spec: Spec) -> Iterator[Problem]:
    a, is_next_step = spec.architecture, isinstance(spec.task, NextStep)
    if spec.training.bptt_steps is None and not is_next_step:
        return
    if a.bidirectional and is_next_step:
        yield Problem(
            "/architecture/bidirectional",
            "reads each text from its end, and so it has read what next_step is to predict: set it to false",
        )
    elif a.bidirectional:
        yield Problem(
            "/architecture/bidirectional",
            "reads each sequence from its end, and training.bptt_steps carries the state from its beginning: set it to "
            "false, or leave bptt_steps out",
        )
    if a.batch_norm:
        yield Problem(
            "/architecture/batch_norm",
            "compares samples of one batch, and with training.bptt_steps a batch has only a window of each: leave it "
            "out",
        )


def _beyond_float32(value: Any, pointer: str) -> Iterator[Problem]:
    """Numbers that become 0 or infinity where training computes with them."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _beyond_float32(item, f"{pointer}/{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _beyond_float32(item, f"{pointer}/{index}")
    elif isinstance(value, float) and value and not FLOAT32_SMALLEST <= abs(value) <= FLOAT32_LARGEST:
        bound = "at least 1.18e-38" if abs(value) < FLOAT32_SMALLEST else "at most 3.4e+38"
        yield Problem(
            pointer, f"must be {bound}: training computes in float32, which holds no such number; got {value:g}"
        )


def _min_lr(t: Training) -> Iterator[Problem]:
    schedule = t.lr_schedule
    if schedule.name in ("cosine", "plateau") and schedule.min_lr > t.optimizer.lr:
        detail = f"must be at most optimizer.lr, which is {t.optimizer.lr:g}; got {schedule.min_lr:g}"
        yield Problem("/training/lr_schedule/min_lr", detail)


def _on_divergence(spec: Spec) -> Iterator[Problem]:
    on, a = spec.training.on_divergence, spec.architecture
    if on is None:
        return
    if not on.rollback and (on.lr_factor, on.at_most) != (0.5, 2):
        yield Problem("/training/on_divergence", "lr_factor and at_most are for rollbacks: set rollback to true")
    elif on.lr_factor == 1.0 and not a.dropout and not a.head_dropout:
        yield Problem(
            "/training/on_divergence/lr_factor",
            "must be less than 1 where nothing is random (dropout and head_dropout are 0): at the same learning rate "
            "training would diverge again",
        )


def _metric_for_loss(t: Training, *, of_text: bool) -> Iterator[Problem]:
    assert t.loss is not None  # noqa: S101
    fitting = [task for task in known.TASKS if task.trains_on(t.loss.name) and (task.name == known.TEXT) == of_text]
    allowed = dict.fromkeys(name for task in fitting for name in measures.judging(task.answers(SEVERAL)))
    if t.best_by not in ("loss", *allowed):
        yield Problem(
            "/training/best_by", f"with {t.loss.name} must be one of loss, {', '.join(allowed)}; got {t.best_by}"
        )


def _data(data: Data, document: Mapping[str, Any]) -> Iterator[Problem]:
    given = document.get("data")
    keys = given if isinstance(given, Mapping) else {}
    if isinstance(given, Mapping) and (keys.get("dataset") is None) == (keys.get("synthetic") is None):
        yield Problem("/data", "needs exactly one of `dataset: NAME` and `synthetic: {}`")
    shares = [share for share in (data.split.validation, data.split.test) if isinstance(share, float)]
    if sum(shares) >= 1.0:
        yield Problem(
            "/data/split", f"validation and test together must leave something to train on; got {sum(shares):g}"
        )
    if data.synthetic is not None and data.synthetic.classes > data.synthetic.samples:
        yield Problem("/data/synthetic/classes", f"must be at most the number of samples; got {data.synthetic.classes}")
    yield from _split(data.split)
    if data.synthetic is not None:
        yield from _drawn_bytes(data.synthetic)
        for name in ("validation", "test"):
            if getattr(data.split, name) == "given":
                yield Problem(f"/data/split/{name}", "synthetic data gives no split: say a fraction such as 0.2")


def _preparation(data: Data) -> Iterator[Problem]:
    """Fields that act on nothing without another one."""
    if data.missing_mask and data.missing in ("refuse", "drop"):
        yield Problem(
            "/data/missing_mask",
            f"marks the gaps that data.missing fills, and {data.missing} fills none: set missing to forward, mean or "
            "linear, or leave the mask out",
        )
    if data.embedding_size is not None and data.categories != "embedding":
        yield Problem("/data/embedding_size", "is the size of an embedding: set data.categories to embedding")
    if data.scaling_over != "train" and data.scaling == "none":
        yield Problem(
            "/data/scaling_over", "says what data.scaling is computed from, and that is none: set it to standard"
        )
    if data.cut != "end" and data.max_length is None:
        yield Problem("/data/cut", "says where data.max_length cuts, and there is none: give the most steps to keep")


def _split(split: Split) -> Iterator[Problem]:
    if split.by is not None and split.method != "group":
        yield Problem("/data/split/by", f"is for the method group, and this one is {split.method}: leave it out")
    if split.method == "given":
        for name in ("validation", "test"):
            if isinstance(getattr(split, name), float):
                detail = "with the method given the data set says which rows these are: leave it out, or choose a "
                yield Problem(f"/data/split/{name}", f"{detail}method that draws them, such as random")


def _drawn_bytes(drawn: Synthetic) -> Iterator[Problem]:
    size = 4 * drawn.samples * drawn.length * drawn.features
    if size > MAX_SYNTHETIC_BYTES:
        product = f"{drawn.samples:,} samples x {drawn.length:,} steps x {drawn.features:,} features x 4"
        detail = f"takes {size:,} bytes ({product}), and at most {MAX_SYNTHETIC_BYTES:,} are drawn: lower one of them"
        yield Problem("/data/synthetic", detail)


def _retrain(spec: Spec) -> Iterator[Problem]:
    retrain = spec.retrain
    if retrain is None:
        return
    if retrain.promote == "latest":
        yield Problem("/retrain/promote", "latest is the newest version by itself: name an alias such as production")
    if retrain.gate is not None and retrain.promote is None and retrain.gate.against is None:
        advice = "must name what to compare with where promote is null: an alias such as production"
        yield Problem("/retrain/gate/against", advice)
    if retrain.gate is not None and spec.data.split.test == 0.0:
        yield Problem("/data/split/test", NEEDS_TEST)
    if retrain.gate is not None and not spec.data.split.evaluate_test:
        yield Problem("/data/split/evaluate_test", "must be true: the gate compares models on the test part")
    if retrain.gate is not None and retrain.gate.metric is not None:
        yield from _bar(retrain.gate, retrain.gate.metric)


def _bar(gate: Gate, metric: str) -> Iterator[Problem]:
    """What no value of the metric can meet, or every one does."""
    place, bar, measure = "/retrain/gate/at_least", gate.at_least, MEASURES[metric]
    if bar is not None and bar < measure.least:
        if measure.higher_is_better:
            yield Problem(place, f"is always reached: {metric} is at least {measure.least:g}; got {bar:g}")
        else:
            range_text = f"{metric} is at least {measure.least:g}, and this is the most that may pass"
            yield Problem(place, f"can never be reached: {range_text}; got {bar:g}")
    if bar is not None and bar > measure.most:
        yield Problem(place, f"can never be reached: {metric} is at most {measure.most:g}; got {bar:g}")
    if gate.margin > measure.most - measure.least:
        range_text = f"{metric} is from {measure.least:g} to {measure.most:g}"
        yield Problem("/retrain/gate/margin", f"can never be reached: {range_text}; got {gate.margin:g}")


def data_problems(spec: Spec, summary: DatasetSummary) -> Iterator[Problem]:
    """What does not fit between the spec and the data set."""
    yield from _loss_fits(spec.training, summary)
    yield from _pooling_fits(spec, summary)
    yield from _bptt_fits(spec, summary)
    yield from _target_scaling_fits(spec, summary)
    yield from _preparation_fits(spec, summary)
    yield from _split_fits(spec, summary)
    yield from folds.data_problems(spec, summary)
    yield from _gate_fits(spec, summary)


def _gate_fits(spec: Spec, summary: DatasetSummary) -> Iterator[Problem]:
    if spec.retrain is None or (gate := spec.retrain.gate) is None:
        return
    if spec.data.split.test != 0.0 and counts_of_split(spec, summary)["test"] == 0:
        yield Problem("/data/split/test", NEEDS_TEST)
    if gate.metric is None:
        yield from _bar(gate, measures.default(_answers(spec.training, summary)))
    allowed = ("loss", *_metrics_for(spec.training, summary))
    if gate.metric not in (None, *allowed):
        yield Problem(
            "/retrain/gate/metric", f"for this data set must be one of {', '.join(allowed)}; got {gate.metric}"
        )


def _loss_fits(t: Training, summary: DatasetSummary) -> Iterator[Problem]:
    name = t.loss.name if t.loss else None
    if name is not None and (why := known.named(summary.target).refusal(name, summary)) is not None:
        yield Problem("/training/loss", why)
    allowed = _metrics_for(t, summary)
    if t.best_by not in ("loss", *allowed):
        yield Problem(
            "/training/best_by", f"for this data set must be one of loss, {', '.join(allowed)}; got {t.best_by}"
        )
    of_yes = getattr(t.loss, "pos_weight", None)
    labels = summary.target_dim if summary.classes is None else 1
    if isinstance(of_yes, list) and len(of_yes) != labels:
        what = f"each of the {labels} labels" if summary.classes is None else "the second class"
        yield Problem("/training/loss/pos_weight", f"needs one weight for {what}; got {len(of_yes)}")
    weights = getattr(t.loss, "class_weights", None)
    if isinstance(weights, list) and summary.classes is not None:
        given, needed = len(weights), len(summary.classes)
        if given != needed:
            yield Problem(
                "/training/loss/class_weights", f"needs one weight for each of the {needed} classes; got {given}"
            )


def _pooling_fits(spec: Spec, summary: DatasetSummary) -> Iterator[Problem]:
    pooling = spec.architecture.pooling
    if known.chosen(summary.target, spec.training.loss).by_step:
        if pooling not in ("last", "none"):
            yield Problem(
                "/architecture/pooling",
                f"{pooling} makes one answer of all steps, and this data set has {_at_each(summary)}: leave it out",
            )
    elif pooling == "none":
        yield Problem(
            "/architecture/pooling",
            "none gives an answer for each step, and this data set has targets of whole sequences: use last, final, "
            "mean, max or attention",
        )


def _bptt_fits(spec: Spec, summary: DatasetSummary) -> Iterator[Problem]:
    task = known.chosen(summary.target, spec.training.loss)
    if spec.training.bptt_steps is None or task.by_step:
        return
    instead = "task.lookback says how many steps it reads"
    if not task.of_series:
        instead = (
            "shorten long sequences with data.patch (several steps become one), data.stride or data.max_length instead"
        )
    yield Problem(
        "/training/bptt_steps",
        f"needs a target at each step, and here are {task.words}: only the last window of a sequence would be trained. "
        f"Leave it out; {instead}",
    )


def _target_scaling_fits(spec: Spec, summary: DatasetSummary) -> Iterator[Problem]:
    task = known.chosen(summary.target, spec.training.loss)
    if spec.data.target_scaling == "standard" and not task.scales_targets:
        what = known.named(summary.target).words
        yield Problem("/data/target_scaling", f"is for values to predict, and here are {what}: leave it out")


def _preparation_fits(spec: Spec, summary: DatasetSummary) -> Iterator[Problem]:
    data = spec.data
    if known.chosen(summary.target, spec.training.loss).by_step:
        for name in ("max_length", "stride", "patch"):
            if getattr(data, name) not in (None, 1):
                yield Problem(
                    f"/data/{name}",
                    f"leaves no answer for each step, and this data set has {_at_each(summary)}: leave it out",
                )
    columns = [each for each in (summary.inputs, summary.static) if each is not None]
    gaps = sum(each.gaps for each in columns)
    if gaps and data.missing == "refuse":
        yield Problem("/data/missing", of_values(gaps))
    if data.categories == "embedding" and not (summary.inputs and summary.inputs.categories):
        yield Problem("/data/categories", "embedding is for features of words, and here are none: leave it out")
    if data.text is not None and summary.texts is None:
        yield Problem("/data/text", "says how texts are read, and this data set has none: leave it out")
    if data.differences is not None and summary.texts is not None:
        yield Problem("/data/differences", "are of numbers, and here are texts: leave it out")
    if data.differences is not None and summary.inputs is not None and not summary.inputs.numbers:
        yield Problem("/data/differences", "are of numbers, and here all features are words: leave it out")


def _at_each(summary: DatasetSummary) -> str:
    return "a character or word to predict at each step" if summary.target == known.TEXT else "a class for each step"


def _metrics_for(t: Training, summary: DatasetSummary) -> tuple[str, ...]:
    """The metrics, besides the loss, that a run with this loss reports of this data set."""
    return measures.judging(_answers(t, summary))


def _answers(t: Training, summary: DatasetSummary) -> Answers:
    width = summary.target_dim if summary.classes is None else 1  # two classes may be one yes or no
    return known.chosen(summary.target, t.loss).answers(width)


def _split_fits(spec: Spec, summary: DatasetSummary) -> Iterator[Problem]:
    split, given = spec.data.split, summary.given_split or {}
    if split.method == "time" and known.named(summary.target).of_series:
        return  # periods are divided, not samples: tasks.py has looked at them
    if isinstance(spec.task, NextStep) and spec.task.joined:
        return  # it is divided by place
    for name in ("validation", "test"):
        if getattr(split, name) == "given" and not given.get(name):
            yield Problem(
                f"/data/split/{name}",
                f"the data set marks no rows as {name}: say a fraction such as 0.2, or upload it with a `split` array",
            )
    if (problem := _method_fits(split, summary) or _too_few(split, summary)) is not None:
        yield problem
        return
    counts = _drawn(spec, summary)
    if counts["train"] < 1:
        yield Problem("/data/split", _nothing_left(summary))
        return
    if spec.architecture.batch_norm and counts["train"] < 2:
        yield Problem("/architecture/batch_norm", "needs at least two training samples")
    if split.method == "random":  # what falls to a share by its content is not known yet
        kinds = len(summary.classes or ()) if known.named(summary.target).stratifies else None
        given_rows, fractions = shares.given_and_drawn(split, summary)
        for name, share in fractions.items():
            if share > 0 and counts[name] == 0:
                left = summary.samples - sum(given_rows.values())
                yield Problem(f"/data/split/{name}", shares.why_empty(split, share, left, kinds))


def _nothing_left(summary: DatasetSummary) -> str:
    """Why no sample is left for training, and if it is one sequence what the file probably meant."""
    if summary.samples != 1 or summary.texts is not None:
        return f"leaves nothing to train on: the data set has {counted(summary.samples, 'sample')}"
    return (
        f"leaves nothing to train on: the data set is one sequence of {counted(summary.max_length, 'step')}; name the "
        "column that says to which sequence a row belongs (--group NAME), or if each row is a sample of its own, "
        "upload the file with --layout wide"
    )


def _method_fits(split: Split, summary: DatasetSummary) -> Problem | None:
    """What a data set lacks that the method of its split needs."""
    place, otherwise = "/data/split/method", "or choose another method, such as random"
    if split.method == "given" and not any((summary.given_split or {}).get(name) for name in ("validation", "test")):
        return Problem(
            place, f"the data set marks no rows as validation or test: upload it with a `split`, {otherwise}"
        )
    if split.method == "time" and summary.times is None:
        return Problem(
            place, f"the data set has no times: upload it with the column that orders its steps (--order), {otherwise}"
        )
    if split.method != "group":
        return None
    columns = {group.column: group.names for group in summary.groups}
    if split.by is not None and split.by not in columns:
        has = f"has {_listed(list(columns))}" if columns else "has no such columns"
        detail = f"must be a column that names sequences, or that has a value for each sequence: the data set {has}"
        return Problem("/data/split/by", f"{detail}; got {split.by}")
    if split.by is None and not any(columns.values()):
        advice = f"upload it with --group, {otherwise}"
        if columns:
            advice = f"name another column with data.split.by ({_listed(list(columns))})"
        return Problem(place, f"no column of the data set names its sequences: {advice}")
    return None


def _too_few(split: Split, summary: DatasetSummary) -> Problem | None:
    """Fewer groups, or times, than parts: each of them goes to one part as a whole."""
    given, fractions = shares.given_and_drawn(split, summary)
    asked = [name for name, share in fractions.items() if share > 0]
    if given or not asked or split.folds or split.method not in ("group", "time"):
        return None
    if split.method == "time" and summary.series is not None:
        return None  # the windows of a forecast end at other times than their series
    found = summary.times or 0
    if split.method == "group":
        found = next(group.groups for group in summary.groups if split.by in (group.column, None))
    if found > len(asked):
        return None
    name = asked[max(0, found - 1)]
    return Problem(f"/data/split/{name}", shares.why_empty(split, fractions[name], summary.samples, None))


def _listed(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10:,} more" if len(names) > 10 else "")


def counts_of_split(spec: Spec, summary: DatasetSummary) -> dict[str, int]:
    """How many samples each part gets: exactly, or about as many if rows are given, or drawn by time or content, or of
    groups whose sizes are not known."""
    counts = _drawn(spec, summary)
    if spec.data.split.train_on_validation:
        counts["train"] += counts.pop("validation", 0)
    return counts


def _drawn(spec: Spec, summary: DatasetSummary) -> dict[str, int]:
    split = spec.data.split
    given, fractions = shares.given_and_drawn(split, summary)
    left = summary.samples - sum(given.values())  # a fraction is of what is not given to another part
    counts = {"train": 0, **given}
    if split.method == "content":
        counts |= {name: round(left * share) for name, share in fractions.items()}
    elif split.method == "group" and (sizes := _sizes(split, summary, left)):
        drawn = drawing.groups_of_parts(sizes, fractions, split)
        counts |= {name: round(sum(sizes[group] for group in groups)) for name, groups in drawn.items()}
    elif split.method in ("group", "time") or not known.named(summary.target).stratifies or not split.stratify or given:
        counts |= {name: shares.of_all(left, left * share) for name, share in fractions.items()}
    else:
        labels = _class_counts(summary)
        for name, share in fractions.items():
            taken = shares.of_each_class(labels, share * (left if len(fractions) == 2 else sum(labels)))
            labels = [count - drawn for count, drawn in zip(labels, taken, strict=True)]
            counts[name] = sum(taken)
    left = summary.samples - sum(counts.values())
    if split.folds:
        return counts | folds.counts(split, left)
    return counts | {"train": left}


def _sizes(split: Split, summary: DatasetSummary, samples: int) -> Sequence[float]:
    """The samples of each group that may be drawn; where they were not counted, as if all groups were of one size."""
    found = next((each for each in summary.groups if split.by in (each.column, None)), None)
    if found is None:
        return ()
    if found.sizes is not None and sum(found.sizes) == samples:
        return found.sizes
    return [samples / found.groups] * found.groups


def _class_counts(summary: DatasetSummary) -> list[int]:
    """The samples of each class, sorted by label; where they are still to be drawn, such that most can be spared."""
    if summary.class_counts is not None:
        return summary.class_counts
    classes = len(summary.classes or ())
    return [summary.samples - classes + 1] + [1] * (classes - 1)
