"""What a search and a spec that only name their data come to, on real sets: beside three others in the same run.

    a search       search: {minutes: 10}                 what a search varies by itself, with two workers
    the defaults   data: {dataset: X}                    what services/training/spec/automatic.py chooses
    a plain cell   architecture: {cell: lstm}            the defaults of docs/spec.md, field by field
    by hand        a recipe that suits most such sets    a bidirectional GRU, mean pooling, AdamW, cosine, 150 epochs
    neighbour      the nearest neighbour by dynamic time warping, the usual yardstick of these archives

By the third and fourth way a fifth of the training part is for validation. The test part is looked at once, by each.
Means are over the seeds.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import archive
from benchmarks.start import service

SEEDS = (0, 1, 2)
SEARCH = "a search"
MINUTES = 10
LEAST_OF_SEARCH = 0.9
"""The defaults should reach this share of what a search finds."""
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
            yield row(f"{each.name}: test accuracy of a search", {name: means[name][-1] for name in found})
        total = {name: statistics.mean(values) for name, values in means.items()}
        mean = f"mean over the sets {words}"
        yield row(f"{mean}: a search, beside the neighbour", total, "neighbour") | {"at_least": 1.0}
        others = {name: value for name, value in total.items() if name != SEARCH}
        yield row(f"{mean}: the defaults, beside by hand", others) | {"at_least": 1.0}
        both = {name: total[name] for name in ("defaults", SEARCH)}
        yield row(f"{mean}: the defaults, beside a search", both, SEARCH) | {"at_least": LEAST_OF_SEARCH}


def accuracies(each: archive.Set) -> dict[str, list[float]]:
    """The test accuracy of each way, by seed."""
    jobs = [(each, _spec(each, name, seed)) for name in SPECS for seed in SEEDS]
    found = [result["metrics"]["test_accuracy"] for result in archive.trained(jobs)]
    by_name = {name: found[at * len(SEEDS) : (at + 1) * len(SEEDS)] for at, name in enumerate(SPECS)}
    return {SEARCH: [searched(each, seed) for seed in SEEDS], **by_name, "neighbour": [archive.nearest_neighbour(each)]}


def searched(each: archive.Set, seed: int) -> float:
    """The test accuracy of the final model of a search, by a service with two workers."""
    from loopline import Client

    with (
        tempfile.TemporaryDirectory(prefix="loopline-bench-") as place,
        service(Path(place), LOOPLINE_CPU_WORKERS="2") as (url, _),
        Client(url) as client,
    ):
        client.upload(archive.path(each), each.name.lower())
        spec = {"data": {"dataset": each.name.lower()}, "training": {"seed": seed}}
        search = client.searches.submit({**spec, "search": {"minutes": MINUTES, "seed": seed}})
        job = search.wait(timeout=7200).model_job()
    assert job is not None
    assert job.result is not None
    return float(job.result.metrics["test_accuracy"] or 0.0)


def _spec(each: archive.Set, name: str, seed: int) -> dict[str, Any]:
    """One way of training on a set. The defaults choose for themselves how to validate."""
    spec = SPECS[name]
    split = {"test": "given"} if name == "defaults" else {"validation": 0.2, "test": "given"}
    return {
        **spec,
        "data": {"dataset": each.name, "split": split},
        "training": {**spec.get("training", {}), "seed": seed},
    }


def row(what: str, means: dict[str, float], beside: str = "by hand") -> dict[str, Any]:
    """The first of the ways beside the others; the ratio is that to one of them."""
    ours, *others = means
    return {
        "what": what,
        "ours": f"{means[ours]:.3f}",
        "other": ", ".join(f"{name} {means[name]:.3f}" for name in others),
        "ratio": means[ours] / means[beside],
        "at_least": None,
    }
