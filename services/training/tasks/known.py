"""The table of tasks, a row each."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from services.training.tasks import classes, forecast, multilabel, next_step, tags, values
from services.training.tasks.task import Target, Task

if TYPE_CHECKING:
    from services.training.spec.fields import Loss

TASKS: tuple[Task, ...] = (classes.TASK, forecast.TASK, tags.TASK, next_step.TASK, multilabel.TASK, values.TASK)
"""In the order in which they are asked whether a `y` is theirs."""

SERIES: Target = forecast.TASK.name
"""The targets of a data set that a forecast is trained on."""
TEXT: Target = next_step.TASK.name
"""The targets of a data set of texts that are to be continued."""


def of_y(y: NDArray[Any], steps: int | None = None) -> Task:
    """The task that y means by itself: in its final form, or as it was read beside an x of so many `steps`."""
    return next(task for task in TASKS if task.holds(y, steps))


@cache
def named(target: Target) -> Task:
    return next(task for task in TASKS if task.name == target)


def chosen(target: Target, loss: Loss | None) -> Task:
    """The task that a loss makes of a target; without one the target's own, and so where it does not fit."""
    return _chosen(target, None if loss is None else loss.name)


@cache
def _chosen(target: Target, name: str | None) -> Task:
    fitting = (task for task in TASKS if name in task.losses.get(target, ()))
    return next(fitting, named(target))
