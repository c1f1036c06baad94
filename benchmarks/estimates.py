"""`python -m benchmarks.estimates [COUNT]`: how far the estimates of a dry run are off.

It trains random small jobs on the processor, and then estimates each epoch from what all other jobs took, as
`services/jobs/estimates.py` does for a new job. It also prints the `Pace` that fits these jobs best.
"""

from __future__ import annotations

import random
import statistics
import sys
from dataclasses import replace

import numpy as np
import torch

from services.jobs.estimates import FIRST_EPOCHS, Past, estimate
from services.training.files import npz
from services.training.loop import Run, fit
from services.training.preparing import prepare
from services.training.run import use_threads
from services.training.spec import Spec, check_data, parse
from services.training.spec.effort import PACES, Effort, Pace, effort
from services.training.spec.footprint import of_synthetic

COUNT = 40
THREADS = torch.get_num_threads()
MOST_SECONDS = 12.0
"""Of a job whose next epoch would end later, no more epochs are trained."""


def drawn(rng: random.Random) -> Spec:
    """A random job that trains within seconds."""
    layers = rng.choice([1, 1, 2, 3])
    document = {
        "architecture": {
            "cell": rng.choice(["rnn", "gru", "lstm"]),
            "hidden_size": round(2 ** rng.uniform(3, 8)),
            "num_layers": layers,
            "bidirectional": rng.random() < 0.3,
        },
        "training": {"epochs": 3, "batch_size": 2 ** rng.randint(3, 8)},
        "data": {
            "synthetic": {
                "samples": round(10 ** rng.uniform(2, 3.5)),
                "length": round(10 ** rng.uniform(0.7, 2.3)),
                "features": rng.randint(1, 40),
                "classes": rng.randint(2, 20),
            }
        },
    }
    spec = parse(document)
    assert spec.data.synthetic is not None
    return check_data(spec, of_synthetic(spec.data.synthetic))


def epoch_seconds(spec: Spec) -> float:
    """What an epoch of the job takes, as `estimates.past` reads it of a job that has succeeded."""
    drawn_data = spec.data.synthetic
    assert drawn_data is not None
    arrays = npz.synthetic(
        *(getattr(drawn_data, name) for name in ("samples", "length", "features", "classes", "seed"))
    )
    torch.set_num_threads(THREADS)  # as a new process has them
    use_threads(spec, torch.device("cpu"))
    took: list[float] = []
    for record in fit(Run(spec, prepare(arrays, spec))):
        if record is not None:
            took.append(float(record["seconds"] or 0.0))
        if len(took) == FIRST_EPOCHS or sum(took) + (took[-1] if took else 0.0) > MOST_SECONDS:
            break
    return statistics.median(took[1:] or took)


def fitted(jobs: list[tuple[Effort, float]], pace: Pace) -> Pace:
    """The pace whose logarithmic error is least: each of its numbers is varied in turn."""

    def error(tried: Pace) -> float:
        factors = np.log([seconds / counted.seconds(tried) for counted, seconds in jobs])
        return float(np.abs(factors - np.median(factors)).mean())

    for factor in (4.0, 2.0, 1.4, 1.2, 1.1) * 3:
        for name in ("step", "number", "weight"):  # `update` sets the unit
            pace = min(
                (replace(pace, **{name: getattr(pace, name) * by}) for by in (1 / factor, 1.0, factor)), key=error
            )
    scale = float(np.exp(np.median(np.log([seconds / counted.seconds(pace) for counted, seconds in jobs]))))
    return Pace(*(getattr(pace, name) * scale for name in ("update", "step", "number", "weight")))


def main(count: int) -> None:
    rng = random.Random(0)
    specs = [drawn(rng) for _ in range(count)]
    jobs = []
    for spec in specs:
        assert spec.data.synthetic is not None
        counted = effort(spec, of_synthetic(spec.data.synthetic))
        jobs.append((spec, Past(spec.queue, "cpu", counted, epoch_seconds(spec))))
    factors = []
    for spec, job in jobs:
        found = estimate(spec, job.counted, [other for _, other in jobs if other is not job])
        if found.epoch_seconds is None:
            print(f"{job.epoch_seconds:8.3f} s  no estimate")
            continue
        factors.append(found.epoch_seconds / job.epoch_seconds)
        print(
            f"{job.epoch_seconds:8.3f} s, estimated {found.epoch_seconds:8.3f} s ({factors[-1]:5.2f} times): "
            f"{job.counted.need.parameters:,} parameters, {job.counted.steps_per_epoch:,} steps per epoch"
        )
    off = np.exp(np.abs(np.log(factors)))
    print(
        f"{len(factors)} of {count} jobs have an estimate. It is off by a factor of {np.median(off):.2f} in the "
        f"median, of {np.quantile(off, 0.9):.2f} for nine of ten, of {off.max():.2f} at most."
    )
    print("best fit:", fitted([(job.counted, job.epoch_seconds) for _, job in jobs], PACES["cpu"]))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else COUNT)
