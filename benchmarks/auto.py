"""What a spec that only names its data comes to, on real sets: beside three others in the same run.

    the defaults   data: {dataset: X}                    what services/training/spec/automatic.py chooses
    a plain cell   architecture: {cell: lstm}            the defaults of docs/spec.md, field by field
    by hand        a recipe that suits most such sets    a bidirectional GRU, mean pooling, AdamW, cosine, 150 epochs
    neighbour      the nearest neighbour by dynamic time warping, the usual yardstick of these archives

By the second and third way a fifth of the training part is for validation. The test part is looked at once, by each.
Means are over the seeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from benchmarks import archive

SEEDS = (0, 1, 2)
HAND = {
    "architecture": {"cell": "gru", "bidirectional": True, "pooling": "mean"},
    "training": {"epochs": 150, "optimizer": {"name": "adamw"}, "lr_schedule": {"name": "cosine"}},
}
SPECS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "a plain cell": {"architecture": {"cell": "lstm"}},
    "by hand": HAND,
}


def rows() -> Iterator[dict[str, Any]]:
    for words, sets in (("made with them", archive.KNOWN), ("kept away until then", archive.UNSEEN)):
        means: dict[str, list[float]] = {}
        for each in sets:
            found = accuracies(each)
            for name, values in found.items():
                means.setdefault(name, []).append(statistics.mean(values))
            yield row(f"{each.name}: test accuracy of the defaults", {name: means[name][-1] for name in found})
        total = {name: statistics.mean(values) for name, values in means.items()}
        yield row(f"mean over the sets {words}", total) | {"at_least": 1.0}


def accuracies(each: archive.Set) -> dict[str, list[float]]:
    """The test accuracy of each way, by seed."""
    jobs = [(each, _spec(each, name, seed)) for name in SPECS for seed in SEEDS]
    found = [result["metrics"]["test_accuracy"] for result in archive.trained(jobs)]
    by_name = {name: found[at * len(SEEDS) : (at + 1) * len(SEEDS)] for at, name in enumerate(SPECS)}
    return {**by_name, "neighbour": [archive.nearest_neighbour(each)]}


def _spec(each: archive.Set, name: str, seed: int) -> dict[str, Any]:
    """One way of training on a set. The defaults choose for themselves how to validate."""
    spec = SPECS[name]
    split = {"test": "given"} if name == "defaults" else {"validation": 0.2, "test": "given"}
    return {
        **spec,
        "data": {"dataset": each.name, "split": split},
        "training": {**spec.get("training", {}), "seed": seed},
    }


def row(what: str, means: dict[str, float]) -> dict[str, Any]:
    others = ", ".join(f"{name} {value:.3f}" for name, value in means.items() if name != "defaults")
    return {
        "what": what,
        "ours": f"{means['defaults']:.3f}",
        "other": others,
        "ratio": means["defaults"] / means["by hand"],
        "at_least": None,
    }
