"""The next steps of a series: one or several columns, as values or as quantiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from services.training.files.archive import Findings
from services.training.measures import Answers
from services.training.tasks.task import Described, Judged, Task

if TYPE_CHECKING:
    from loopline.preprocessing.scaling import Scaling
    from torch import Tensor

    from services.training.files.npz import Limits
    from services.training.files.summary import DatasetSummary
    from services.training.gate.paired import Scores
    from services.training.spec.fields import Loss

LOSSES = ("mse", "mae", "huber", "pinball")
MEDIAN = 0.5


@dataclass(frozen=True)
class Units:
    """How the targets of each series were scaled, (series, targets): value = scaled * scale + shift."""

    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    naive: NDArray[np.float64]
    """The mean error of the naive forecast in the training period, in the unit of the data: what MASE divides by. 0 if
    the series is constant there."""


class Forecast(Task):
    """`y` has no columns: the targets are columns of `x`. The head has an output for each step of the horizon, each
    target and each quantile, in this order.

    Targets of samples are (samples, horizon * targets + 1): the scaled values of the horizon, step by step, and then
    the number of the series, which says how they were scaled.
    """

    name = "series"
    words = "series to forecast"
    losses = {"series": LOSSES}  # noqa: RUF012
    scales_targets = True
    of_series = True

    def __init__(
        self, horizon: int = 1, targets: int = 1, quantiles: Sequence[float] = (), units: Units | None = None
    ) -> None:
        self.horizon, self.width, self.quantiles, self.units = horizon, targets, tuple(quantiles), units

    @property
    def output_size(self) -> int:
        return self.horizon * self.width * max(1, len(self.quantiles))

    def holds(self, y: NDArray[Any], steps: int | None = None) -> bool:
        return y.ndim == 3 and y.dtype.kind == "f"

    def checked(
        self,
        y: NDArray[Any],
        lengths: NDArray[np.int64] | None,
        steps: int | None,
        split: NDArray[np.int8] | None,
        limits: Limits,
        findings: Findings,
    ) -> NDArray[Any]:
        findings.add("y", f"y has shape {y.shape} and holds floats: save tags as whole numbers or words")
        return y

    def described(self, y: NDArray[Any], lengths: NDArray[np.int64]) -> Described:
        return Described(0)

    def refusal(self, loss: str, summary: DatasetSummary) -> str | None:
        if loss in LOSSES:
            return None
        return f"{loss} is for classes and labels, and a forecast has values: use {', '.join(LOSSES[:-1])}"

    def answers(self, width: int) -> Answers:
        return "forecasts"

    def targets(
        self, y: NDArray[Any], lengths: NDArray[np.int64], scaling: Scaling
    ) -> tuple[Tensor, list[int | str] | None, int]:
        raise NotImplementedError("windows.py gathers the targets of forecasts")

    def plain(self, targets: Tensor, width: int) -> Tensor:
        raise NotImplementedError("forecasts have baselines of their own, in naive.py")

    def plain_words(self, outputs: Tensor, classes: list[int | str] | None) -> str:
        raise NotImplementedError("forecasts have baselines of their own, in naive.py")

    def loss(self, loss: Loss, targets: Tensor, width: int) -> Callable[[Tensor, Tensor], Tensor]:
        each = self._elements(loss)
        return lambda outputs, y: each(outputs, y).mean()

    def losses_of_each(self, loss: Loss, targets: Tensor, width: int) -> Callable[[Tensor, Tensor], Tensor]:
        each = self._elements(loss)
        return lambda outputs, y: each(outputs, y).mean(dim=1)

    def _elements(self, loss: Loss) -> Callable[[Tensor, Tensor], Tensor]:
        """The loss of each output: (samples, outputs) of outputs and targets."""
        from services.training import metrics

        def each(outputs: Tensor, y: Tensor) -> Tensor:
            future = y[:, :-1].to(outputs.dtype)
            if self.quantiles:
                return metrics.pinball(outputs.view(*future.shape, -1), future, self.quantiles).flatten(1)
            return metrics.errors_of_each(loss, outputs, future)

        return each

    def kept(self, outputs: Tensor) -> Tensor:
        return self.points(outputs)

    def points(self, outputs: Tensor) -> Tensor:
        """The forecast itself, (samples, horizon * targets): the median of quantiles."""
        if not self.quantiles:
            return outputs
        return self._by_quantile(self.ordered(outputs))[:, :, self.quantiles.index(MEDIAN)]

    def ordered(self, outputs: Tensor) -> Tensor:
        """Outputs whose quantiles do not cross: those of each value are sorted."""
        if not self.quantiles:
            return outputs
        return self._by_quantile(outputs).sort(dim=2).values.flatten(1)

    def _by_quantile(self, outputs: Tensor) -> Tensor:
        """(samples, horizon * targets, quantiles)"""
        return outputs.view(len(outputs), -1, len(self.quantiles))

    def in_unit(self, outputs: Tensor, targets: Tensor, scaling: Scaling | None = None) -> tuple[Tensor, Tensor]:
        """Outputs and targets in the unit of the data, float64; the number of the series stays. `units` have all
        scalings."""
        import torch

        series = targets[:, -1]
        future = self.unscaled(targets[:, :-1], series)
        return self.unscaled(outputs, series), torch.cat((future, series[:, None].double()), dim=1)

    def unscaled(self, values: Tensor, series: Tensor) -> Tensor:
        """Values (samples, horizon * targets [* quantiles]) in the unit of the data, float64."""
        shift, scale, _ = self._units(series)
        steps = values.double().view(len(values), self.horizon, self.width, -1)
        return (steps * scale[:, None, :, None] + shift[:, None, :, None]).flatten(1)

    def _units(self, series: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(samples, targets) each: those of the series of samples."""
        import torch

        assert self.units is not None, "windows.py gives them"  # noqa: S101
        rows = series.long().cpu()
        shift, scale, naive = (
            torch.from_numpy(each)[rows].to(series.device)
            for each in (self.units.shift, self.units.scale, self.units.naive)
        )
        return shift, scale, naive

    def metrics_of_kept(
        self, kept: Tensor, targets: Tensor, width: int, scale: list[float] | None = None
    ) -> dict[str, float | None]:
        return self._of_points(kept, targets)

    def _metrics(self, outputs: Tensor, targets: Tensor, scale: list[float] | None) -> dict[str, float | None]:
        return self._of_points(self.points(outputs), targets)

    def _of_points(self, points: Tensor, targets: Tensor) -> dict[str, float | None]:
        from services.training import metrics

        found, actual = self.in_unit(points, targets)
        return metrics.of_forecasts(found, actual[:, :-1], self._naive(actual[:, -1]))

    def _naive(self, series: Tensor) -> Tensor:
        """What MASE divides by, for each value of each sample: (samples, horizon * targets)."""
        return self._units(series)[2].repeat(1, self.horizon)

    def details(self, outputs: Tensor, targets: Tensor, names: Sequence[int | str], scale: list[float] | None) -> Any:
        """`horizon` has the metrics of each step, `targets` those of each target if there are several, and `quantiles`
        the share of actual values that are not above each quantile."""
        points, actual = self.in_unit(self.points(outputs), targets)
        naive = self._naive(actual[:, -1])
        by_value = [each.view(len(each), self.horizon, self.width) for each in (points, actual[:, :-1], naive)]
        steps = {"step": list(range(1, self.horizon + 1)), **_of_each(by_value, 1)}
        found: dict[str, Any] = {"horizon": steps}
        if self.width > 1:
            found["targets"] = {"name": list(names), **_of_each(by_value, 2)}
        if self.quantiles:
            answers = self._by_quantile(self.ordered(outputs))
            below = targets[:, :-1, None] <= answers
            shares = below.double().mean(dim=(0, 1)).tolist()
            found["quantiles"] = {"quantile": list(self.quantiles), "share_below": [round(each, 6) for each in shares]}
        return found

    def scores(self, metric: str, loss: Loss, judged: Judged) -> Scores:
        """In the unit of the data. A loss is that of scaled values, as in training."""
        from services.training.gate import scores

        outputs, actual, series = judged.outputs.double(), judged.targets[:, :-1].double(), judged.targets[:, -1]
        if metric == "loss":
            shift, scale, _ = self._units(series)
            view = outputs.view(len(outputs), self.horizon, self.width, -1)
            scaled = ((view - shift[:, None, :, None]) / scale[:, None, :, None]).flatten(1)
            future = ((actual.view(len(actual), self.horizon, -1) - shift[:, None]) / scale[:, None]).flatten(1)
            import torch

            each = self._elements(loss)(scaled, torch.cat((future, series[:, None].double()), dim=1))
            return scores.mean(judged.weighted(each.mean(dim=1)))
        return scores.of_forecasts(metric, self.points(outputs), actual, self._naive(series))


def _of_each(values: Sequence[Tensor], dim: int) -> dict[str, list[float | None]]:
    """The metrics of each step (dim 1) or target (dim 2). `values` (samples, horizon, targets) are forecasts, actual
    values, and what mase divides by."""
    from services.training import metrics

    each = [
        metrics.of_forecasts(*(value.select(dim, place).flatten(1) for value in values))
        for place in range(values[0].shape[dim])
    ]
    return {name: [one[name] for one in each] for name in each[0]}


TASK = Forecast()
