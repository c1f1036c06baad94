"""How honest the gate is: how often a retraining passes where nothing has changed, and where something really has.

Sequences are noisy waves of four frequencies, drawn anew for every round, so what is true can be measured on as many of
them as one likes. Every training is a real one, by the trainer's own code, compared on 400 test sequences or so at the
gate's default error rate. What a model is truly worth is what it reaches on 20,000 sequences that nobody trained on.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS = 200
IMPROVED_ROUNDS = 100
ERROR_RATE = 0.05
TRAIN, OTHER = 1000, 600  # sequences to train on; for validation and, two of three, for the test
FRESH = 20_000
PROCESSES = 2


@dataclass(frozen=True)
class Round:
    """One comparison."""

    passed: bool
    truly: float
    """By how much the new model is better on fresh sequences."""


def waves(count: int, seed: int) -> Any:
    """`count` sequences of 20 steps, whose class is the frequency below the noise."""
    from services.training.files.npz import Arrays

    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, count)
    angle = 2 * np.pi * np.array([0.1, 0.13, 0.16, 0.2])[y, None] * np.arange(20) + rng.uniform(
        0, 2 * np.pi, (count, 1)
    )
    x = (np.sin(angle) + rng.standard_normal((count, 20)))[:, :, None]
    return Arrays(x=x.astype(np.float32), lengths=np.full(count, 20), y=y.astype(np.int64))


def first(arrays: Any, train: int) -> Any:
    """The same test and validation sequences, and so many to train on."""
    from services.training.files.npz import Arrays

    marks = np.zeros(len(arrays.x), np.int8)
    marks[-OTHER:] = np.where(np.arange(OTHER) % 3 == 0, 1, 2)
    kept = np.r_[:train, len(arrays.x) - OTHER : len(arrays.x)]
    return Arrays(x=arrays.x[kept], lengths=arrays.lengths[kept], y=arrays.y[kept], split=marks[kept])


def train(arrays: Any, seed: int, folder: Path, before: Path | None = None, *, warm: bool = False) -> bool | None:
    """Train a model into the folder; whether it passed the gate, None where there was none before."""
    import torch

    from services.training import run
    from services.training.files import npz
    from services.training.messages import Finished, Order, SavedModel

    torch.set_num_threads(1)
    folder.mkdir(parents=True)
    npz.write(folder / "data.npz", arrays)
    spec = {
        "architecture": {"cell": "gru", "hidden_size": 16},
        "training": {"epochs": 10, "batch_size": 50, "optimizer": {"name": "adam", "lr": 0.01}, "seed": seed},
        "data": {"dataset": "waves", "scaling": "standard"},
        "retrain": {"model": "waves", "warm_start": "production" if warm else None, "gate": {"error_rate": ERROR_RATE}},
        "checkpoints": {"every_seconds": None},
    }
    named = None if before is None else SavedModel("waves@1", str(before))
    baselines = {"warm_start": named if warm else None, "against": named}
    *_, end = run.events(Order(spec, str(folder / "data.npz"), str(folder), device="cpu", baselines=baselines))
    assert isinstance(end, Finished)
    (folder / "data.npz").unlink()
    gate = end.result["retrain"]["gate"]
    return None if before is None else bool(gate["passed"])


def worth(folder: Path) -> float:
    """What the model in the folder reaches on fresh sequences."""
    import torch

    from services.training.gate.reference import answered, load

    fresh = waves(FRESH, seed=2**31)
    outputs = answered(load("waves@1", str(folder)), fresh, np.arange(FRESH), torch.device("cpu"))
    return float((outputs.argmax(dim=1).numpy() == fresh.y).mean())


def pair(seed: int, before: int) -> Round:
    """Two trainings from scratch, the new one on 1,000 sequences and the old one on `before` of them."""
    drawn = waves(TRAIN + OTHER, seed)
    with tempfile.TemporaryDirectory() as temporary:
        old, new = Path(temporary) / "old", Path(temporary) / "new"
        train(first(drawn, before), 2 * seed, old)
        passed = train(first(drawn, TRAIN), 2 * seed + 1, new, old)
        return Round(bool(passed), worth(new) - worth(old))


def unchanged(seed: int) -> Round:
    return pair(seed, TRAIN)


def chain(warm: bool) -> list[Round]:
    """Night after night on data that grows, by a tenth in all, and never changes; what passes is in production."""
    found = []
    drawn = waves(TRAIN + OTHER, 10**6 + warm)
    with tempfile.TemporaryDirectory() as temporary:
        production = Path(temporary) / "0"
        train(first(drawn, TRAIN - ROUNDS // 2), 0, production)
        stands = worth(production)
        for night in range(1, ROUNDS + 1):
            folder = Path(temporary) / str(night)
            passed = train(first(drawn, TRAIN - (ROUNDS - night) // 2), night, folder, production, warm=warm)
            now = worth(folder) if passed else stands
            found.append(Round(bool(passed), now - stands))
            if passed:
                production, stands = folder, now
    return found


def rows() -> Iterator[dict[str, Any]]:
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        chains = [pool.submit(chain, warm) for warm in (False, True)]
        for name, under_way in zip(("from scratch", "beginning with production"), chains, strict=True):
            yield row(f"{ROUNDS} nights {name}, on data that grows and does not change", under_way.result())
        alike = [*pool.map(unchanged, range(ROUNDS), chunksize=10)]
        yield seeds_apart(alike)
        yield from improved(pool)


def improved(pool: ProcessPoolExecutor) -> Iterator[dict[str, Any]]:
    """How often a model that had more to learn from passes."""
    for before in (950, 900, 800):
        seeds = range(10_000 * before, 10_000 * before + IMPROVED_ROUNDS)
        better = [*pool.map(pair, seeds, [before] * IMPROVED_ROUNDS, chunksize=10)]
        truly = statistics.fmean(each.truly for each in better)
        passed = sum(each.passed for each in better)
        yield {
            "what": f"the gate, where the new model had {TRAIN:,} sequences to learn from, the old {before}, and "
            f"is truly better by {truly:.3f} of accuracy on average: passes, beside half of the rounds",
            "ours": f"{passed} of {IMPROVED_ROUNDS}",
            "other": f"{IMPROVED_ROUNDS // 2}",
            "ratio": passed / (IMPROVED_ROUNDS / 2),
            "at_least": 1.0 if before == 800 else None,
        }


def seeds_apart(found: list[Round]) -> dict[str, Any]:
    """Two trainings on the same data are two models, one of which is better: to pass the worse one is the error."""
    passed = [each for each in found if each.passed]
    truly = statistics.fmean(each.truly for each in passed) if passed else 0.0
    worse = sum(each.truly <= 0 for each in passed)
    return {
        "what": f"the gate at its default error rate, {len(found)} pairs of trainings on the same data, other seeds: "
        f"{len(passed)} passed, truly better by {truly:.3f} on average; how many were truly no better",
        "ours": str(worse),
        "other": f"{ERROR_RATE * len(found):.0f} may be",
        "ratio": ERROR_RATE * len(found) / max(1, worse),
        "at_least": 1.0,
    }


def row(what: str, found: list[Round]) -> dict[str, Any]:
    """How many passed, beside how many may."""
    passed = [each for each in found if each.passed]
    worse = sum(each.truly <= 0 for each in passed)
    return {
        "what": f"the gate at its default error rate, {what} ({worse} of those that passed were truly no better)",
        "ours": f"{len(passed)} passed",
        "other": f"{ERROR_RATE * len(found):.0f} may",
        "ratio": ERROR_RATE * len(found) / max(1, len(passed)),
        "at_least": 1.0,
    }
