"""The fields of a spec: what each may hold, and its default.

Unknown keys are refused. Numbers are strict: `"3"` and `true` are not numbers. A rule about two fields together is in
`rules.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from services.text import PLAIN, is_plain
from services.training.measures import MEASURES
from services.training.spec.presets import PRESETS


class Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, frozen=True, use_attribute_docstrings=True
    )


def _named(kind: Any, default: str | None = None) -> BeforeValidator:
    """Lets `adam` stand for `{name: adam}`, and a mapping without a name mean the default one, of these kinds."""

    def complete(value: object) -> object:
        if isinstance(value, str):
            return {"name": value}
        if default and isinstance(value, Mapping) and "name" not in value:
            return {"name": default, **value}
        return value

    return BeforeValidator(complete, json_schema_input_type=kind | str)


def _plain(value: str, info: ValidationInfo) -> str:
    if not is_plain(value) and not (info.context or {}).get("accepted"):
        raise PydanticCustomError("string_pattern_mismatch", "String should match the pattern")
    return value


Plain = Annotated[str, AfterValidator(_plain), Field(json_schema_extra={"pattern": PLAIN})]
"""A text with nothing hidden in it. A spec that was accepted before this rule stays valid: see `parsing.parse`."""


class Architecture(Strict):
    """The network: a recurrent cell, a pooling over time, a linear head. Input and output sizes come from the data."""

    cell: Literal["rnn", "lstm", "gru"]
    """nn.RNN, nn.LSTM or nn.GRU."""
    nonlinearity: Literal["tanh", "relu"] | None = None
    """Of an `rnn` cell only; tanh unless said otherwise."""
    hidden_size: int = Field(128, ge=1, le=8192)
    """Units in each direction of each layer."""
    num_layers: int = Field(1, ge=1, le=16)
    """Recurrent layers, one above the other."""
    bidirectional: bool = False
    """Whether a second set of weights reads each sequence backwards."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Between the recurrent layers, as in torch: it needs two layers."""
    pooling: Literal["last", "final", "mean", "max", "attention"] = "last"
    """What the head sees: the output at the last valid step, each direction's last state, or all valid steps pooled."""
    batch_norm: bool = False
    """BatchNorm1d before the head."""
    head_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Between the pooled output and the head."""
    init: Literal["default", "xavier", "orthogonal", "kaiming", "identity"] = "default"
    """How recurrent weights start: torch's own, or as named; `identity` is for relu RNNs (Le et al. 2015)."""
    forget_gate_bias: float | None = Field(None, ge=-10.0, le=10.0)
    """Of an `lstm` cell only: the forget gate's total bias at the start; 1.0 is common (Jozefowicz et al. 2015)."""


class Adam(Strict):
    name: Literal["adam"] = "adam"
    lr: float = Field(1e-3, gt=0.0, le=10.0)
    weight_decay: float = Field(0.0, ge=0.0, le=10.0)
    betas: tuple[Annotated[float, Field(ge=0.0, lt=1.0)], Annotated[float, Field(ge=0.0, lt=1.0)]] = Field(
        (0.9, 0.999), strict=False
    )
    eps: float = Field(1e-8, gt=0.0, le=1.0)


class AdamW(Adam):
    name: Literal["adamw"] = "adamw"  # type: ignore[assignment]
    weight_decay: float = Field(0.01, ge=0.0, le=10.0)


class SGD(Strict):
    name: Literal["sgd"] = "sgd"
    lr: float = Field(1e-2, gt=0.0, le=100.0)
    weight_decay: float = Field(0.0, ge=0.0, le=10.0)
    momentum: float = Field(0.0, ge=0.0, lt=1.0)
    nesterov: bool = False


class RMSprop(Strict):
    name: Literal["rmsprop"] = "rmsprop"
    lr: float = Field(1e-2, gt=0.0, le=10.0)
    weight_decay: float = Field(0.0, ge=0.0, le=10.0)
    momentum: float = Field(0.0, ge=0.0, lt=1.0)
    alpha: float = Field(0.99, ge=0.0, lt=1.0)
    eps: float = Field(1e-8, gt=0.0, le=1.0)


class CrossEntropy(Strict):
    """For one class a sequence."""

    name: Literal["cross_entropy"] = "cross_entropy"
    class_weights: Literal["balanced"] | list[Annotated[float, Field(gt=0.0, le=1e9)]] | None = None
    """One weight a class, labels sorted, or `balanced`: samples / (classes * samples of the class), in training. The
    loss of a sample is multiplied by the weight of its class, divided by the mean weight of the training samples. So
    only ratios of weights count, they act the same at every batch size, and the loss of each split is weighted like
    this."""
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)


class MSE(Strict):
    name: Literal["mse"] = "mse"


class MAE(Strict):
    name: Literal["mae"] = "mae"


class Huber(Strict):
    name: Literal["huber"] = "huber"
    delta: float = Field(1.0, gt=0.0)
    """The error from which on the loss grows linearly; of scaled values it is in standard deviations."""


class BCE(Strict):
    """For two classes, or several yes-or-no targets a sequence; computed from logits."""

    name: Literal["bce"] = "bce"


class Warm(Strict):
    warmup_steps: int = Field(0, ge=0, le=10_000_000)
    """Updates over which the learning rate rises linearly to its full value."""


class Constant(Warm):
    name: Literal["constant"] = "constant"


class Step(Warm):
    """Multiplies the learning rate by gamma every step_size epochs."""

    name: Literal["step"] = "step"
    step_size: int = Field(10, ge=1)
    gamma: float = Field(0.1, gt=0.0, le=1.0)


class Cosine(Warm):
    """Falls along half a cosine over the whole run, update by update, to min_lr (Loshchilov and Hutter 2017)."""

    name: Literal["cosine"] = "cosine"
    min_lr: float = Field(0.0, ge=0.0)
    """At most optimizer.lr."""


class OneCycle(Strict):
    """Rises to optimizer.lr and falls far below where it began (Smith and Topin 2018), update by update."""

    name: Literal["one_cycle"] = "one_cycle"
    pct_start: float = Field(0.3, gt=0.0, lt=1.0)
    div_factor: float = Field(25.0, gt=1.0)
    final_div_factor: float = Field(1e4, gt=1.0)


class Plateau(Warm):
    """Multiplies the learning rate by factor when the watched loss has not fallen for more than `patience` epochs."""

    name: Literal["plateau"] = "plateau"
    factor: float = Field(0.1, gt=0.0, lt=1.0)
    patience: int = Field(10, ge=0)
    threshold: float = Field(1e-4, ge=0.0)
    min_lr: float = Field(0.0, ge=0.0)
    """At most optimizer.lr."""


class EarlyStopping(Strict):
    """Ends the run when `best_by` has not improved for `patience` epochs; the best weights are the result. It watches
    the validation split, or the training split where there is no other."""

    patience: int = Field(10, ge=1)
    min_delta: float = Field(0.0, ge=0.0)


class OnDivergence(Strict):
    """Where a loss or gradient is not finite, training goes back to the end of its best epoch (or to its start where
    there is none) and on from there: with the weights of then, a fresh optimizer and a lower learning rate."""

    rollback: bool = True
    """False ends the run, as null does."""
    lr_factor: float = Field(0.5, gt=0.0, le=1.0)
    """What every later learning rate is multiplied by, anew at each rollback."""
    at_most: int = Field(2, ge=1, le=100)
    """Rollbacks in one run; a divergence after them ends it."""


Optimizer = Annotated[Adam | AdamW | SGD | RMSprop, Field(discriminator="name")]
Loss = Annotated[CrossEntropy | MSE | MAE | Huber | BCE, Field(discriminator="name")]
LRSchedule = Annotated[Constant | Step | Cosine | OneCycle | Plateau, Field(discriminator="name")]


class Training(Strict):
    """The clipped training loop. It computes in float32: a number that float32 cannot hold (above 3.4e38, or below
    1.18e-38 and not 0) is refused."""

    epochs: int = Field(20, ge=1, le=1_000_000)
    batch_size: int = Field(64, ge=1, le=1_000_000)
    """Samples a forward pass; with accumulation_steps, an update sees batch_size * accumulation_steps of them."""
    accumulation_steps: int = Field(1, ge=1, le=100_000)
    loss: Annotated[Loss | None, _named(Loss | None)] = None
    """Unless said: cross_entropy for classes, bce for several yes-or-no targets, mse for values."""
    optimizer: Annotated[Optimizer, _named(Optimizer, "adam")] = Adam()
    max_grad_norm: float | None = Field(1.0, gt=0.0)
    """Bound on the global norm of the gradient (Pascanu et al. 2013); null turns clipping off."""
    max_grad_value: float | None = Field(None, gt=0.0)
    """Bound on every single element of the gradient, applied before the norm's; null turns it off."""
    lr_schedule: Annotated[LRSchedule, _named(LRSchedule, "constant")] = Constant()
    early_stopping: EarlyStopping | None = None
    on_divergence: OnDivergence | None = None
    """Null ends a run that diverges; its last good weights are in the last checkpoint."""
    best_by: Literal[tuple(MEASURES)] = "loss"  # type: ignore[valid-type]
    """What makes an epoch the best one, on the validation split (on the training split where there is no other). For
    r2 the targets there must vary."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """Weights are float32 always. Where a machine cannot compute the recurrent layers in bf16 or fp16 (bf16 LSTMs on a
    CPU need AVX-512), it computes them in float32; an event and `precision_of_layers` in model.json say so."""
    seed: int = Field(0, ge=0, lt=2**63)
    deterministic: bool = False
    """On CUDA: only deterministic kernels. On the CPU every run is deterministic."""


class Synthetic(Strict):
    """Random sequences with random labels: good for timing and trying out; there is nothing in them to learn. samples *
    length * features * 4 bytes are at most 4 GiB."""

    samples: int = Field(1000, ge=4, le=1_000_000)
    length: int = Field(50, ge=1, le=100_000)
    features: int = Field(10, ge=1, le=10_000)
    classes: int = Field(2, ge=2, le=10_000)
    seed: int = Field(0, ge=0, lt=2**63)


class Split(Strict):
    """How samples divide. A fraction is drawn, stratified where there are classes; `given` takes the data set's own. A
    fraction above 0 takes at least one sample; where none can be taken, the job is refused."""

    validation: Literal["given"] | Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Unless said: the data set's own, or else 0.2."""
    test: Literal["given"] | Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Unless said: the data set's own, or else 0.0."""
    method: Literal["random", "content"] = "random"
    """How a fraction is drawn. `content`: what a sequence holds decides its part, so it stays in that part in every
    later version of the data set, and no model is judged by what an earlier one was trained on."""
    stratify: bool = True
    """Of the method `random`: each class in proportion."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Apart from training.seed, so that runs with other seeds are judged on the same samples."""


class Data(Strict):
    """Where the sequences come from, and how they are prepared. Give `dataset` or `synthetic`."""

    dataset: Plain | None = Field(None, min_length=1, max_length=1024)
    """The name or id of an uploaded data set; without the service, the path of an .npz beside the spec."""
    synthetic: Synthetic | None = None
    split: Split = Split()
    scaling: Literal["none", "standard", "minmax"] = "none"
    """Of each feature, fitted on the training split only and saved with the model."""
    target_scaling: Literal["none", "standard"] | None = None
    """Of each value to predict. Unless said: `standard` (the value minus its mean, divided by its standard deviation),
    fitted on the training split only and saved with the model. Losses are of the scaled values; mae, rmse and r2 are in
    the data's unit."""
    bucketing: bool = True
    """Batches of similar lengths where lengths differ: several times faster, in a random order all the same."""


class Checkpoints(Strict):
    """When training saves a place from which it can go on exactly, besides once at the end of every run.

    The best weights so far are in every checkpoint, so that none of these settings can lose them.
    """

    every_seconds: float | None = Field(30.0, gt=0.0)
    """A bound on what a crash costs; time is the measure that suits short epochs and long ones."""
    every_epochs: int | None = Field(None, ge=1)
    every_steps: int | None = Field(None, ge=1)
    keep_last: int = Field(2, ge=1, le=1000)
    """How many are kept, beside the newest that was taken at the best epoch."""


class Limits(Strict):
    max_runtime_seconds: int | None = Field(3600, ge=1, le=365 * 86400)
    """Of all attempts together; the last checkpoint is kept."""
    max_queue_seconds: int | None = Field(None, ge=1, le=365 * 86400)
    max_stall_seconds: int | None = Field(600, ge=1, le=365 * 86400)
    """Without any sign of progress from training for so long, it is killed and tried once more; more than the longest
    step and the longest evaluation take. Null lets it hang."""
    max_retries: int = Field(2, ge=0, le=100)
    """Further tries after a transient failure; a diverged run, bad data or a run that cannot be built is never tried
    again."""


MODEL_NAME = r"^[a-z0-9][a-z0-9._-]{0,99}$"
ALIAS = r"^[a-z][a-z0-9._-]{0,62}$"
ALIAS_OR_VERSION = r"^([a-z][a-z0-9._-]{0,62}|[1-9][0-9]{0,8})$"


class Gate(Strict):
    """When a retrained model is better than the one before: on the same test samples, by enough, and not by luck."""

    metric: Literal[tuple(MEASURES)] | None = None  # type: ignore[valid-type]
    """What both are judged by; unless said, accuracy for classes and yes-or-no targets, rmse for values."""
    margin: float = Field(0.0, ge=0.0)
    """In the metric's units: the improvement is at least so much, with a confidence of 1 - error_rate."""
    error_rate: float = Field(0.05, ge=0.001, le=0.5)
    """How often a model that is no better may pass by the luck of the test samples."""
    against: str | None = Field(None, pattern=ALIAS_OR_VERSION)
    """The alias or version of the model that it has to beat; unless said, the alias that it is to get."""
    at_least: float | None = None
    """The metric's worst value that may pass, whatever is in production: the bar for the first model too. For accuracy
    the least (from 0 to 1), for loss, mae and rmse the most (0 or more), for r2 the least (up to 1)."""


class Retrain(Strict):
    """What becomes of the result: the next version of a model in the registry, and an alias if it passes the gate."""

    model: str = Field(pattern=MODEL_NAME)
    """The model's name in the registry; its first version makes it."""
    warm_start: str | None = Field(None, pattern=ALIAS_OR_VERSION)
    """The alias or version whose weights and scaling training begins with (`production`); null: from scratch. Where
    there is none yet, or its network is another one, training begins from scratch, and an event says so."""
    promote: str | None = Field("production", pattern=ALIAS)
    """The alias that points at the new version when it passes the gate; null leaves all aliases where they are."""
    gate: Gate | None = Gate()
    """Null promotes whatever comes out."""
    drift: bool = True
    """Whether to report how the training samples differ from those that the model it is compared with had."""


Tag = Annotated[Plain, Field(min_length=1, max_length=100)]


class Spec(Strict):
    """One job as asked for; immutable once accepted."""

    name: Plain | None = Field(None, min_length=1, max_length=200)
    preset: Literal[tuple(PRESETS)] | None = None  # type: ignore[valid-type]
    architecture: Architecture
    training: Training = Training()
    data: Data
    checkpoints: Checkpoints = Checkpoints()
    retrain: Retrain | None = None
    """Null leaves the result with the job."""
    limits: Limits = Limits()
    queue: str = Field("default", pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    priority: int = Field(0, ge=-1000, le=1000)
    """Higher runs first."""
    tags: dict[Tag, Tag] = Field({}, max_length=50)

    def document(self) -> dict[str, Any]:
        """The spec as plain JSON, every default filled in; parse() of it gives an equal spec."""
        return self.model_dump(mode="json")
