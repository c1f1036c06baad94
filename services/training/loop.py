"""The training loop: epochs, records, schedules and stopping, around one step that reads from top to bottom.

    run = Run(spec, prepared, device)
    for epoch in fit(run):          # an Epoch as each one ends, None after every other update
        ...                         # record, save (checkpoint.save(run)), or break to stop

What changes of a run is its `state` (state.py), its model, its optimizer and its loss scale; checkpoint.py can save
them after any update and go on exactly.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.errors import Diverged
from services.training import epochs, gradients, lengths, measures, optimizers
from services.training.bptt import Carried, Unrolled, answer
from services.training.data import MiniBatch, Order, Part, Prepared, batches_of, in_order, in_pieces, order_of, place
from services.training.engine.choice import Engine, choose
from services.training.engine.losses import Loss
from services.training.engine.network import Network, refusal
from services.training.measures import MEASURES
from services.training.model import DTYPES, SequenceModel
from services.training.schedule import learning_rate
from services.training.spec import Spec
from services.training.spec.fields import Architecture, Plateau, Training
from services.training.state import ONLY, Batches, Best, Fold, State
from services.training.tasks.task import Judged

Epoch = epochs.Epoch

SMALLEST_LOSS_SCALE = 2.0**-14
LARGE = 1e6
"""If training diverges and the data has numbers of this size, the message names them as the likely cause."""
UPDATES_BETWEEN_LOOKS = 32
"""On a GPU the host looks at losses this often; the weights are guarded on the device meanwhile."""
EVALUATION_BATCH = 256
ANSWERS_AT_ONCE = 1 << 24
"""Numbers that the head answers with in a batch of windows in evaluation, at most."""


class Update(NamedTuple):
    """What a step reports of the update that it has made."""

    report: Tensor
    """(3,) on the device: the mean loss over the samples of the update; the gradient's norm before clipping; and 1
    where the gradient was clipped, else 0."""
    answers: Tensor
    """What the network answered in training: (samples, output_size), or one row per valid step."""
    carried: Carried = Carried()
    """The states from which the next windows of long sequences begin."""


Step = Callable[["Run", list[MiniBatch]], Update]
"""Makes one update of a run from the batches given. It raises Diverged, or raises `run.halted` on the device."""


class Run:
    """One training run: what it is made of, and everything that changes while it trains."""

    def __init__(
        self,
        spec: Spec,
        prepared: Prepared,
        device: torch.device | str = "cpu",
        initial: Mapping[str, Tensor] | None = None,
        step: Step | None = None,
        fold: Fold = ONLY,
    ) -> None:
        """`spec` has its loss filled in (spec.check_data). The first weights are `initial`, or else the seed alone
        decides them, on any device. `step` makes an update; by default compiled_step or autograd_step."""
        self.initial = initial
        self.spec, self.training, self.device = spec, _training_of(spec, fold), torch.device(device)
        self.fold = fold
        loss = self.training.loss
        assert loss is not None, "check_data() fills in the loss"  # noqa: S101
        self.data = prepared
        self.engine = choose(self.training, self.device)
        self.model = self.first_model()
        self.precision_of_layers = self.model.precision_of_layers(self.training.precision, self.device)
        self.parameters = list(self.model.parameters())
        self.statistics = list(self.model.buffers())  # of batch normalisation: a forward pass changes them
        self.train_part = self._placed(prepared.train)
        targets = self.train_part.y.to(self.device)
        self.loss = prepared.task.loss(loss, targets, prepared.output_size)
        self.losses = prepared.task.losses_of_each(loss, targets, prepared.output_size)
        self.class_weights = prepared.task.class_weights(loss, targets, prepared.output_size)
        self.step = step
        self.begin_optimizing()
        batches = Batches(evaluation=max(self.training.batch_size, EVALUATION_BATCH))
        self.state = State(batches, step=fold.steps_before)
        self.is_probed = True
        """Whether epochs measure gradients by a probe (gradients.py). It changes nothing else of a run."""

    def first_model(self) -> SequenceModel:
        """The network as it begins; what is drawn after it goes on from the seed's draw of its weights."""
        torch.manual_seed(self.training.seed)
        model = network(self.spec.architecture, self.data)
        model.compiled = self.engine.compiled
        if self.initial is not None:
            model.load_state_dict(self.initial)
        return model.to(self.device)

    def begin_optimizing(self) -> None:
        """Takes an optimizer and a loss scale that have seen no gradient."""
        self.optimizer = optimizers.make(self.training.optimizer, self.parameters)
        self.scaler = torch.amp.GradScaler(self.device.type) if self.training.precision == "fp16" else None
        # A gradient that is not finite raises this flag, and raised it turns every later update into a no-op.
        self.halted = torch.zeros((), device=self.device)
        if _guards_on_device(self):
            self.optimizer.found_inf = self.halted  # type: ignore[attr-defined]
        self.begin_momentum()
        self.compute_with(self.engine)

    def compute_with(self, engine: Engine) -> None:
        """Takes what computes layers and updates. Weights and optimizer stay as they are."""
        self.engine = engine
        self.model.compiled = engine.compiled
        whole = engine.compiled and not isinstance(self.data.train, Unrolled) and refusal(self.model) is None
        self.network: Network | None = None
        """What makes whole updates in compiled code; None if autograd does."""
        if whole and self.training.loss is not None:
            loss = Loss(self.training.loss, self.class_weights, self.data.task.quantiles)
            self.network = Network(self.model, self.optimizer, self.training, loss)
        self.make_update: Step = self.step or (autograd_step if self.network is None else compiled_step)

    def begin_momentum(self) -> None:
        """Writes zeros where torch's fused SGD would keep uninitialised memory.

        If its first update is skipped, that allocates the momentum and does not write it, and the next one takes it for
        written (torch/optim/sgd.py, _fused_sgd). From zeros the first real update is the same as without them.
        """
        may_skip = self.scaler is not None or _guards_on_device(self)
        chosen = self.training.optimizer
        if not may_skip or chosen.name != "sgd" or not chosen.momentum:
            return
        for parameter in self.parameters:
            state = self.optimizer.state[parameter]
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter)

    def weighted_loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """The mean loss over samples, each multiplied by its weight if there are weights."""
        if weights is None:
            return self.loss(outputs, targets)
        mean: Tensor = (self.losses(outputs, targets) * weights).mean()
        return mean

    def _placed(self, part: Part) -> Part:
        return place(part, self.device)

    @property
    def lengths(self) -> NDArray[np.int64] | None:
        return None if self.data.train.lengths is None else self.data.train.lengths.numpy()

    def order(self, epoch: int) -> Order:
        train = self.data.train
        if isinstance(train, Unrolled):
            return train.order(self.training.batch_size, (self.training.seed, epoch))
        return order_of(
            epoch,
            seed=self.training.seed,
            samples=len(self.data.train),
            batch_size=self.training.batch_size,
            lengths=self.lengths if self.spec.data.bucketing else None,
            least=self.least,
        )

    @property
    def least(self) -> int:
        """The fewest samples that the network trains on at a time: batch normalisation compares them."""
        return 2 if self.spec.architecture.batch_norm else 1

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.order(1)) / self.training.accumulation_steps)

    @property
    def probe_size(self) -> int:
        """The most samples of a probe: as many as training takes at a time."""
        return min(self.training.batch_size, self.state.batches.micro or self.training.batch_size)

    @property
    def probe_interval(self) -> int:
        """Every so many epochs gradients are measured."""
        return gradients.interval(self.train_part, self.training.batch_size, self.probe_size)

    @property
    def finished(self) -> bool:
        return self.state.stopping.stopped or self.state.epoch >= self.most_epochs

    @property
    def most_epochs(self) -> int:
        """Epochs after which the run ends. The learning rate follows `training.epochs` even if there are fewer."""
        return self.training.epochs if self.fold.epochs is None else self.fold.epochs

    @property
    def epochs_made(self) -> int:
        """Epochs that have ended, with those of the folds before."""
        return len(self.fold.records) + self.state.epoch

    def autocast(self) -> AbstractContextManager[Any]:
        return autocast(self.device, self.training.precision)

    def set_learning_rate(self, total_steps: int) -> float:
        rate = self.state.rollbacks.lr_factor * learning_rate(
            self.training.lr_schedule,
            self.training.optimizer.lr,
            step=self.state.step - self.fold.steps_before,
            epoch=self.state.epoch + 1,
            total_steps=total_steps,
            plateau=self.state.plateau,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def take_reports(self) -> tuple[int, list[tuple[float, float]]]:
        """The (loss, gradient norm) of the updates not taken yet, and the number of the first of them.

        None is missed by who asks at the end of each epoch at the latest. Waits for the device. Raises Diverged where
        one of them is not finite.
        """
        _look(self)
        fresh = self.state.untaken + self.state.reports[self.state.reported :]
        first = self.state.step - len(fresh) + 1
        self.state.reported, self.state.untaken = len(self.state.reports), []
        values = torch.stack(fresh).tolist() if fresh else []
        return first, [(loss, grad_norm) for loss, grad_norm, _ in values]

    def diverged(self, step: int, loss: float, grad_norm: float) -> Diverged:
        lr = self.optimizer.param_groups[0]["lr"]
        error = Diverged(epoch=self.state.epoch + 1, step=step, loss=loss, grad_norm=grad_norm, lr=lr)
        if self.fold.number:
            error.add(f"It was {self.fold.name}.")
        y = self.train_part.y
        largest_y = float(torch.stack(y.aminmax()).abs().max()) if y.is_floating_point() else 0.0
        for name, peak in (("scaling", self.train_part.peak()), ("target_scaling", largest_y)):
            if peak >= LARGE:
                what = "training data has" if name == "scaling" else "values to predict have"
                error.add(f"The {what} numbers of up to {peak:.3g}, so set data.{name} to standard first.")
        return error


def _training_of(spec: Spec, fold: Fold) -> Training:
    """The training of a spec, as one of its folds has it. Fold 1 and the final model have the spec's seed, each other
    fold the next one; and the final model has no validation part that could stop it."""
    if not fold.number:
        return spec.training
    if fold.is_last:
        return spec.training.model_copy(update={"early_stopping": None})
    return spec.training.model_copy(update={"seed": (spec.training.seed + fold.number - 1) % 2**63})


def network(architecture: Architecture, data: Prepared) -> SequenceModel:
    """The network for data that was prepared, its weights drawn from torch's generator."""
    prepared = data.preprocessing
    return SequenceModel(
        architecture,
        data.input_size,
        data.output_size,
        static_size=data.static_size,
        embeddings=prepared.embeddings,
        patch=prepared.steps.choices.patch,
    )


def fit(run: Run) -> Iterator[Epoch | None]:
    """Trains until the run is finished; yields each epoch's record as it ends, and None after every other update.

    Between two yields nothing is half done: a caller may save a checkpoint, or stop, at any of them. When the loop has
    run out, the model carries the best weights. Raises Diverged; the weights are then those of before the bad update.
    """
    while not run.finished:
        run.state.began = time.perf_counter()
        order = run.order(run.state.epoch + 1)
        pieces, counts = in_pieces(order, run.training.accumulation_steps, run.state.batches.micro, run.least)
        steps = len(counts)
        run.model.train()
        batches = batches_of(run.train_part, pieces, run.device, skip=sum(counts[: run.state.steps_in_epoch]))
        for count in counts[run.state.steps_in_epoch :]:
            rate = run.set_learning_rate(total_steps=steps * run.training.epochs)
            update = run.make_update(run, list(islice(batches, count)))
            run.state.keep(update.report, run.data.task.kept(update.answers))
            run.state.carried = update.carried
            if run.device.type != "cpu" and run.state.step % UPDATES_BETWEEN_LOOKS == 0:
                _look(run)
            if run.state.steps_in_epoch < steps:
                yield None
        _look(run)
        yield _end_epoch(run, order, rate)
    restore_best(run)


def autograd_step(run: Run, batches: list[MiniBatch]) -> Update:
    """One update: forward, backward, clip, update. Several batches are one update whose gradient is that of them all.

    On the CPU a loss or norm that is not finite raises Diverged here; on a GPU `run.halted` keeps the weights as they
    are until the host looks.
    """
    t = run.training
    for parameter in run.parameters:
        parameter.grad = None
    before = list(map(torch.clone, run.statistics))
    samples = sum(len(batch.y) for batch in batches)
    total, carried = None, run.state.carried
    answers = []
    for batch in batches:
        with run.autocast():
            outputs, carried = answer(run.model, batch, carried)  # (batch, output_size)
            outputs = outputs.float()
            loss = run.weighted_loss(outputs, batch.y, batch.weights)
        if len(batches) > 1:
            loss = loss * (len(batch.y) / samples)
        (run.scaler.scale(loss) if run.scaler else loss).backward()  # type: ignore[no-untyped-call]
        answers.append(outputs.detach())
        total = loss.detach() if total is None else total + loss.detach()
    assert total is not None, "a step has a batch"  # noqa: S101
    if run.scaler:
        run.scaler.unscale_(run.optimizer)  # before the norm is measured: clipping scaled gradients would do nothing

    gradients = [parameter.grad for parameter in run.parameters if parameter.grad is not None]
    grad_norm = global_norm(gradients)
    clipped, norm_to_bound = _clamped(run, gradients, grad_norm)
    if run.device.type == "cpu":  # reading a number costs nothing here
        loss_value, norm_value, was_clipped = float(total), float(grad_norm), bool(clipped)
        if not math.isfinite(loss_value) or (run.scaler is None and not math.isfinite(norm_value)):
            _put_back(run, before)
            raise run.diverged(run.state.step + 1, loss_value, norm_value)
        if was_clipped and t.max_grad_norm is not None:
            scale_to(gradients, norm_to_bound, t.max_grad_norm)
    else:
        if t.max_grad_norm is not None:
            scale_to(gradients, norm_to_bound, t.max_grad_norm)
        _guard(run, total, grad_norm, before)

    if run.scaler:
        run.scaler.step(run.optimizer)  # skips an update whose gradients overflowed
        run.scaler.update()
    else:
        run.optimizer.step()
    report = torch.stack((total, grad_norm, clipped))
    return Update(report, answers[0] if len(answers) == 1 else torch.cat(answers), carried)


def compiled_step(run: Run, batches: list[MiniBatch]) -> Update:
    """The same update in compiled code, on a CPU."""
    assert run.network is not None, "autograd_step is for other networks"  # noqa: S101
    before = list(map(torch.clone, run.statistics))
    answers, made = run.network.update(batches)
    if not math.isfinite(made.norm):
        _put_back(run, before)
        raise run.diverged(run.state.step + 1, made.loss, made.norm)
    return Update(torch.tensor(made), answers)


def _clamped(run: Run, gradients: list[Tensor], grad_norm: Tensor) -> tuple[Tensor, Tensor]:
    """Bound each element of the gradients, in place. Whether anything clips, and the norm that is left to bound."""
    clipped, norm_to_bound = torch.zeros_like(grad_norm), grad_norm
    if (bound := run.training.max_grad_value) is not None:
        peak = torch.stack(torch._foreach_norm(gradients, math.inf)).max()
        clipped = (peak > bound).float()
        torch._foreach_clamp_max_(gradients, bound)
        torch._foreach_clamp_min_(gradients, -bound)
        norm_to_bound = global_norm(gradients)
    if run.training.max_grad_norm is not None:
        clipped = torch.maximum(clipped, (norm_to_bound > run.training.max_grad_norm).float())
    return clipped, norm_to_bound


def global_norm(gradients: list[Tensor]) -> Tensor:
    """The 2-norm of all elements together, in the arithmetic of torch.nn.utils.get_total_norm."""
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    return norm


def scale_to(gradients: list[Tensor], grad_norm: Tensor, max_grad_norm: float) -> None:
    """Scales the gradients down to the bound (Pascanu et al. 2013), in the arithmetic of clip_grad_norm_."""
    torch._foreach_mul_(gradients, (max_grad_norm / (grad_norm + 1e-6)).clamp(max=1.0))


def _guard(run: Run, loss: Tensor, grad_norm: Tensor, before: list[Tensor]) -> None:
    """Raises `run.halted` on the device where loss or gradient is not finite, without the host waiting for it, and puts
    back the statistics of `before` while it is raised. Where the optimizer does not heed it, the host has to wait."""
    if run.scaler:
        return  # the scaler skips such updates by itself
    run.halted.copy_(torch.maximum(run.halted, (~torch.isfinite(loss + grad_norm)).float()))
    _put_back(run, before, run.halted > 0)
    if not _guards_on_device(run) and bool(run.halted):
        raise run.diverged(run.state.step + 1, float(loss), float(grad_norm))


def _put_back(run: Run, before: list[Tensor], when: Tensor | None = None) -> None:
    """Gives batch normalisation the statistics of before, on a device only `when` that is true there."""
    for statistic, was in zip(run.statistics, before, strict=True):
        statistic.copy_(was if when is None else torch.where(when, was, statistic))


def _guards_on_device(run: Run) -> bool:
    """The fused optimizers skip an update while `found_inf` is raised (the mechanism of torch's own GradScaler)."""
    return run.device.type == "cuda" and run.scaler is None and run.training.optimizer.name != "rmsprop"


def _look(run: Run) -> None:
    """Lets the host see whether the run has diverged."""
    if run.scaler and run.scaler.get_scale() < SMALLEST_LOSS_SCALE:
        raise run.diverged(run.state.step, float(run.state.reports[-1][0]), math.inf)
    if run.device.type == "cpu" or not run.state.reports:
        return  # there, the step itself has looked
    for index, (loss, grad_norm, _) in enumerate(torch.stack(run.state.reports).tolist()):
        if not math.isfinite(loss) or (run.scaler is None and not math.isfinite(grad_norm)):
            _take_back(run, index)
            raise run.diverged(run.state.step + 1, loss, grad_norm)


def _take_back(run: Run, index: int) -> None:
    """Forgets the updates of this epoch from `index` on; since `run.halted` was raised they have changed nothing."""
    run.state.step -= len(run.state.reports) - index
    del run.state.reports[index:], run.state.outputs[index:]
    run.state.carried = Carried()  # those after the last good update are gone
    run.state.reported = min(run.state.reported, index)


def _end_epoch(run: Run, order: Order, rate: float) -> Epoch:
    record = epochs.finite(_record(run, order, rate))
    run.state.history.append(record)
    run.state.epoch += 1
    watch(run, record)
    _keep_best(run, record)
    run.state.untaken = run.state.reports[run.state.reported :]
    run.state.reports, run.state.outputs, run.state.seconds, run.state.reported = [], [], 0.0, 0
    run.state.carried = Carried()
    return record


def _record(run: Run, order: Order, rate: float) -> Epoch:
    """The numbers of the epoch that has just ended: losses (means over samples), metrics, gradient health, speed."""
    reports = torch.stack(run.state.reports).double().cpu()
    accumulate = run.training.accumulation_steps
    rows = order.batches
    places = [run.train_part.places(r) for r in rows]
    sizes = [sum(len(p) for p in places[i : i + accumulate]) for i in range(0, len(rows), accumulate)]
    weights = torch.tensor(sizes, dtype=torch.float64)
    targets = run.train_part.targets(torch.from_numpy(np.concatenate(places))).to(run.device)
    train = run.data.task.metrics_of_kept(
        torch.cat(run.state.outputs), targets, run.data.output_size, run.data.target_scaling.scale
    )
    validation = evaluate(run, run.data.validation) if run.data.validation is not None else {}
    inside = probe(run) if run.is_probed and (run.state.epoch + 1) % run.probe_interval == 0 else {}
    seconds = run.state.elapsed
    norms = reports[:, 1][torch.isfinite(reports[:, 1])]
    in_fold = {"fold": run.fold.number, "fold_epoch": run.state.epoch + 1} if run.fold.number else {}
    record: Epoch = {
        "epoch": run.epochs_made + 1,
        **in_fold,
        "train_loss": float((reports[:, 0] * weights).sum() / weights.sum()),
        "validation_loss": validation.pop("loss", None),
    }
    train |= run.data.task.metrics_of_loss(record["train_loss"] or 0.0)
    record |= {f"train_{name}": value for name, value in train.items()}
    record |= {f"validation_{name}": value for name, value in validation.items()}
    return record | {
        "lr": rate,
        "grad_norm_mean": float(norms.mean()) if len(norms) else None,
        "grad_norm_max": float(norms.max()) if len(norms) else None,
        "clipped_fraction": float(reports[:, 2].mean()),
        **inside,
        "seconds": seconds,
        "samples_per_second": len(run.data.train) / seconds,
    }


def probe(run: Run) -> gradients.Numbers:
    """What the gradient is like inside the network now (gradients.py); nothing where the device has no room for it."""
    rows = gradients.rows_of(run.train_part, run.probe_size)
    try:
        (batch,) = batches_of(run.train_part, Order([rows]), run.device)
        return gradients.measured(run.model, batch, run.weighted_loss)
    except torch.OutOfMemoryError:
        return {}


def _keep_best(run: Run, record: Epoch) -> None:
    value = _judged(run, record, run.training.best_by)
    keeps_last = run.training.keep == "last" or run.fold.epochs is not None  # of a final model the folds have decided
    if keeps_last or run.state.best is None or _better(run.training.best_by, value, run.state.best.value):
        weights = {key: tensor.detach().clone() for key, tensor in run.model.state_dict().items()}
        run.state.best = Best(run.state.epoch, value, weights)


def watch(run: Run, record: Epoch) -> None:
    """Lets the schedule and early stopping see an epoch; what they remember is a function of the records they saw."""
    schedule, stopping, name = run.training.lr_schedule, run.training.early_stopping, run.training.best_by
    if isinstance(schedule, Plateau):
        run.state.plateau.see(_judged(run, record, "loss"), schedule)
    if stopping is None:
        return
    value = _judged(run, record, name)
    if _better(name, value, run.state.stopping.best, stopping.min_delta):
        run.state.stopping.best, run.state.stopping.bad_epochs = value, 0
        return
    run.state.stopping.bad_epochs += 1
    run.state.stopping.stopped = run.state.stopping.bad_epochs >= stopping.patience


def _judged(run: Run, record: Epoch, name: str) -> float:
    """A number of the split that judges the run; NaN where there is none. Answers whose loss is not finite are worth
    nothing, whatever share of them happens to be right."""
    split = "validation" if run.data.validation is not None else "train"
    value, loss = record.get(f"{split}_{name}"), record.get(f"{split}_loss")
    if value is None or (name != "loss" and (loss is None or not math.isfinite(loss))):
        return math.nan
    return value


def _better(name: str, value: float, than: float | None, by: float = 0.0) -> bool:
    if than is None or math.isnan(than):
        return not math.isnan(value)
    return MEASURES[name].is_better(value, than, by)


def restore_best(run: Run) -> None:
    """Puts the best epoch's weights into the model: the best is what one gets, however the run ended."""
    if run.state.best is not None:
        run.model.load_state_dict(run.state.best.weights)


class EvaluationOutOfMemory(torch.OutOfMemoryError):
    """The device ran out of memory in evaluation, not in training: smaller batches of evaluation may be enough."""


@contextmanager
def evaluating() -> Iterator[None]:
    """Tells a lack of memory in evaluation from one in training."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise EvaluationOutOfMemory(str(error)) from error


@torch.no_grad()
def answered(
    model: SequenceModel, part: Part, device: torch.device, precision: str, batch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """What a model answers to a whole part, in evaluation mode, a batch at a time: outputs (samples, output_size) on
    the device, and the place in the part's y (samples,) that each belongs to."""
    was_training = model.training
    model.eval()
    if isinstance(part, Unrolled):
        order = part.order(min(batch, max(1, ANSWERS_AT_ONCE // (part.length * model.head.out_features))), None)
    else:
        order = in_order(len(part), batch, None if part.lengths is None else part.lengths.numpy())
    carried = Carried()
    for rows, piece in zip(order.batches, batches_of(part, order, device), strict=True):
        with autocast(device, precision):
            outputs, carried = answer(model, piece, carried)
        yield outputs.float(), torch.from_numpy(part.places(rows))
    model.train(was_training)


def answers(
    model: SequenceModel, part: Part, device: torch.device, precision: str, batch: int = EVALUATION_BATCH
) -> tuple[Tensor, Tensor]:
    """The same of all batches together."""
    outputs, places = zip(*answered(model, part, device, precision, batch), strict=True)
    return torch.cat(outputs), torch.cat(places)


@torch.no_grad()
@evaluating()
def answers_to(run: Run, part: Part, rows: NDArray[np.int64]) -> Tensor:
    """What the model of a run answers to these rows of a part: (rows, output_size) on the CPU, in their order."""
    was_training = run.model.training
    run.model.eval()
    batches = np.array_split(rows, math.ceil(len(rows) / run.state.batches.evaluation))
    with autocast(run.device, run.training.precision):
        found = [
            answer(run.model, batch, Carried())[0].float().cpu()
            for batch in batches_of(part, Order(batches), run.device)
        ]
    run.model.train(was_training)
    return torch.cat(found)


@evaluating()
def unanswered(run: Run, part: Part, batch: int) -> int:
    """The number of samples of a part for which the model, in evaluation mode, gives no finite answer."""
    found = answered(run.model, part, run.device, run.training.precision, batch)
    return sum(int((~outputs.isfinite()).any(dim=1).sum()) for outputs, _ in found)


def in_rows(outputs: Tensor, rows: Tensor) -> Tensor:
    """Answers in the order of the rows that they belong to, on the CPU."""
    ordered = torch.empty_like(outputs, device="cpu")
    ordered[rows] = outputs.cpu()
    return ordered


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Under which a spec's `precision` is computed."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


def _windows_judged(run: Run, part: Unrolled) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor]]:
    """Of a part whose answers are too many to be kept: of some targets their places, their losses without weights, and
    whether the likeliest answer is right."""
    for outputs, places in answered(run.model, part, run.device, run.training.precision, run.state.batches.evaluation):
        targets = part.targets(places).to(run.device)
        yield places.numpy(), run.losses(outputs, targets), outputs.argmax(dim=1) == targets


def _evaluated_by_windows(run: Run, part: Unrolled) -> dict[str, float | None]:
    """The loss is weighted, and the metrics are not."""
    losses, weighted, right = 0.0, 0.0, 0.0
    for places, each, hits in _windows_judged(run, part):
        losses += float(each.double().sum())
        if part.weights is not None:
            each = each * part.weights[torch.from_numpy(places).to(part.weights.device)].to(run.device)
            weighted += float(each.double().sum())
        right += float(hits.sum())
    loss, plain = (losses if part.weights is None else weighted) / part.answers, losses / part.answers
    return {"loss": loss, "accuracy": right / part.answers, **run.data.task.metrics_of_loss(plain)}


@evaluating()
def details(run: Run, part: Part) -> Any:
    """What lies behind the metrics of a whole part (`Task.details`), and the metrics by length of the sequences; None
    if there is nothing."""
    task = run.data.task
    if isinstance(part, Unrolled):
        judged = _windows_judged(run, part)
        if task.is_continued:
            return {"places": lengths.of_places(part.steps, judged, task.metrics_of_loss)}
        found = lengths.of_windows(part.steps, judged)
        return None if found is None else {"lengths": found}
    outputs, rows = answers(run.model, part, run.device, run.training.precision, run.state.batches.evaluation)
    names: Sequence[int | str] = run.data.classes or run.data.target_names or range(outputs.shape[1])
    details = task.details(outputs, part.targets(rows).to(run.device), names, run.data.target_scaling.scale)
    by_length = None if task.of_series else _by_length(run, part, in_rows(outputs, rows))
    return details if by_length is None else {**(details or {}), "lengths": by_length}


def _by_length(run: Run, part: Part, outputs: Tensor) -> dict[str, Any] | None:
    """`lengths.of_sequences` of what the model answers to a whole part, in its order, on the CPU."""
    task, scaling, loss = run.data.task, run.data.target_scaling, run.training.loss
    assert loss is not None, "check_data() fills in the loss"  # noqa: S101
    targets = part.targets(torch.arange(part.answers)).cpu()
    metric = measures.default(task.answers(run.data.output_size))
    judged = Judged(*task.in_unit(outputs, targets, scaling), scale=scaling.scale, steps=part.steps)
    scores = task.scores(metric, loss, judged)

    def metrics(chosen: NDArray[np.bool_]) -> dict[str, float | None]:
        at = lengths.targets_of(part.steps, chosen) if part.by_step else torch.from_numpy(chosen)
        return task.metrics(outputs[at], targets[at], scaling.scale)

    return lengths.of_sequences(part.steps, lengths.Worth(metric, scores.sums, scores.value), metrics)


def loss_before(run: Run) -> float:
    """The loss of the network before its first update, on the training samples of the probe; infinite where the device
    has no room for it."""
    rows = gradients.rows_of(run.train_part, run.probe_size)
    try:
        with torch.random.fork_rng(), torch.no_grad():
            (batch,) = batches_of(run.train_part, Order([rows]), run.device)
            model = run.first_model().eval()
            return float(run.weighted_loss(model(batch.x, batch.lengths, batch.static), batch.y, batch.weights))
    except torch.OutOfMemoryError:
        return math.inf


@evaluating()
def evaluate(run: Run, part: Part) -> dict[str, float | None]:
    """The loss over a whole part as one batch, and its metrics, with the model in evaluation mode."""
    if isinstance(part, Unrolled):
        return _evaluated_by_windows(run, part)
    outputs, rows = answers(run.model, part, run.device, run.training.precision, run.state.batches.evaluation)
    targets = part.targets(rows).to(run.device)
    metrics = run.data.task.metrics(outputs, targets, run.data.target_scaling.scale)
    weights = None if part.weights is None else part.weights[rows].to(run.device)
    return {"loss": float(run.weighted_loss(outputs, targets, weights)), **metrics}
