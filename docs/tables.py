"""Writes docs/spec.md, docs/settings.md and the table of docs/metrics.md from the code: `make docs`. A test holds the
pages to it."""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import yaml  # noqa: E402
from pydantic import BaseModel  # noqa: E402
from pydantic.fields import FieldInfo  # noqa: E402
from pydantic_core import PydanticUndefined  # noqa: E402

from services import metrics  # noqa: E402
from services.settings import Settings  # noqa: E402
from services.training.spec import Spec  # noqa: E402
from services.training.spec.presets import PRESETS  # noqa: E402

SPEC_HEAD = """\
# The spec, field by field

A spec says what to train. This one is complete. It names no network, so the network and all else is chosen for the data
set, as [defaults.md](defaults.md) says:

```yaml
data: {dataset: japanese-vowels}
```

This one names its network, so everything else has the default of the tables below:

```yaml
preset: basic_gru
training: {epochs: 40, optimizer: adamw, early_stopping: {patience: 5}}
data: {dataset: japanese-vowels}
```

- A spec is JSON or YAML of at most 262,144 characters. In YAML it has at most 10,000 keys and values.
- Keys that are not listed here are rejected. Numbers in quotes are rejected too.
- `task`, `loss`, `optimizer` and `lr_schedule` take a name, as above, or a mapping with a `name` and the fields of that
  name.
- The best epoch, early stopping and the `plateau` schedule use the validation split. If there is no validation split,
  they use the training split.

`make docs` generates this page from the code.
"""
TARGETS = """\
## Targets

The data set decides what is learnt, and `task` can say it. A task that does not fit the data set is rejected.
[examples/README.md](../examples/README.md) describes the arrays, [forecasting.md](forecasting.md) the forecasts,
and [next-step.md](next-step.md) the language models.

| `y` | is | losses, the default first |
| --- | --- | --- |
| whole numbers or words, (samples,) | one class per sequence | `cross_entropy`, `bce` (two classes) |
| whole numbers or words, (samples, length) | a class for each step | `cross_entropy` |
| 0 and 1, (samples, labels) | yes-or-no labels | `bce` |
| floats, (samples,) or (samples, targets) | values to predict | `mse`, `mae`, `huber` |
| the next steps of a table's column (`task: forecast`) | a forecast | `mse`, `mae`, `huber`; `pinball` with quantiles |
| the next character or word of texts (`task: next_step`) | a language model | `cross_entropy` |

- With `mse`, `mae` or `huber`, or with `task: regression`, classes that are numbers and yes-or-no labels are values to
  predict too.
- Whole numbers with as many columns as `x` has steps are a class for each step. If you mean values, save
  `y.astype(np.float32)`; earlier versions of Loopline took such arrays for values. If the numbers are only 0 and 1,
  they are yes-or-no labels; if you mean a class for each step, save `y[:, :, None]`.
- With a class for each step the head answers at each step. `architecture.pooling` becomes `none` if it is `last`; any
  other pooling is rejected. Losses, class weights, metrics and the gate ignore the steps beyond `lengths`.
"""
METRICS_OF_MODELS = """\
## Metrics

Each epoch and the result report the loss and these metrics for each split, such as `train_accuracy`, `validation_rmse`
and `test_r2`. `best_by` and `retrain.gate.metric` take the names below.

| metric | for | meaning |
| --- | --- | --- |
| `perplexity` | the next step of texts | e to the power of the loss, so the number of equally likely choices. |
| `bits_per_step` | the next step of texts | The loss in bits: per character, or per word. |
| `accuracy` | the next step of texts | The share of characters or words that are right. |
| `accuracy` | classes | The share of samples whose class is right. |
| `accuracy` | a class for each step | The share of valid steps whose class is right. |
| `accuracy` | several yes-or-no labels | The share of samples with every label right. |
| `label_accuracy` | several yes-or-no labels | The share of labels that are right, over all samples. |
| `macro_f1` | classes, also of steps, and labels | The mean F1 of the classes or labels, each with the same weight. |
| `mase` | forecasts | The mean absolute error, divided by that of the seasonal naive forecast in the training period. |
| `smape` | forecasts | The mean of 2 \\|error\\| / (\\|forecast\\| + \\|actual\\|), from 0 to 2. |
| `mae` | values, forecasts | The mean absolute error over all samples and targets. |
| `rmse` | values, forecasts | The root of the mean squared error over all samples and targets. |
| `r2` | values | 1 - (the sum of squared errors) / (the sum of squared distances from the mean). |

- A yes-or-no label counts as yes if its probability is above 0.5. One wrong label makes the whole sample wrong for
  `accuracy`, so with several labels `accuracy` is lower than `label_accuracy`.
- `r2` is one number for all targets together. Each target has its own mean, and both sums are over all targets, so a
  target with a larger spread weighs more. `r2` is null if no target varies.
- `mae` and `rmse` are in the unit of the data, with or without `data.target_scaling`.
- If the data set has a column of weights, losses are weighted by it and metrics are not: `perplexity` and
  `bits_per_step` are then those of the loss without weights. Only on the training split they are those of the weighted
  loss. Each weight is divided by the mean weight of the training split, so only ratios matter.
- A loss (`train_loss`, `validation_loss`, `test_loss`, the loss of each step) is what training minimises. With
  `target_scaling: standard` it is computed from scaled values. For example, a model that always answers with the mean
  of the target has an `mse` of 1.0. So compare losses only between runs with the same scaling. The gate converts its
  losses: with `retrain.gate.metric: loss` both losses are in the unit of the data.
"""
BASELINES = """\
## Baselines

A result has a `baseline` beside its `metrics`. It contains the same metrics, on the same splits, of a trivial model
that is fitted on the training split alone. It is the best of several trivial models; `others` has the metrics of the
other ones.

| for | the trivial models |
| --- | --- |
| classes | the most frequent class; a linear model; the most similar training sequence |
| a class for each step | the most frequent class of all valid steps; a linear model of the single step |
| yes-or-no labels | the more frequent of yes and no for each; a linear model; the most similar training sequence |
| values | the mean of each target; a linear model |
| forecasts | the last value; the value one season before |
| the next step of texts | the most frequent character or word; a bigram model |

The linear model reads no order. It sees the mean of each feature over the valid steps of a sequence and the values of
the whole sequence; for a class for each step it sees that step alone. If a recurrent network does not beat it, the
order of the steps did not help, or training was too short. It is a linear discriminant analysis for classes, and a
linear regression for labels and values, fitted on at most 5,000 samples. There is none for texts, for words that are
read as vectors, with more than 200 features, or for a job that was cut short.

The most similar training sequence gives its class or labels. All sequences are resampled to 32 steps, or to fewer if
they have more than 62 features. The distance is the Euclidean one over all features, which are standardised. At most
2,000 training sequences are compared. It reads the order of the steps, but learns nothing. There is none for texts, for
words that are read as vectors, with more than 250 features, for a job that was cut short, or without a validation or
test split.

    "metrics": {"test_loss": 0.21, "test_accuracy": 0.93, "test_macro_f1": 0.92},
    "baseline": {"answer": "a linear model of the mean of each feature",
                 "metrics": {"test_accuracy": 0.81, "test_macro_f1": 0.79},
                 "metric": "test_accuracy", "is_beaten": true, "message": null, "interval": [0.894, 0.954],
                 "others": {"the most frequent class (3)": {"test_accuracy": 0.24, "test_macro_f1": 0.04}}}

`metric` is accuracy, rmse for values, mase for forecasts, or perplexity for the next step of texts, on the test split
if there is one. An accuracy of few samples says little: of 20 models that had learnt nothing from 60 samples, 5 were
better than their baseline by chance. So an accuracy on samples that the model was not trained on has an `interval`
(Wilson's, 95 %): what it can mean for new samples like these. The model beats the baseline only if the baseline is
below the interval. Without a test split these are the validation samples, by which the best epoch was chosen, so the
accuracy is a little too good. There is no interval for a class for each step, nor with `data.split.method: group`,
because steps of a sequence and sequences of a group are not independent. With groups the model beats the baseline only
if it would with as many independent sequences, which is the least to ask. If the model does not beat the baseline,
`message` says so in a sentence, and so does an event (`baseline`, a warning). Synthetic data gets no such event,
because there is nothing in it to learn. `model.json`, `GET /v1/jobs/{job_id}` and `loopline show` have the baseline
too.
"""
DETAILS = """\
## Details

A result also has `details` of the validation and the test split. They are computed once, from the best weights:

| for | what there is |
| --- | --- |
| classes, and a class for each step | `classes`, `macro`, `weighted`, `confusion` |
| yes-or-no labels | `labels`, `macro`, `weighted`, `confusion` |
| several values | `targets`: `mae`, `rmse` and `r2` of each |
| forecasts | `horizon`: the metrics of each step; `targets`, if there are several; `quantiles`, if there are any |
| sequences of different lengths | `lengths`: the metrics of up to four ranges of lengths, the shortest first |
| the next step of texts | `places`: the metrics of the steps 1 to 10, 11 to 100 and so on of a text |

    "details": {"test": {
      "classes": {"name": ["ok", "worn"], "precision": [0.9, 0.7], "recall": [0.95, 0.6], "f1": [0.92, 0.65],
                  "support": [40, 10], "auroc": [0.97, 0.97]},
      "macro": {"precision": 0.8, "...": 0}, "weighted": {"precision": 0.86, "...": 0},
      "confusion": {"matrix": [[38, 2], [4, 6]], "largest": [{"actual": "worn", "predicted": "ok", "count": 4}]}}}

- Each column is a list with a value for each class, so `pandas.DataFrame(details["test"]["classes"])` is a table.
  `support` is the number of samples (of steps, for a class for each step). A value that is not defined is null: the
  precision of a class that is never the answer, or the recall of a class without samples.
- `auroc` ranks the samples by the probability of a class: it is the probability that a sample of the class is ranked
  above another one, where equal ranks count half. It is null if samples times classes is above 20,000,000.
- `macro` is the mean over the classes that occur among answers or targets. `weighted` weighs them by `support`. In both
  an undefined precision or recall counts as 0, as in scikit-learn. `macro` of `f1` is the metric `macro_f1`.
- Rows of the confusion `matrix` are the true classes, columns are the answers. For more than 50 classes there is no
  matrix. `largest` has the 20 most frequent confusions. Yes-or-no labels have `of_labels` instead: for each label
  [[true no, false yes], [false no, true yes]].
- `calibration` compares probabilities with what came true, in ten bins from 0 to 1: `count`, the mean `probability`,
  and the `share` that came true. A case is an answer of the model, with the probability that it gives it; of
  yes-or-no labels it is one label of one sample, with the probability of yes. `error` is the expected calibration
  error: the mean of |probability - share|, weighted by `count`. 0 is best.
- `lengths` has `shortest`, `longest`, `sequences` (how many there are) and the metrics of each range of lengths. Each
  range has about a quarter of the sequences; if many have the same length, the ranges are fewer or less alike. A length
  is the number of steps that the network reads. `is_worse` is true where the model is clearly worse than on the other
  sequences: by more than three standard errors (of the jackknife) and more than 5% of their metric, with at least 20
  sequences on both sides. With `training.bptt_steps` the accuracy is the only metric.
- `places` has `first`, `last`, `steps` (how many there are) and the metrics. Of joined texts the steps are counted from
  the beginning of each stream that is judged.
- Of more than 1,000 classes, labels or targets only 1,000 are listed: the classes and labels with the largest support.
- A job that was cancelled or reached its time limit has no details.

`model.json`, `GET /v1/jobs/{job_id}` and `loopline show` have them too.
"""
SETTINGS_HEAD = """\
# Settings

Every setting is an environment variable and has a default. A process reads them when it starts. Variables that end in
`_FILE` name a file with a secret. `make docs` generates this page from the code.

| variable | default | meaning |
| --- | --- | --- |
"""
METRICS_HEAD = """\
## Every metric

`make docs` generates this table from the code.

| metric | kind | labels | meaning |
| --- | --- | --- | --- |
"""


def spec_page() -> str:
    parts = [SPEC_HEAD, *sections(Spec, "")]
    parts.append(TARGETS)
    parts.append(METRICS_OF_MODELS)
    parts.append(BASELINES)
    parts.append(DETAILS)
    parts.append("## Presets\n\n| preset | description | architecture |\n| --- | --- | --- |")
    for name, preset in PRESETS.items():
        fragment = yaml.safe_dump(preset.fragment["architecture"], default_flow_style=True, sort_keys=False, width=999)
        parts.append(f"| `{name}` | {preset.description} | `{fragment.strip()}` |")
    return "\n".join(parts) + "\n"


def sections(model: type[BaseModel], path: str, title: str = "") -> Iterator[str]:
    """A table of one model's fields, then those of the models within it."""
    yield f"## {title or path or 'At the top'}\n"
    if model.__doc__ and path:
        yield " ".join(model.__doc__.split()) + "\n"
    yield "| field | values | default | meaning |\n| --- | --- | --- | --- |"
    for name, field in model.model_fields.items():
        if name != "name" or not path:
            yield row(field.alias or name, field)
    yield ""
    for name, field in model.model_fields.items():
        written = field.alias or name
        below = f"{path}.{written}" if path else written
        members = models_in(field.annotation)
        for member in members:
            label = f"{below}: {member.model_fields['name'].default}" if len(members) > 1 else below
            if len(members) == 1 or set(member.model_fields) != {"name"}:
                yield from sections(member, below, label)


def row(name: str, field: FieldInfo) -> str:
    takes = ", ".join(dict.fromkeys(kinds(field.annotation)))
    bounds = [text for part in field.metadata for text in bounds_of(part)]
    default = "required" if field.default is PydanticUndefined else shown(field.default)
    about = " ".join((field.description or "").split())
    cells = [f"`{name}`", takes + (f", {', '.join(bounds)}" if bounds else ""), default, about]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def kinds(annotation: Any) -> Iterator[str]:
    origin = typing.get_origin(annotation)
    if origin is Literal:
        yield from (f"`{value}`" for value in typing.get_args(annotation))
    elif origin in (typing.Union, types.UnionType):
        for argument in typing.get_args(annotation):
            yield from kinds(argument)
    elif origin is typing.Annotated:
        inner, *metadata = typing.get_args(annotation)
        bounds = [text for part in metadata for text in bounds_of(part)]
        for kind in kinds(inner):
            yield kind + (f" ({', '.join(bounds)})" if bounds else "")
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        name = annotation.model_fields.get("name")
        yield f"`{name.default}`" if name is not None and isinstance(name.default, str) else "a mapping, see below"
    else:
        words = {int: "whole number", float: "number", bool: "true or false", str: "text", types.NoneType: "`null`"}
        yield words.get(annotation, {list: "list", tuple: "list", dict: "mapping of text to text"}.get(origin, "text"))


def bounds_of(metadata: Any) -> Iterator[str]:
    parts = getattr(metadata, "metadata", None) or [metadata]
    for part in parts:
        for key, words in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
            value = getattr(part, key, None)
            if value is not None and not isinstance(value, bool):
                yield f"{words} {'2^63' if value == 2**63 else value}"


def models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        return [model for argument in typing.get_args(annotation) for model in models_in(argument)]
    return []


def shown(value: Any) -> str:
    if isinstance(value, BaseModel):
        name = getattr(value, "name", None)
        return f"`{name}`" if name else "see below"
    words = {None: "`null`", True: "`true`", False: "`false`"}
    if value is None or isinstance(value, bool):
        return words[value]
    return f"`{list(value) if isinstance(value, tuple) else value}`"


def settings_page() -> str:
    rows = []
    for name, field in Settings.model_fields.items():
        made = field.default is PydanticUndefined
        default = "" if made or field.default is None else f"`{field.default}`"
        rows.append(f"| `LOOPLINE_{name.upper()}` | {default} | {field.description} |")
    return SETTINGS_HEAD + "\n".join(rows) + "\n"


def metrics_page() -> str:
    """The page as it stands, with its table made anew."""
    before = (ROOT / "docs" / "metrics.md").read_text().partition(METRICS_HEAD)[0]
    rows = []
    for metric in metrics.every():
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        rows.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
    return before + METRICS_HEAD + "\n".join(rows) + "\n"


PAGES = {"spec.md": spec_page, "settings.md": settings_page, "metrics.md": metrics_page}

if __name__ == "__main__":
    for file, page in PAGES.items():
        (ROOT / "docs" / file).write_text(page())
