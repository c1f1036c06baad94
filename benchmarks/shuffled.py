"""What searches say of labels that were shuffled: nothing can be learnt, so no model should beat its baseline.

Twenty data sets of 60 random walks each, with labels of two classes drawn at random. Each is searched as
`loopline train` searches it: a space chosen for the data, folds, a test part that no trial has seen, and a final model.
An interval with a confidence of 95 % misses the true accuracy of 0.5 in one of twenty cases.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.start import service

REPEATS = 20
SAMPLES, STEPS = 60, 40
SEARCH = {"trials": 4, "parallel": 1}
MOST = 3
"""Searches of 20 that may claim more: a rate of 5 % gives 4 or more in 2 of 100 cases."""


def rows() -> Iterator[dict[str, Any]]:
    from loopline import Client

    with (
        tempfile.TemporaryDirectory(prefix="loopline-bench-") as place,
        service(Path(place), LOOPLINE_CPU_WORKERS="2") as (url, _),
        Client(url) as client,
    ):
        searches = []
        for seed in range(REPEATS):
            client.upload(noise(seed), f"noise-{seed}")
            spec = {"data": {"dataset": f"noise-{seed}"}, "training": {"epochs": 15, "seed": seed}}
            searches.append(client.searches.submit({**spec, "search": {**SEARCH, "seed": seed}}))
        jobs = [search.wait(timeout=3600).model_job() for search in searches]
    found = [job.result.baseline for job in jobs if job is not None and job.result is not None]
    claims = sum(baseline["is_beaten"] for baseline in found)
    missed = sum(not baseline["interval"][0] <= 0.5 <= baseline["interval"][1] for baseline in found)
    for what, count in (("claim to beat the baseline", claims), ("give an interval without 0.5", missed)):
        yield {
            "what": f"of {REPEATS} searches of shuffled labels, those that {what}; at most {MOST}",
            "ours": f"{count} of {len(found)}",
            "other": "",
            "ratio": MOST / max(count, 1) if len(found) == REPEATS else 0.0,
            "at_least": 1.0,
        }


def noise(seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Random walks (samples, steps, features) and labels that have nothing to do with them."""
    drawn = np.random.default_rng(seed)
    x = drawn.normal(size=(SAMPLES, STEPS, 2)).cumsum(axis=1).astype(np.float32)
    return {"x": x, "y": drawn.permutation(np.arange(SAMPLES) % 2)}
