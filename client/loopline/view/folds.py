"""Cross-validation, as people read it: where a job is among its folds, and what the folds came to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.console import RenderableType
from rich.text import Text

from loopline import text
from loopline.types import Epoch, FoldResult, Progress, Result
from loopline.view import table


def name(fold: int, folds: int | None) -> str:
    """`fold 3 of 5`, or `final model` after the last fold."""
    if folds is None:
        return f"fold {fold}"
    return "final model" if fold > folds else f"fold {fold} of {folds}"


def place(now: Progress) -> str | None:
    """`fold 3 of 5, epoch 12 of 20`; None for a job without folds."""
    if now.fold is None:
        return None
    most = f" of {now.fold_epochs}" if now.fold_epochs else ""
    return f"{name(now.fold, now.folds)}, epoch {now.fold_epoch or 0}{most}"


def head(epoch: Epoch, now: Progress) -> str | None:
    """The same of an epoch that has ended, which may be of an earlier fold than the one that is trained."""
    if epoch.fold is None:
        return None
    most = f" of {now.fold_epochs}" if epoch.fold == now.fold and now.fold_epochs else ""
    return f"{name(epoch.fold, now.folds)}, epoch {epoch.fold_epoch or 0}{most}"


def spread(result: Result) -> str:
    """`validation_loss 0.3121 ± 0.0204, validation_accuracy 0.9012 ± 0.0144`"""
    mean, std = result.mean or {}, result.std or {}
    return ", ".join(f"{metric} {_with_std(mean, std, metric)}" for metric in mean if mean[metric] is not None)


def judged(result: Result | None) -> str | None:
    """`mean validation_accuracy 0.9012 ± 0.0144`: the first metric that is no loss, else the loss; or None."""
    mean = {metric: value for metric, value in ((result and result.mean) or {}).items() if value is not None}
    if result is None or not mean:
        return None
    metric = next((each for each in mean if not each.endswith("_loss")), next(iter(mean)))
    return f"mean {metric} {_with_std(mean, result.std or {}, metric)}"


def shown(result: Result) -> Iterator[RenderableType]:
    """A table with a row for each fold that has ended, and one for the mean and the standard deviation."""
    if not result.folds:
        return
    mean, std = result.mean or {}, result.std or {}
    metrics = [metric for metric in mean if any(fold.metrics.get(metric) is not None for fold in result.folds)]
    rows = [_row(fold, metrics) for fold in result.folds]
    spreads: dict[str, str | Text] = {_short(metric): _with_std(mean, std, metric) for metric in metrics}
    rows.append({"fold": "mean ± std", "best epoch": "", "samples": "", **spreads})
    yield Text("\nfolds, by their validation parts", "dim")
    yield table.Listing(rows, drop=("samples",), wrap=tuple(_short(metric) for metric in metrics))


def _row(fold: FoldResult, metrics: list[str]) -> dict[str, str | Text]:
    of = f" of {fold.epochs}" if fold.epochs is not None else ""
    samples = fold.samples.get("train"), fold.samples.get("validation")
    numbers = {_short(metric): text.number(fold.metrics.get(metric)) for metric in metrics}
    best = text.NOTHING if fold.best_epoch is None else f"{fold.best_epoch}{of}"
    cells = {"fold": str(fold.fold), "best epoch": best, "samples": f"{samples[0]} + {samples[1]}"}
    return {**cells, **numbers}


def _with_std(mean: Mapping[str, float | None], std: Mapping[str, float | None], metric: str) -> str:
    value, deviation = mean.get(metric), std.get(metric)
    return text.number(value) + (f" ± {text.number(deviation)}" if deviation is not None else "")


def _short(metric: str) -> str:
    return metric.removeprefix("validation_").replace("_", " ")
