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
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        frozen=True,
        use_attribute_docstrings=True,
        serialize_by_alias=True,
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
    """The network is a recurrent cell, a pooling over time and a linear head. Its input and output sizes come from the
    data."""

    cell: Literal["rnn", "lstm", "gru"] = "gru"
    """nn.RNN, nn.LSTM or nn.GRU. A spec that names neither a cell nor a preset leaves the network open: then all that
    it does not state is chosen for the data set, as [defaults.md](defaults.md) says."""
    nonlinearity: Literal["tanh", "relu"] | None = None
    """For an `rnn` cell only; null means tanh."""
    hidden_size: int = Field(128, ge=1, le=8192)
    """Units in each direction of each layer."""
    num_layers: int = Field(1, ge=1, le=16)
    """Recurrent layers in a stack."""
    bidirectional: bool = False
    """True adds a second set of weights that reads each sequence backwards."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Dropout between the recurrent layers, as in torch. It needs at least two layers."""
    pooling: Literal["last", "final", "mean", "max", "attention", "none"] = "last"
    """The input of the head. `last`: the output at the last valid step. `final`: the last state of each direction.
    `mean`, `max`, `attention`: all valid steps, pooled. `none`: each valid step, for data with a class for each step
    and for `task: next_step`. With these `last` becomes `none`, and the other poolings are rejected."""
    batch_norm: bool = False
    """True adds BatchNorm1d before the head."""
    head_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Dropout between the pooled output and the head."""
    init: Literal["default", "xavier", "orthogonal", "kaiming", "identity"] = "default"
    """How recurrent weights are initialised; `default` is torch's way. `identity` is for relu RNNs (Le et al. 2015)."""
    forget_gate_bias: float | None = Field(None, ge=-10.0, le=10.0)
    """For an `lstm` cell only: the initial total bias of the forget gate; 1.0 is common (Jozefowicz et al. 2015)."""


class Adam(Strict):
    name: Literal["adam"] = "adam"
    lr: float = Field(1e-3, gt=0.0, le=10.0)
    """The learning rate: the step size of an update, before `lr_schedule` changes it."""
    weight_decay: float = Field(0.0, ge=0.0, le=10.0)
    """An L2 penalty: this times each weight is added to its gradient. 0 turns it off."""
    betas: tuple[Annotated[float, Field(ge=0.0, lt=1.0)], Annotated[float, Field(ge=0.0, lt=1.0)]] = Field(
        (0.9, 0.999), strict=False
    )
    """How slowly the running means of the gradient and of its square change: each is 0 or more, and less than 1. The
    defaults are torch's."""
    eps: float = Field(1e-8, gt=0.0, le=1.0)
    """A small number added to the denominator, so that nothing is divided by zero. The default is torch's."""


class AdamW(Adam):
    name: Literal["adamw"] = "adamw"  # type: ignore[assignment]
    weight_decay: float = Field(0.01, ge=0.0, le=10.0)
    """Each update first multiplies each weight by 1 - learning rate * weight_decay (Loshchilov and Hutter 2019). 0
    turns it off."""


class SGD(Strict):
    name: Literal["sgd"] = "sgd"
    lr: float = Field(1e-2, gt=0.0, le=100.0)
    """The learning rate: the step size of an update, before `lr_schedule` changes it."""
    weight_decay: float = Field(0.0, ge=0.0, le=10.0)
    """An L2 penalty: this times each weight is added to its gradient. 0 turns it off."""
    momentum: float = Field(0.0, ge=0.0, lt=1.0)
    """The share of the previous update direction that is kept in the next one. 0 turns momentum off."""
    nesterov: bool = False
    """True uses Nesterov's momentum. It needs `momentum` above 0."""


class RMSprop(Strict):
    name: Literal["rmsprop"] = "rmsprop"
    lr: float = Field(1e-2, gt=0.0, le=10.0)
    """The learning rate: the step size of an update, before `lr_schedule` changes it."""
    weight_decay: float = Field(0.0, ge=0.0, le=10.0)
    """An L2 penalty: this times each weight is added to its gradient. 0 turns it off."""
    momentum: float = Field(0.0, ge=0.0, lt=1.0)
    """The share of the previous update direction that is kept in the next one. 0 turns momentum off."""
    alpha: float = Field(0.99, ge=0.0, lt=1.0)
    """How slowly the running mean of the squared gradient changes. The default is torch's."""
    eps: float = Field(1e-8, gt=0.0, le=1.0)
    """A small number added to the denominator, so that nothing is divided by zero. The default is torch's."""


class CrossEntropy(Strict):
    """This loss is for one class per sequence, for a class for each step, and for the next step of a text. With a class
    for each step it is a mean over the valid steps. The next step of a text takes neither weights nor smoothing."""

    name: Literal["cross_entropy"] = "cross_entropy"
    class_weights: Literal["balanced"] | list[Annotated[float, Field(gt=0.0, le=1e9)]] | None = None
    """A list with one weight per class, in the order of the sorted labels. Or `balanced`: each weight is samples /
    (classes * samples of the class), counted in the training split. The loss of a sample is multiplied by the weight of
    its class, divided by the mean weight of the training samples. So only ratios of weights matter, and they have the
    same effect at every batch size. The loss of every split is weighted in this way."""
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    """The share of each target that is spread evenly over all classes (Szegedy et al. 2016). 0 turns this off.
    With smoothing no loss reaches 0: with 0.1 and 9 classes it is at least 0.485, even if every answer is right."""


class MSE(Strict):
    name: Literal["mse"] = "mse"


class MAE(Strict):
    name: Literal["mae"] = "mae"


class Huber(Strict):
    name: Literal["huber"] = "huber"
    delta: float = Field(1.0, gt=0.0)
    """Above this error the loss grows linearly. With `data.target_scaling: standard` it is in standard deviations."""


class Pinball(Strict):
    """The quantile loss, for forecasts with `task.quantiles` (Koenker and Bassett 1978)."""

    name: Literal["pinball"] = "pinball"


class BCE(Strict):
    """This loss is for two classes, or several yes-or-no targets per sequence. It is computed from logits."""

    name: Literal["bce"] = "bce"
    pos_weight: (
        Literal["balanced"]
        | Annotated[float, Field(gt=0.0, le=1e9)]
        | Annotated[list[Annotated[float, Field(gt=0.0, le=1e9)]], Field(min_length=1)]
        | None
    ) = None
    """What the loss of each yes is multiplied by: one number, a list with one for each label, or `balanced`: the number
    of noes divided by the number of yeses of the label, counted in the training split. Of two classes the second one
    is the yes."""


class Warm(Strict):
    warmup_steps: int = Field(0, ge=0, le=10_000_000)
    """For this many updates the learning rate rises linearly to its full value."""


class Constant(Warm):
    name: Literal["constant"] = "constant"


class Step(Warm):
    """Every step_size epochs the learning rate is multiplied by gamma."""

    name: Literal["step"] = "step"
    step_size: int = Field(10, ge=1)
    """The number of epochs between two reductions of the learning rate."""
    gamma: float = Field(0.1, gt=0.0, le=1.0)
    """Each reduction multiplies the learning rate by this factor. The default divides it by 10."""


class Cosine(Warm):
    """The learning rate falls along half a cosine to min_lr over the whole run. It changes at every update (Loshchilov
    and Hutter 2017)."""

    name: Literal["cosine"] = "cosine"
    min_lr: float = Field(0.0, ge=0.0)
    """The lowest learning rate. It is at most optimizer.lr."""


class OneCycle(Strict):
    """The learning rate rises to optimizer.lr and then falls far below its start. It changes at every update (Smith and
    Topin 2018)."""

    name: Literal["one_cycle"] = "one_cycle"
    pct_start: float = Field(0.3, gt=0.0, lt=1.0)
    """The share of all updates during which the learning rate rises."""
    div_factor: float = Field(25.0, gt=1.0)
    """The learning rate starts at optimizer.lr / div_factor."""
    final_div_factor: float = Field(1e4, gt=1.0)
    """It ends at optimizer.lr / div_factor / final_div_factor."""


class Plateau(Warm):
    """The learning rate is multiplied by factor if the loss has not fallen for more than `patience` epochs. This
    loss is computed on the validation split, or on the training split if there is no validation split."""

    name: Literal["plateau"] = "plateau"
    factor: float = Field(0.1, gt=0.0, lt=1.0)
    """Each reduction multiplies the learning rate by this factor. The default divides it by 10."""
    patience: int = Field(10, ge=0)
    """Epochs without a lower loss that are accepted before the learning rate is reduced."""
    threshold: float = Field(1e-4, ge=0.0)
    """The loss counts as fallen if it is below best loss * (1 - threshold)."""
    min_lr: float = Field(0.0, ge=0.0)
    """The lowest learning rate. It is at most optimizer.lr."""


class EarlyStopping(Strict):
    """The run ends if `best_by` has not improved for `patience` epochs. The best weights are the result. The metric is
    computed on the validation split, or on the training split if there is no validation split."""

    patience: int = Field(10, ge=1)
    """Epochs without an improvement after which the run ends."""
    min_delta: float = Field(0.0, ge=0.0)
    """A change of `best_by` counts as an improvement only if it is larger than this."""


class OnDivergence(Strict):
    """If a loss or gradient is not finite, training goes back to the end of its best epoch, or to its start if there is
    none. It continues from there with the weights of that epoch, a new optimizer and a lower learning rate."""

    rollback: bool = True
    """False ends the run, like `on_divergence: null`."""
    lr_factor: float = Field(0.5, gt=0.0, le=1.0)
    """Each rollback multiplies all later learning rates by this factor."""
    at_most: int = Field(2, ge=1, le=100)
    """The largest number of rollbacks in one run. The next divergence ends the run."""


Optimizer = Annotated[Adam | AdamW | SGD | RMSprop, Field(discriminator="name")]
Loss = Annotated[CrossEntropy | MSE | MAE | Huber | Pinball | BCE, Field(discriminator="name")]
LRSchedule = Annotated[Constant | Step | Cosine | OneCycle | Plateau, Field(discriminator="name")]


class Training(Strict):
    """These fields control the training loop. It computes in float32. So a number that float32 cannot hold (above
    3.4e38, or below 1.18e-38 and not 0) is rejected."""

    epochs: int = Field(20, ge=1, le=1_000_000)
    """The largest number of passes over the training samples. `early_stopping` may end the run sooner."""
    batch_size: int = Field(64, ge=1, le=1_000_000)
    """Samples per forward pass. An update uses batch_size * accumulation_steps samples."""
    accumulation_steps: int = Field(1, ge=1, le=100_000)
    """Forward and backward passes per update."""
    bptt_steps: int | None = Field(None, ge=1, le=1_000_000)
    """The steps of a window of truncated back-propagation through time, for data with a target at each step. Longer
    sequences are trained in windows of so many steps, one after the other, and an update sees one window of each
    sequence of a batch. A window begins with the state that the one before it left, and the gradient stops at its
    border. So a network can be trained on sequences of any length, but learns only what at most so many steps show.
    Null: 64 for `task: next_step`; with other tasks the gradient goes back to the beginning of each sequence."""
    loss: Annotated[Loss | None, _named(Loss | None)] = None
    """Null: cross_entropy for classes (also of steps), bce for several yes-or-no targets, mse for values and forecasts,
    pinball for forecasts with quantiles."""
    optimizer: Annotated[Optimizer, _named(Optimizer, "adam")] = Adam()
    """The method that updates the weights, with its learning rate `lr`."""
    max_grad_norm: float | None = Field(1.0, gt=0.0)
    """The largest global norm of the gradient (Pascanu et al. 2013). Null turns this clipping off."""
    max_grad_value: float | None = Field(None, gt=0.0)
    """The largest absolute value of each element of the gradient, applied before max_grad_norm. Null turns this
    clipping off."""
    lr_schedule: Annotated[LRSchedule, _named(LRSchedule, "constant")] = Constant()
    """How the learning rate changes during the run. `constant` keeps it at optimizer.lr, after any warm-up."""
    early_stopping: EarlyStopping | None = None
    """Null trains for all epochs."""
    on_divergence: OnDivergence | None = None
    """Null ends a run that diverges. Its last good weights are in the last checkpoint."""
    best_by: Literal[tuple(MEASURES)] = "loss"  # type: ignore[valid-type]
    """The metric that decides which epoch is the best. It is computed on the validation split, or on the training split
    if there is no validation split. For r2 the targets of that split must vary."""
    keep: Literal["best", "last"] = "best"
    """The epoch whose weights are the result. `last` chooses no epoch by validation data, as suits few samples: which
    epoch is the best on ten of them is mostly luck. It cannot be combined with early_stopping."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """The precision of the computation; weights are always float32. If a machine cannot compute the recurrent layers in
    bf16 or fp16, it computes them in float32. (For example, bf16 LSTMs on a CPU need AVX-512.) Then an event and
    `precision_of_layers` in model.json say so."""
    seed: int = Field(0, ge=0, lt=2**63)
    """The seed of every random choice of a run, such as the initial weights, the order of the samples and dropout. The
    split and synthetic data have their own seeds."""
    deterministic: bool = False
    """True uses only deterministic kernels on CUDA. On the CPU every run is deterministic."""
    engine: Literal["auto", "torch", "compiled"] = "auto"
    """What computes the recurrent layers on a CPU: those of PyTorch, or compiled ones, which are faster and give the
    same numbers but for rounding. `auto` takes the compiled ones where it can: in float32, on a worker that has them.
    If `compiled` is not possible, PyTorch is used, and an event says why. A run that PyTorch began goes on with it, so
    that resuming changes no number. The result's model.json names the engine."""


class Synthetic(Strict):
    """These are random sequences with random labels, for timing and trying out. They contain nothing to learn.
    samples * length * features * 4 bytes is at most 4 GiB."""

    samples: int = Field(1000, ge=4, le=1_000_000)
    """The number of sequences."""
    length: int = Field(50, ge=1, le=100_000)
    """Steps per sequence; all sequences are equally long."""
    features: int = Field(10, ge=1, le=10_000)
    """Numbers per step."""
    classes: int = Field(2, ge=2, le=10_000)
    """The number of different labels. Each sequence has one label."""
    seed: int = Field(0, ge=0, lt=2**63)
    """The seed of the random numbers. The same seed and sizes give the same data."""


class Split(Strict):
    """These fields divide the samples into training, validation and test. A number is the fraction of the samples, and
    `method` says which ones. `given` uses the split of the data set. A fraction above 0 takes at least one sample. If
    it cannot, the job is rejected."""

    validation: Literal["given"] | Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Null uses the split of the data set, or 0.2 if it has none."""
    test: Literal["given"] | Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Null uses the split of the data set, or 0.0 if it has none."""
    method: Literal["random", "group", "time", "given", "content"] = "random"
    """Which samples make up a fraction. `random`: any. `group`: whole groups, such as all sequences of one person, so
    no group is in two parts. `time`: the latest by the time of their last step, so the past is trained on and the
    future is the test; samples of the same time are in the same part. `given`: all parts are those of the data set.
    `content`: the values of a sequence decide its part. So it stays in that part in every later version of the data
    set, and no model is tested on samples that an earlier one was trained on."""
    by: Plain | None = Field(None, min_length=1, max_length=1024)
    """For the method `group`: the column whose values are the groups. It is one of the columns that name a sequence, or
    one with a value for each sequence. Null: the first column that names a sequence."""
    folds: int | None = Field(None, ge=2, le=20)
    """Cross-validation: so many models are trained one after the other as one job, and each sample outside the test is
    in the validation part of one of them. The result reports each fold, the mean and the spread. Then the model to use
    is trained on all these samples, for the mean of the folds' best epochs. [folds.md](folds.md) explains it. Leave
    `validation` out. With `time`, each fold trains on the past and is validated on the period after it. Null trains one
    model."""
    stratify: bool = True
    """For the method `random`: draw the same fraction of each class. Data with a class for each
    step, with labels or with values is never stratified."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Separate from training.seed, so that runs with different training seeds are tested on the same samples."""
    train_on_validation: bool = False
    """True draws the parts as usual, so the test part stays the same, and then trains on the samples of the validation
    part too. Nothing is left to choose an epoch by, so it needs `training.keep: last`. The final model of a search is
    trained in this way."""
    evaluate_test: bool = True
    """False sets the test part aside and does not test the model on it. So it stays unseen while models are compared;
    the trials of a search are trained in this way."""


Column = Annotated[Plain, Field(min_length=1, max_length=200)]
Columns = Annotated[list[Column], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


class Schema(Strict):
    """Which columns of a table are what. `loopline submit` sends these fields with a file that it uploads; the service
    infers the others. If `dataset` is the name of a data set, its columns must be what these fields say."""

    layout: Literal["wide", "long", "files", "text"] | None = None
    """`wide`: a row is a sequence. `long`: a row is a step. `files`: a file is a sequence. `text`: a row is a text."""
    group: Columns | None = None
    """The columns that name the sequence, or series, of a row."""
    order: Column | None = None
    """The column that orders the steps of a sequence: a number, a date or a time."""
    features: Columns | None = None
    """The columns that the model reads at each step."""
    static: Columns | None = None
    """The columns that have one value for each sequence."""
    text: Column | None = None
    """The column of texts."""
    target: Columns | None = None
    """The columns to predict."""
    known_future: Columns | None = None
    """The features whose values are known ahead of time, such as holidays."""
    weight: Column | None = None
    """The column with the weight of each sequence in the loss."""
    split: Column | None = None
    """The column that says train, validation or test for each sequence."""


class Text(Strict):
    """These fields say how texts become sequences of numbers. Each text is normalised (Unicode NFC) and cut into
    characters or words. A word is letters, digits and underscores in a row; any other character that is no white space
    is a word of its own. The vocabulary is made from the training split alone and saved with the model. The network
    reads a vector for each entry, which is trained. Everything else is one entry of its own, `unknown`."""

    by: Literal["characters", "words"] | None = None
    """Null: `words`, or `characters` if the median text has at most 3 words. Such texts are names, codes, DNA, or in a
    language without spaces, and their characters say more than whole words, most of which occur once. Longer texts are
    read by words because a sequence is then about five times shorter."""
    lowercase: bool = True
    """False keeps capital letters apart from small ones."""
    max_vocabulary: int = Field(20_000, ge=1, le=200_000)
    """The most frequent entries of the training split are kept, at most so many. If several are equally frequent, those
    that come first in Unicode's order are kept."""
    min_count: int = Field(2, ge=1, le=1_000_000)
    """Entries that occur less often in the training split are unknown. With 1 the vector of unknown words is trained
    only if `max_vocabulary` leaves words out."""
    embedding_size: int | None = Field(None, ge=1, le=1024)
    """The size of the vectors. Null: half the number of entries, at most 50."""


class Data(Strict):
    """These fields choose the sequences and how they are prepared. Give either `dataset` or `synthetic`.

    The preparation has an order. First `max_length` and `stride` choose the steps. Then `missing` fills gaps,
    `differences` are taken, numbers are scaled, categories become channels, and mask channels are appended. Last,
    `patch` puts steps side by side. All that is computed from data is computed from the training split alone. It is
    saved with the model and applied to every split.
    """

    dataset: Plain | None = Field(None, min_length=1, max_length=1024)
    """The name or id of an uploaded data set. `loopline submit` and `python -m services.training` take the path of
    a file too."""
    schema_: Schema | None = Field(None, alias="schema")
    """Which columns of the table are what. Null leaves everything to be inferred."""
    text: Text | None = None
    """How texts are read. Null: as the defaults say, if the data set has texts."""
    synthetic: Synthetic | None = None
    """Random sequences in the place of a data set. Null: `dataset` names the data."""
    split: Split = Split()
    """How the samples are divided into training, validation and test."""
    max_length: int | None = Field(None, ge=1, le=10_000_000)
    """The largest number of steps of a sequence; the rest is cut off. The steps of a text are its characters or words.
    Null cuts nothing."""
    cut: Literal["start", "end"] = "end"
    """Where `max_length` cuts: `end` keeps the first steps, `start` keeps the last ones."""
    stride: int = Field(1, ge=1, le=1_000_000)
    """2 reads every second step, 3 every third, beginning with the first step that `max_length` leaves."""
    missing: Literal["refuse", "drop", "forward", "mean", "linear"] = "refuse"
    """What to do about missing values. `refuse`: reject the job. `drop`: leave out sequences that have any; an event
    says how many. `forward`: repeat the value before; a gap at the start gets the mean of the training split. `mean`:
    the mean of the training split. `linear`: a line between the values on both sides; a gap at the start or at the end
    repeats the nearest value. A category gets the commonest word instead of a mean, and with `linear` the word before.
    A value of a whole sequence gets the mean. A forecast also adds the rows that its series lack, and `drop` leaves out
    the windows with a gap."""
    missing_mask: bool = False
    """True appends a channel for each feature with gaps in the training split: 1 where a value was missing, else 0."""
    differences: Literal["append", "replace"] | None = None
    """The change of each number since the step before (0 at the first step): appended as features, or instead of the
    numbers. Null takes none."""
    categories: Literal["one_hot", "embedding"] = "one_hot"
    """How the network reads a feature of words. `one_hot`: a channel for each word of the training split. `embedding`:
    a vector for each word, which is trained. A word that the training split does not have is zeros in both. Values of
    whole sequences are always one-hot."""
    embedding_size: int | None = Field(None, ge=1, le=1024)
    """The size of the vectors. Null: half the number of words, at most 50."""
    scaling: Literal["none", "standard", "minmax", "robust"] = "none"
    """The scaling of each feature. `standard`: minus the mean, divided by the standard deviation. `minmax`: from 0 to
    1. `robust`: minus the median, divided by the distance between the quartiles. It is fitted on the training split
    only and saved with the model. Values of whole sequences are scaled too."""
    scaling_over: Literal["train", "per_sequence"] = "train"
    """What the scaling is computed from. `per_sequence`: each sequence is scaled by its own steps. Values of whole
    sequences are scaled over the training split all the same."""
    patch: int = Field(1, ge=1, le=10_000)
    """This many steps become one, with their channels side by side. Long series train about this many times faster.
    The last patch of a sequence is filled up with zeros."""
    target_scaling: Literal["none", "standard"] | None = None
    """The scaling of each value to predict. `standard`: the value minus its mean, divided by its standard deviation.
    Null means `standard` if the targets are values. It is fitted on the training split only and saved with the model.
    Losses are computed from the scaled values; mae, rmse and r2 are in the data's unit."""
    bucketing: bool = True
    """If lengths differ, put sequences of similar length into one batch. This is several times faster. The order stays
    random."""


class Checkpoints(Strict):
    """These fields say when training saves a checkpoint, from which it can continue exactly. It always saves one at the
    end of a run.

    Every checkpoint contains the best weights so far, so no choice of these settings can lose them.
    """

    every_seconds: float | None = Field(30.0, gt=0.0)
    """A crash loses at most this much training. The default is a time, because a time suits short and long epochs."""
    every_epochs: int | None = Field(None, ge=1)
    """A checkpoint is also saved at the end of every epoch whose number is a multiple of this. Null turns this off."""
    every_steps: int | None = Field(None, ge=1)
    """A checkpoint is also saved after every update whose number is a multiple of this. Null turns this off."""
    keep_last: int = Field(2, ge=1, le=1000)
    """How many checkpoints are kept, in addition to the newest one of the best epoch."""


class Limits(Strict):
    max_runtime_seconds: int | None = Field(3600, ge=1, le=365 * 86400)
    """The job ends after it has run for this long, all attempts together. Its last checkpoint is kept."""
    max_queue_seconds: int | None = Field(None, ge=1, le=365 * 86400)
    """The job fails if no worker starts it within this time."""
    max_stall_seconds: int | None = Field(600, ge=1, le=365 * 86400)
    """If training shows no progress for this long, it is killed and retried once. Choose more than the longest step and
    the longest evaluation take. Null never kills it."""
    max_retries: int = Field(2, ge=0, le=100)
    """How often a job is retried after a transient failure. A run that diverged, that cannot be built or that has bad
    data is never retried."""


MODEL_NAME = r"^[a-z0-9][a-z0-9._-]{0,99}$"
ALIAS = r"^[a-z][a-z0-9._-]{0,62}$"
ALIAS_OR_VERSION = r"^([a-z][a-z0-9._-]{0,62}|[1-9][0-9]{0,8})$"


class Gate(Strict):
    """The gate decides whether a retrained model is better than the previous one. On the same test samples it must be
    better by at least `margin`, and the difference must be statistically significant."""

    metric: Literal[tuple(MEASURES)] | None = None  # type: ignore[valid-type]
    """The metric by which both are compared. Null: accuracy for classes and yes-or-no targets, rmse for
    values, mase for forecasts."""
    margin: float = Field(0.0, ge=0.0)
    """The smallest improvement that passes, in the unit of the metric. The improvement must be at least this
    large with a confidence of 1 - error_rate."""
    error_rate: float = Field(0.05, ge=0.001, le=0.5)
    """The probability that a model which is not better passes, because of the choice of the test samples."""
    against: str | None = Field(None, pattern=ALIAS_OR_VERSION)
    """The alias or version that the new model has to beat. Null: the alias in `promote`."""
    at_least: float | None = None
    """The worst value of the metric that passes, whatever is in production. It applies to the first model too. For
    accuracy it is a minimum (0 to 1), for r2 a minimum (at most 1), for loss, mae and rmse a maximum (at least 0)."""


class Retrain(Strict):
    """With these fields the result becomes the next version of a model in the registry. If it passes the gate, an alias
    is moved to it."""

    model: str = Field(pattern=MODEL_NAME)
    """The model's name in the registry. The first version creates it."""
    warm_start: str | None = Field(None, pattern=ALIAS_OR_VERSION)
    """The alias or version whose weights, scaling and vocabulary training starts with, such as `production`. Null
    starts from scratch. If the version does not exist yet or has another network, training starts from scratch and an
    event says so."""
    promote: str | None = Field("production", pattern=ALIAS)
    """The alias that is moved to the new version if it passes the gate. Null moves no alias."""
    gate: Gate | None = Gate()
    """Null promotes every result."""
    drift: bool = True
    """True reports how the training samples differ from those of the model that it is compared with."""


class Classification(Strict):
    name: Literal["classification"] = "classification"


class Regression(Strict):
    name: Literal["regression"] = "regression"


class Tagging(Strict):
    name: Literal["tagging"] = "tagging"


Season = Annotated[int, Field(ge=2, le=100_000)]
Quantile = Annotated[float, Field(gt=0.0, lt=1.0)]
CalendarName = Literal["hour", "weekday", "yearday"]


def _calendar(value: object) -> object:
    if value in ([], None):
        return "none"
    return [value] if isinstance(value, str) and value not in ("auto", "none") else value


class Forecast(Strict):
    """The next `horizon` steps of each series, from the `lookback` steps before them; a sample is a window of both.
    [forecasting.md](forecasting.md) shows how. Some defaults differ for this task: `data.scaling` is `standard`,
    `data.split.method` is `time`, both shares of the split are 0.15, `architecture.hidden_size` is 64 (a preset keeps
    its own), `training.epochs` is 30, `training.batch_size` is 32, `training.optimizer` is `{name: adam, lr: 0.003}`,
    `training.lr_schedule` is `cosine`, and `training.early_stopping` is `{patience: 8}`."""

    name: Literal["forecast"] = "forecast"
    horizon: int | None = Field(None, ge=1, le=10_000)
    """The steps to predict, all at once. Null: one season, such as the 24 steps of a day; 1 if there is no season."""
    lookback: int | None = Field(None, ge=1, le=100_000)
    """The steps that the model reads before them. Null: the longest season, or three horizons if that is more, but at
    most a quarter of the longest series."""
    stride: int | None = Field(None, ge=1, le=1_000_000)
    """The steps between the starts of two windows. 24 takes one window per day of an hourly series. Null: 1 if there
    are at most 8,000 windows. Otherwise the smallest number of steps that leaves at most 8,000 windows and has no
    factor in common with a season, so that windows start at every hour of the day. It is never more than the horizon,
    so that each step is predicted; then more windows may be left."""
    season: Annotated[
        list[Season] | None, BeforeValidator(lambda value: [value] if isinstance(value, int) else value)
    ] = Field(None, max_length=4)
    """The seasons of the baselines, in steps: a number or a list. Null: those that the time between two steps suggests,
    such as 24 and 168 for hours, 7 for days, 12 for months. The first one also scales `mase`."""
    calendar: Annotated[Literal["auto", "none"] | list[CalendarName], BeforeValidator(_calendar)] = "auto"
    """What the model also reads of the time of each step, in the look-back and in the horizon: `hour`, `weekday` or
    `yearday`, or a list of them. `auto` takes those that differ between steps and begin anew three times in the longest
    series: hour and weekday for 60 days of hours. It leaves out what a `known_future` column is named after, and what a
    `stride` with a common factor shows in part only: hour and weekday if windows are 24 hours apart. `none` takes none.
    The time is as the file has it, or in UTC if it has an offset."""
    quantiles: list[Quantile] | None = Field(None, min_length=1, max_length=99)
    """Quantiles to predict instead of one value, such as `[0.1, 0.5, 0.9]`. They need 0.5, which is the forecast that
    metrics judge. Null predicts one value."""


class NextStep(Strict):
    """The next character or word of a text, at every step. [next-step.md](next-step.md) shows how. The defaults of four
    fields are others with this task: `data.text.by` is `characters`, `data.text.lowercase` is false, and both shares of
    the split are 0.1. Of a table only the texts are read."""

    name: Literal["next_step"] = "next_step"
    joined: bool | None = None
    """True joins all texts, in their order, with a line break after each. This one text is divided by place: training
    gets its beginning, and the test its end. False keeps each text a sequence of its own, which begins and ends with a
    line break, and divides the texts as `data.split` says. Null: true if the data set has nothing but texts, as a text
    file without labels has."""


Task = Annotated[Classification | Regression | Tagging | Forecast | NextStep, Field(discriminator="name")]
NO_TASKS = {
    "text": "text is no task: use classification for texts with labels, or next_step to predict how texts go on",
}
"""Names that people give to a task."""


def _known_task(value: object) -> object:
    name = value.get("name") if isinstance(value, Mapping) else value
    if isinstance(name, str) and name in NO_TASKS:
        raise PydanticCustomError("no_task", "{why}", {"why": NO_TASKS[name]})
    return value


Tag = Annotated[Plain, Field(min_length=1, max_length=100)]


class Spec(Strict):
    """One job as asked for; immutable once accepted."""

    name: Plain | None = Field(None, min_length=1, max_length=200)
    """A name for people, shown in lists. Several jobs may have the same one. Null: the job has only its id."""
    preset: Literal[tuple(PRESETS)] | None = None  # type: ignore[valid-type]
    """A named architecture; `loopline presets` lists them. Fields in `architecture` override it."""
    task: Annotated[Task | None, _named(Task | None), BeforeValidator(_known_task)] = None
    """What is learnt; a name, or a mapping with a `name` and the fields of that name. It must fit the data set. Null
    takes what the targets are: classes and labels are classification, values regression, a class for each step tagging.
    """
    architecture: Architecture = Architecture()
    """The network."""
    training: Training = Training()
    """The epochs, the loss, the optimizer and everything else about the training loop."""
    data: Data
    """The sequences to train on, and how they are split and scaled."""
    checkpoints: Checkpoints = Checkpoints()
    """When the state of the training is saved."""
    retrain: Retrain | None = None
    """Null registers no model; the result stays with the job."""
    limits: Limits = Limits()
    """How long the job may wait and run, and how often it is retried."""
    queue: str = Field("default", pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    """Only workers that listen to this queue run the job (`LOOPLINE_QUEUES`). A job that surely needs more memory than
    each of them has is rejected."""
    priority: int = Field(0, ge=-1000, le=1000)
    """Jobs with a higher priority run first."""
    tags: dict[Tag, Tag] = Field({}, max_length=50)
    """Your own labels, by which you can filter lists and webhooks. At most 50."""

    def document(self) -> dict[str, Any]:
        """The spec as plain JSON, every default filled in; parse() of it gives an equal spec."""
        return self.model_dump(mode="json")
