"""How many epochs a search needs to reach the same validation loss: by TPE with early stopping, and at random without.

Two real sets: the Japanese Vowels that ship, and OSULeaf (archive.py). A table is trained first: every cell of `GRID`,
once, with its validation loss after each epoch. Then searches are played through by the functions of services/searches:
a trial has the curve of the cell that is nearest to its values. So ten searches of each kind cost no training, and all
kinds see the same curves.

Every search trains the same number of epochs: `TRIALS` trials, or more if trials are stopped early. The loss to reach
is the median of what ten random searches find. A search that does not reach it is counted with all its epochs.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from benchmarks import archive

SEARCHES = 10
TRIALS = 40
EPOCHS = 27
BUDGET = TRIALS * EPOCHS
"""Epochs of a search."""
SPACE = {
    "training.optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True},
    "architecture.hidden_size": {"low": 8, "high": 64, "log": True},
    "architecture.pooling": ["max", "mean"],
}
GRID: Mapping[str, Sequence[Any]] = {
    "training.optimizer.lr": [10 ** (-4 + step / 3) for step in range(10)],
    "architecture.hidden_size": [8, 16, 32, 64],
    "architecture.pooling": ["max", "mean"],
}
METRIC = "validation_loss"
VOWELS = Path(__file__).parent.parent / "data" / "japanese-vowels.npz"
Cell = tuple[Any, ...]
Curves = Mapping[Cell, Sequence[float]]
"""Of each cell the validation loss after each epoch; infinite from where it diverged."""
KINDS: tuple[tuple[Literal["tpe", "random"], bool], ...] = (
    ("random", False),
    ("random", True),
    ("tpe", False),
    ("tpe", True),
)
"""The algorithm, and whether trials are stopped early."""


def rows() -> Iterator[dict[str, Any]]:
    [leaf] = [each for each in archive.UNSEEN if each.name == "OSULeaf"]
    for name, file, patch in (("JapaneseVowels", VOWELS, 1), (leaf.name, archive.path(leaf), 4)):
        curves = trained(file, patch)
        found = {kind: [searched(curves, *kind, seed) for seed in range(SEARCHES)] for kind in KINDS}
        target = statistics.median(min(best) for _, best in found["random", False])
        epochs = {kind: statistics.mean(reached(*each, target) for each in found[kind]) for kind in KINDS}
        others = {(a, s): f"{a}{' with' if s else ' without'} asha {epochs[a, s]:,.0f}" for a, s in KINDS[:-1]}
        yield {
            "what": f"{name}: epochs until {METRIC} {target:.3g}, mean of {SEARCHES} searches",
            "ours": f"tpe with asha {epochs['tpe', True]:,.0f}",
            "other": ", ".join(others.values()),
            "ratio": epochs["random", False] / epochs["tpe", True],
            "at_least": 2.0,
        }


def searched(
    curves: Curves, algorithm: Literal["tpe", "random"], stops: bool, seed: int
) -> tuple[list[int], list[float]]:
    """The epochs trained after each trial, and the best value so far, of a search that makes one trial at a time."""
    from services.searches import reading, suggesting
    from services.searches.stopping import asha, first_rung, rungs
    from services.searches.trials import State, Trial

    space, problems = reading.read_space(SPACE, {})
    assert space is not None, problems
    trials: list[Trial] = []
    spent, best = [0], [math.inf]
    places = rungs(first_rung(EPOCHS), EPOCHS) if stops else ()
    at_rung: dict[int, list[float]] = {rung: [] for rung in places}
    for number in itertools.count(1):
        if spent[-1] >= BUDGET:
            break
        choices = suggesting.suggest(space, trials, number, algorithm=algorithm, seed=seed, higher_is_better=False)
        curve = curves[nearest(choices)]
        ended = next((at for at in places if not _goes_on(min(curve[:at]), at_rung[at], asha)), EPOCHS)
        value = min(curve)
        if ended < EPOCHS:
            trial = Trial(number, choices, State.PRUNED, None, {ended: curve[ended - 1]})
        elif math.isfinite(value):
            trial = Trial(number, choices, State.COMPLETE, value)
        else:
            trial = Trial(number, choices, State.IMPOSSIBLE)
        trials.append(trial)
        spent.append(spent[-1] + ended)
        best.append(min(best[-1], value if trial.state == State.COMPLETE else math.inf))
    return spent[1:], best[1:]


def _goes_on(value: float, others: list[float], asha: Any) -> bool:
    goes_on = asha(value if math.isfinite(value) else None, others, higher_is_better=False)
    if math.isfinite(value):
        others.append(value)
    return bool(goes_on)


def reached(spent: Sequence[int], best: Sequence[float], target: float) -> int:
    """The epochs trained when the target was reached; all of them if it was not."""
    return next((epochs for epochs, value in zip(spent, best, strict=True) if value <= target), BUDGET)


def nearest(choices: Mapping[str, Any]) -> Cell:
    """The cell that is nearest to these values, numbers by their logarithm."""
    return tuple(
        min(values, key=lambda value: abs(math.log(value / choices[path])))
        if not isinstance(choices[path], str)
        else choices[path]
        for path, values in GRID.items()
    )


def trained(file: Path, patch: int, processes: int = 2) -> Curves:
    """The table of a set, trained with one thread in each of several processes."""
    from multiprocessing import get_context

    cells = [*itertools.product(*GRID.values())]
    with get_context("spawn").Pool(processes) as pool:
        found = pool.map(_curve, [(file, patch, cell) for cell in cells], chunksize=1)
    return dict(zip(cells, found, strict=True))


def _curve(job: tuple[Path, int, Cell]) -> list[float]:
    from services.errors import Diverged
    from services.training import run
    from services.training.messages import EpochEnded, Order

    file, patch, (rate, size, pooling) = job
    run.prepare_process(1)
    spec = {
        "architecture": {"cell": "lstm", "hidden_size": size, "bidirectional": True, "pooling": pooling},
        "training": {"epochs": EPOCHS, "batch_size": 16, "optimizer": {"name": "adamw", "lr": rate}},
        "data": {
            "dataset": "table",
            "split": {"validation": 0.2, "test": "given", "evaluate_test": False},
            "scaling": "standard",
            "patch": patch,
        },
    }
    with tempfile.TemporaryDirectory(prefix="loopline-bench-") as folder:
        order = Order(spec=spec, data=str(file), directory=folder, resume=None, device="cpu", suspect=False)
        found: list[float] = []
        with contextlib.suppress(Diverged):
            for event in run.events(order):
                if isinstance(event, EpochEnded):
                    value = event.record[METRIC]
                    found.append(math.inf if value is None else value)
    return found + [math.inf] * (EPOCHS - len(found))
