"""Plain advice on a run that has ended: a sentence where its numbers are clear, and none where they are in doubt."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from loopline.files.grids import Step

from services.training.epochs import Epoch
from services.training.loop import Run, loss_before
from services.training.spec import Spec
from services.training.tasks import known
from services.training.windows import Forecasting

FEW_UPDATES = 200
"""A model that was updated less often has mostly not been trained enough."""
JUMP = 2.0
"""A training loss of more than this many times the lowest one before has jumped."""
LARGE_CHANGE = 0.2
"""Of the loss of the first epoch: a jump is at least as large."""
CHANGE = 0.05
"""Of the loss of the first epoch: a rise or a fall that is less may be chance."""
AT_ONCE = 3
"""Epochs whose mean is compared, so that a single one decides nothing."""
LONG = 50
"""Steps from which on a reach in time is called short."""
SHORT_REACH = 0.1
DAY = 86_400 * 10**9
"""In nanoseconds."""
MOST_CLIPPED = 0.8
MOST_SATURATED = 0.5
MANY_DEAD = 1 / 3


def of(run: Run, result: Mapping[str, Any]) -> list[str]:
    """What to do about a run, from its `result`, whose `baseline` and `gradients` are known. Nothing of synthetic data:
    there is nothing in it to learn."""
    if run.spec.data.synthetic is not None:
        return []
    history, updates = run.state.history, run.state.step - run.fold.steps_before
    is_beaten = result["baseline"]["is_beaten"]
    found = [*too_fast(history, result.get("rollbacks", 0))]
    before = math.inf if is_beaten or found else loss_before(run)
    found += diverged(history, before)
    if not is_beaten and updates < FEW_UPDATES:
        is_text, rises = run.data.task.name == known.TEXT, _last_loss(history) > (1 + LARGE_CHANGE) * before
        return found or [hardly_trained(run.spec, updates, is_text=is_text, rises=rises)]
    if result["stopped_early"]:
        found += stopped(history, result["best_epoch"], is_good=is_beaten)
    else:
        is_fixed = run.fold.epochs is not None  # how many epochs there are was decided by the folds
        found += not_stopped(history, is_fixed=is_fixed, stops=run.training.early_stopping is not None)
    if not is_beaten and isinstance(run.data, Forecasting):
        found += of_calendar(run.data)
    if updates >= FEW_UPDATES:
        struggles = not is_beaten or is_underfit(history, result["best_epoch"])
        found += of_gradients(
            run.spec, history, result["gradients"], struggles=struggles, by_step=run.data.train.by_step
        )
    return found


def hardly_trained(spec: Spec, updates: int, *, is_text: bool, rises: bool = False) -> str:
    """What to do about a model that is no better than its baseline after a few updates. `rises`: its training loss is
    well above that before the first update, so its learning rate is hardly too low."""
    scale = "" if is_text or spec.data.scaling != "none" else ", or set data.scaling to standard"
    return (
        f"The model was updated only {updates:,} time{'' if updates == 1 else 's'}: lower training.batch_size, raise "
        f"training.epochs{'' if rises else ' or the learning rate'}{scale}."
    )


def of_calendar(data: Forecasting) -> Iterator[str]:
    """What may help a forecast that is no better than the naive ones: the calendar, unless it knows of the future."""
    step = Step.read(data.about["step"]) if data.about.get("step") else None
    if (
        step is None
        or data.forecast["known_future"]
        or data.forecast.get("calendar")
        or step.in_months
        or not step.is_time
    ):
        return
    if step.usual <= DAY:
        names = "[hour, weekday]" if step.usual < DAY else "weekday"
        yield f"The forecast knows nothing of the next steps: set task.calendar to {names}, or raise task.lookback."


# ---- the course of the losses


def too_fast(history: Sequence[Epoch], rollbacks: int = 0) -> Iterator[str]:
    """Where the learning rate is too high: the training loss jumps again and again, or for good."""
    if rollbacks:
        times = "once" if rollbacks == 1 else f"{rollbacks} times"
        yield f"Training diverged {times} and was rolled back: lower training.optimizer.lr."
        return
    losses = _losses(history, "train_loss")
    jumps = [
        place
        for place in range(1, len(losses))
        if losses[place] > JUMP * min(losses[:place]) and losses[place] - losses[place - 1] > LARGE_CHANGE * losses[0]
    ]
    if len(jumps) > 1 or (jumps and losses[-1] > losses[0]):
        worst = max(jumps, key=lambda place: losses[place] - losses[place - 1])
        epochs = "in one epoch" if len(jumps) == 1 else f"in {len(jumps)} epochs"
        yield (
            f"The training loss jumped {epochs}, in epoch {worst + 1} from {losses[worst - 1]:.3g} to "
            f"{losses[worst]:.3g}: lower training.optimizer.lr."
        )


def diverged(history: Sequence[Epoch], before: float) -> Iterator[str]:
    """Whether training has made the model worse than it was `before` the first update. If the loss rises within the
    first epoch, the losses of the epochs alone do not show it."""
    if (last := _last_loss(history)) > JUMP * before:
        yield (
            f"Training diverged: the training loss was {before:.3g} before the first update, and is {last:.3g} at the "
            "end: lower training.optimizer.lr."
        )


def stopped(history: Sequence[Epoch], best_epoch: int, *, is_good: bool) -> Iterator[str]:
    """What a run that early stopping has ended was like. `is_good`: its model beats the baseline."""
    if (sentence := _overfit(history, stops=True)) is not None:
        yield sentence
    elif is_good:
        yield f"Early stopping ended the run in time: nothing has improved since epoch {best_epoch}."


def not_stopped(history: Sequence[Epoch], *, is_fixed: bool, stops: bool) -> Iterator[str]:
    """Whether a run that made all of its epochs was too long or too short. `is_fixed`: it could not have had more of
    them. `stops`: early stopping is on."""
    sentence = _overfit(history, stops=stops) or (None if is_fixed else _still_falling(history))
    if sentence is not None:
        yield sentence


def _overfit(history: Sequence[Epoch], *, stops: bool) -> str | None:
    train, validation = _losses(history, "train_loss"), _losses(history, "validation_loss")
    if len(validation) < 2 * AT_ONCE or len(train) != len(validation):
        return None
    best = min(range(len(validation)), key=validation.__getitem__)
    least, last = validation[best], fmean(validation[-AT_ONCE:])
    rises = last - least > max(0.1 * least, CHANGE * validation[0])
    if len(validation) - 1 - best < 2 * AT_ONCE - 1 or not rises or fmean(train[-AT_ONCE:]) > 0.9 * train[best]:
        return None
    stop = "" if stops else "set training.early_stopping, "
    return (
        f"The network overfits since epoch {best + 1}: the validation loss rises from {least:.3g} to {last:.3g} while "
        f"the training loss falls. For a better model {stop}add dropout or weight decay, make the network smaller, or "
        "give more data."
    )


def _still_falling(history: Sequence[Epoch]) -> str | None:
    validation = _losses(history, "validation_loss")
    losses, name = (validation, "validation") if validation else (_losses(history, "train_loss"), "training")
    if len(losses) < 3 * AT_ONCE:
        return None
    last, before, earlier = (fmean(losses[len(losses) - n * AT_ONCE :][:AT_ONCE]) for n in (1, 2, 3))
    is_at_its_best = earlier > before > last and min(losses[-2:]) == min(losses)
    if not is_at_its_best or before - last < CHANGE * losses[0] or last > (1 - CHANGE) * before:
        return None
    return (
        f"The {name} loss still falls at the last epoch (from {before:.3g} to {last:.3g} within {AT_ONCE} epochs): "
        "raise training.epochs."
    )


def is_underfit(history: Sequence[Epoch], best_epoch: int | None) -> bool:
    """Whether the training loss of the best epoch is above half of that of the first one."""
    losses = _losses(history, "train_loss")
    return bool(best_epoch and losses and losses[best_epoch - 1] > 0.5 * losses[0])


def _last_loss(history: Sequence[Epoch]) -> float:
    """The mean training loss of the last epochs; 0 if there is none."""
    return fmean(_losses(history, "train_loss")[-AT_ONCE:] or [0.0])


def _losses(history: Sequence[Epoch], name: str) -> list[float]:
    """Of all epochs; none if one is missing or is not finite."""
    found = [record.get(name) for record in history]
    losses = [value for value in found if value is not None and math.isfinite(value)]
    return losses if len(losses) == len(found) else []


# ---- gradients and units


def of_gradients(
    spec: Spec, history: Sequence[Epoch], inside: Mapping[str, Any], *, struggles: bool, by_step: bool
) -> Iterator[str]:
    """What is wrong inside a network, from the probe of its best weights (gradients.py). Most of it is only clear where
    the model `struggles`: it is no better than its baseline, or its training loss stays high."""
    if struggles:
        yield from _short_reach(spec, inside, by_step=by_step)
        yield from _clipped(spec, history)
        yield from _saturated(spec, inside)
    yield from _dead(spec, inside)


def _short_reach(spec: Spec, inside: Mapping[str, Any], *, by_step: bool) -> Iterator[str]:
    a, reach, steps = spec.architecture, inside.get("gradient_reach"), inside.get("gradient_steps") or 0
    enters_at_the_end = by_step or a.pooling in ("last", "final")
    if reach is None or steps < LONG or reach > SHORT_REACH * steps or not enters_at_the_end:
        return
    ways = {
        "a GRU or an LSTM": a.cell == "rnn",
        "architecture.forget_gate_bias 1": a.cell == "lstm" and a.forget_gate_bias is None,
        "architecture.init orthogonal": a.init == "default",
        "data.patch": spec.data.patch == 1 and not by_step and not _is_forecast(spec),
        "architecture.pooling attention": not by_step,
    }
    if open_ways := [way for way, is_open in ways.items() if is_open]:
        yield (
            f"The gradient reaches {reach} of {steps} steps back, so what happened before cannot be learnt: use "
            f"{_either(open_ways[:3])}."
        )


def _clipped(spec: Spec, history: Sequence[Epoch]) -> Iterator[str]:
    shares = _losses(history, "clipped_fraction")
    if not shares or fmean(shares) < MOST_CLIPPED:
        return
    bound = "max_grad_norm" if spec.training.max_grad_norm is not None else "max_grad_value"
    yield f"{fmean(shares):.0%} of the updates were clipped: raise training.{bound} or lower the learning rate."


def _saturated(spec: Spec, inside: Mapping[str, Any]) -> Iterator[str]:
    share = inside.get("saturated_fraction")
    if share is None or share < MOST_SATURATED:
        return
    scale = "set data.scaling to standard or " if spec.data.scaling == "none" else ""
    yield f"{share:.0%} of the outputs of the recurrent layers are saturated: {scale}lower the learning rate."


def _dead(spec: Spec, inside: Mapping[str, Any]) -> Iterator[str]:
    dead, units = inside.get("dead_units"), spec.architecture.hidden_size * (1 + spec.architecture.bidirectional)
    if dead is None or dead < MANY_DEAD * units:
        return
    yield (
        f"{dead} of {units} units never respond to the training sequences of the probe: lower the learning rate, or "
        "set architecture.nonlinearity to tanh."
    )


def _is_forecast(spec: Spec) -> bool:
    return spec.task is not None and spec.task.name == "forecast"


def _either(ways: Sequence[str]) -> str:
    """`a, b or c`"""
    return " or ".join([*([", ".join(ways[:-1])] if ways[:-1] else []), ways[-1]])
