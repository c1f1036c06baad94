"""How many epochs a search needs to reach the same validation loss: by TPE with early stopping, and at random without.

Two real sets: the Japanese Vowels that ship, and OSULeaf (archive.py). A table is trained first: every cell of `GRID`,
once, with its validation loss after each epoch. Then searches are played through by the functions of services/searches.
The curve of a trial lies between those of the four nearest cells (its logarithm is interpolated). So ten searches of
each kind cost no training, and all kinds see the same curves.

Every search trains the same number of epochs: `TRIALS` trials, or more if trials are stopped early. The loss to reach
is the median of what ten random searches find. A search that does not reach it is counted with all its epochs.
"""

from __future__ import annotations

import bisect
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
WORST = 50.0
"""A larger loss counts as this one."""
Kind = tuple[Literal["tpe", "random"], Literal["asha", "median"] | None]
KINDS: tuple[Kind, ...] = (("tpe", "median"), ("tpe", "asha"), ("tpe", None), ("random", "asha"), ("random", None))
"""The algorithm and the rule that stops trials early; the default first."""


def rows() -> Iterator[dict[str, Any]]:
    [leaf] = [each for each in archive.UNSEEN if each.name == "OSULeaf"]
    for name, file, patch in (("JapaneseVowels", VOWELS, 1), (leaf.name, archive.path(leaf), 4)):
        curves = trained(file, patch)
        found = {kind: [searched(curves, *kind, seed) for seed in range(SEARCHES)] for kind in KINDS}
        target = statistics.median(min(best) for _, best in found["random", None])
        epochs = {kind: statistics.mean(reached(*each, target) for each in found[kind]) for kind in KINDS}
        words = [f"{algorithm}, {rule or 'no stopping'}: {epochs[algorithm, rule]:,.0f}" for algorithm, rule in KINDS]
        yield {
            "what": f"{name}: epochs until {METRIC} {target:.3g}, mean of {SEARCHES} searches",
            "ours": words[0],
            "other": "; ".join(words[1:]),
            "ratio": epochs["random", None] / epochs["tpe", "median"],
            "at_least": 2.0,
        }


def searched(
    curves: Curves, algorithm: Literal["tpe", "random"], rule: Literal["asha", "median"] | None, seed: int
) -> tuple[list[int], list[float]]:
    """The epochs trained after each trial, and the best value so far, of a search that makes one trial at a time."""
    from services.searches import reading, suggesting
    from services.searches.stopping import asha, first_rung, median, rungs
    from services.searches.trials import State, Trial

    space, problems = reading.read_space(SPACE, {})
    assert space is not None, problems
    places = rungs(first_rung(EPOCHS), EPOCHS) if rule else ()
    known: list[Trial] = []
    made: list[list[float]] = []
    """Of each trial so far the curve, as far as it was trained."""
    spent, best = [0], [math.inf]
    while spent[-1] < BUDGET:
        number = len(known) + 1
        choices = suggesting.suggest(space, known, number, algorithm=algorithm, seed=seed, higher_is_better=False)
        curve = curve_of(curves, choices)
        for rung in places:
            value = min(curve[:rung])
            others = [min(other[:rung]) for other in made if len(other) >= (EPOCHS if rule == "median" else rung)]
            by = median([value], others, higher_is_better=False) if rule == "median" else None
            if not (asha(value, others, higher_is_better=False) if by is None else by):
                curve = curve[:rung]
                break
        is_complete = len(curve) == EPOCHS
        if is_complete:
            known.append(Trial(number, choices, State.COMPLETE, min(curve)))
        else:
            known.append(Trial(number, choices, State.PRUNED, None, {len(curve): curve[-1]}))
        made.append(curve)
        spent.append(spent[-1] + len(curve))
        best.append(min(best[-1], min(curve) if is_complete else math.inf))
    return spent[1:], best[1:]


def reached(spent: Sequence[int], best: Sequence[float], target: float) -> int:
    """The epochs trained when the target was reached; all of them if it was not."""
    return next((epochs for epochs, value in zip(spent, best, strict=True) if value <= target), BUDGET)


def curve_of(curves: Curves, choices: Mapping[str, Any]) -> list[float]:
    """The curve between the nearest cells: the logarithm of the loss is linear in that of both numbers."""
    rates, sizes, _ = GRID.values()
    pooling = choices["architecture.pooling"]
    (low, high, right), (small, large, up) = (
        between([math.log(each) for each in values], math.log(choices[path]))
        for path, values in zip(GRID, (rates, sizes), strict=False)
    )
    corners = [
        ((1 - right) * (1 - up), curves[rates[low], sizes[small], pooling]),
        (right * (1 - up), curves[rates[high], sizes[small], pooling]),
        ((1 - right) * up, curves[rates[low], sizes[large], pooling]),
        (right * up, curves[rates[high], sizes[large], pooling]),
    ]
    return [
        math.exp(sum(share * math.log(min(curve[epoch], WORST)) for share, curve in corners)) for epoch in range(EPOCHS)
    ]


def between(values: Sequence[float], at: float) -> tuple[int, int, float]:
    """The places of the two neighbours of a number among ascending ones, and how far it is from the first to the second
    (0 to 1)."""
    after = min(max(bisect.bisect_left(values, at), 1), len(values) - 1)
    return after - 1, after, (at - values[after - 1]) / (values[after] - values[after - 1])


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
