"""Cross-validation: the runs of a job with folds, one after the other.

Each fold is a run of its own (`loop.Run`), with its own split, preprocessing and seed. It is judged on its validation
part. Then the final model is trained on all samples outside the test, for the mean of the folds' best epochs. The fold
under way, and what those before it came to, is `Run.fold`. Checkpoints contain it, so a job goes on within its fold.

Epochs and steps are numbered over the whole job. So checkpoints, curves and progress need to know nothing of folds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from services.errors import CheckpointCorrupt
from services.training import baseline, checkpoint, epochs, rivals
from services.training.data import Prepared
from services.training.epochs import Epoch
from services.training.files.npz import Arrays
from services.training.loop import Run, evaluate
from services.training.messages import NEWEST, Event, FoldProgress, Log, Note
from services.training.preparing import prepare
from services.training.resume import bound, check_newest, newest_readable, report
from services.training.spec import Spec
from services.training.splits import Parts, split_folds
from services.training.state import Batches, Fold

MOST_TOLD = 4
"""Metrics of a fold that its event names."""


@dataclass
class Folds:
    """The folds of a job: which rows each has, and its run."""

    spec: Spec
    arrays: Arrays
    device: torch.device
    sha256: str | None = None
    """Of the file that the data was read from."""
    rows: list[Parts] = field(init=False)
    """By fold, and last those of the final model."""

    def __post_init__(self) -> None:
        self.rows = split_folds(self.arrays, self.spec.data.split)

    @property
    def count(self) -> int:
        return len(self.rows) - 1

    def check(self) -> Generator[Event, None, Prepared]:
        """Prepares the data of each fold, so that what cannot be used is known before anything is trained; that of the
        final model is returned. Says so of each fold: silence for long would be taken for a stall.

        Raises DatasetInvalid.
        """
        for number in range(1, self.count + 1):
            sizes = {name: len(rows) for name, rows in self._prepared(number).rows.items()}
            parts = f"{sizes['train']:,} samples to train on and {sizes['validation']:,} for validation"
            yield Log("info", f"Fold {number} of {self.count} has {parts}.")
        return self._prepared(self.count + 1)

    def run(self, fold: Fold, batches: Batches | None = None) -> Run:
        """The run of a fold, which has not begun. `batches`: how many samples the device takes, if that is known."""
        fold = replace(fold, epochs=_mean_of_best(fold.results) if fold.is_last else None)
        run = Run(self.spec, self._prepared(fold.number), self.device, fold=fold)
        most, later = self.spec.training.epochs, self.rows[fold.number :]
        steps = (
            sum(self._updates(rows) for rows in later) * run.steps_per_epoch / self._updates(self.rows[fold.number - 1])
        )
        run.fold = replace(fold, epochs_after=most * len(later), steps_after=most * round(steps))
        run.state.batches = batches or run.state.batches
        return run

    def first(self) -> Run:
        return self.run(Fold(1, self.count))

    def after(self, run: Run, result: Mapping[str, Any]) -> Fold:
        """The fold after a run that has ended with this result."""
        results = (*run.fold.results, result)
        return Fold(run.fold.number + 1, self.count, None, run.state.step, history_of(run), results)

    def resume(
        self, directory: Path, wanted: str | None, data: Path | None
    ) -> Generator[Event, None, tuple[Run, Path | None]]:
        """The run to go on with, where the `wanted` checkpoint of an order is; and the path of the one that was found.

        As `resume.resume`, which takes the run of a job without folds.
        """
        if wanted is None:
            checkpoint.discard_after(directory, -1)
            return self.first(), None
        if wanted == NEWEST:
            newest = newest_readable(directory)
            if newest is not None:
                yield from check_newest(self._run_of(newest, directory) or self.first(), directory, data)
        run, found = self._take_up(directory, bound(wanted))
        checkpoint.discard_after(directory, run.state.step if found else -1)
        yield from report(found, wanted)
        return run, found

    def _take_up(self, directory: Path, at_most: int | None) -> tuple[Run, Path | None]:
        for path in checkpoint.newest_first(directory):
            if at_most is not None and checkpoint.step_of(path) > at_most:
                continue
            try:
                run = self._run_of(checkpoint.read(path), directory)
                if run is not None:
                    checkpoint.load_into(run, path)
                    return run, path
            except CheckpointCorrupt:
                continue
        return self.first(), None

    def _run_of(self, body: Mapping[str, Any], directory: Path) -> Run | None:
        """The run of the fold that a checkpoint is of, as it begins; None where that is none of this job's."""
        said: Any = body.get("fold")
        try:
            records = epochs.load(directory, body["history"])
            fold = Fold(said["number"], said["folds"], None, said["steps_before"], results=tuple(said["results"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if fold.folds != self.count or not 1 <= fold.number <= self.count + 1:
            return None
        before = tuple(record for record in records if (record.get("fold") or 0) < fold.number)
        return self.run(replace(fold, records=before))

    def _prepared(self, number: int) -> Prepared:
        prepared = prepare(self.arrays, self.spec, drawn=self.rows[number - 1])
        return replace(prepared, sha256=self.sha256)

    def _updates(self, rows: Parts) -> int:
        """Updates of an epoch, if each takes whole sequences."""
        training = self.spec.training
        return math.ceil(math.ceil(len(rows["train"]) / training.batch_size) / training.accumulation_steps)


def result_of(run: Run) -> dict[str, Any]:
    """What a fold that has ended came to. The model has its best weights."""
    assert run.data.validation is not None, "a fold has a validation part"  # noqa: S101
    assert run.state.best is not None, "an epoch has ended"  # noqa: S101
    metrics = {f"validation_{name}": value for name, value in evaluate(run, run.data.validation).items()}
    return {
        "fold": run.fold.number,
        "best_epoch": run.state.best.epoch,
        "epochs": run.state.epoch,
        "stopped_early": run.state.stopping.stopped,
        **({"rollbacks": run.state.rollbacks.count} if run.training.on_divergence else {}),
        "seed": run.training.seed,
        "samples": {"train": len(run.data.train), "validation": len(run.data.validation)},
        "metrics": epochs.finite(metrics),
        "baseline": baseline.of(run, metrics),
    }


def note_of(run: Run, result: Mapping[str, Any]) -> Note:
    """The event of a fold that has ended."""
    named = [f"{name} {value:.4g}" for name, value in result["metrics"].items() if value is not None][:MOST_TOLD]
    message = f"Fold {run.fold.number} of {run.fold.folds} ended: {', '.join(named)} at epoch {result['best_epoch']} "
    return Note("fold", "info", f"{message}of {result['epochs']}.", dict(result))


def progress_of(run: Run) -> FoldProgress | None:
    """Where a run is among the folds of its job; None of a job without folds."""
    fold = run.fold
    if not fold.number:
        return None
    before, most = len(fold.records), run.most_epochs
    return FoldProgress(
        number=fold.number,
        folds=fold.folds,
        epochs=most,
        epochs_before=before,
        total_epochs=before + most + fold.epochs_after,
        total_steps=fold.steps_before + most * run.steps_per_epoch + fold.steps_after,
    )


def summary(fold: Fold) -> dict[str, Any]:
    """What the folds that have ended came to: each of them, and by metric the mean and the sample standard deviation,
    which one fold does not have. Nothing of a job without folds."""
    if not fold.number:
        return {}
    results = [dict(result) for result in fold.results]
    names = dict.fromkeys(name for result in results for name in result["metrics"])
    values = {name: [result["metrics"].get(name) for result in results] for name in names}
    return {
        "folds": results,
        "mean": {name: _of_all(statistics.fmean, 1, each) for name, each in values.items()},
        "std": {name: _of_all(statistics.stdev, 2, each) for name, each in values.items()},
    }


def compared(run: Run, found: dict[str, Any], trials: int = 1) -> dict[str, Any]:
    """The baseline of a job with folds that has no test part: whether the mean over the folds beats that of their
    baselines, each on samples that it was not trained on. `found` is that of the final model, which has only its
    training samples to be judged by. The spec was selected by these folds as the best of so many `trials`."""
    fold, independent = run.fold, baseline.is_independent(run)
    plains = [result["baseline"] for result in fold.results if "baseline" in result]  # older ones had none
    if not plains or len(plains) < len(fold.results):
        return found
    metric = plains[0]["metric"]
    plain = _of_all(statistics.fmean, 1, [each["metrics"].get(metric) for each in plains])
    model = _of_all(statistics.fmean, 1, [result["metrics"].get(metric) for result in fold.results])
    words = [each["answer"] for each in plains]
    answer = max(words, key=words.count)
    are_counted = all(each.get("interval") for each in plains) or not (independent or run.data.task.by_step)
    samples = sum(result["samples"]["validation"] for result in fold.results) if are_counted else None
    judged = rivals.compared(
        {metric: model}, {answer: {metric: plain}}, metric, samples=samples, trials=trials, independent=independent
    )
    return {**judged, "metrics": {**found["metrics"], **judged["metrics"]}}


def _of_all(statistic: Any, least: int, values: Sequence[float | None]) -> float | None:
    """A statistic of values, None unless each of them is there."""
    there = [value for value in values if value is not None]
    return float(statistic(there)) if len(there) == len(values) >= least else None


def _mean_of_best(results: Sequence[Mapping[str, Any]]) -> int:
    """The mean of the folds' best epochs, rounded; a half is rounded up."""
    return math.floor(statistics.fmean(result["best_epoch"] for result in results) + 0.5)


def history_of(run: Run) -> list[Epoch]:
    """The epochs of the whole job, those of the folds before first."""
    return [*run.fold.records, *run.state.history]
