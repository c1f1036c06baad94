"""How much memory a job needs at the least, and how much this machine has. Imports no torch.

An estimate from below: what fits by it may still not fit. `room.py` says which device has room.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.errors import TooLargeToTrain
from services.training.files.summary import DatasetSummary
from services.training.spec import Spec, shares, tasks
from services.training.spec.fields import Architecture, Synthetic
from services.training.spec.rules import counts_of_split
from services.training.spec.widths import Widths, sure, widths

GATES = {"rnn": 1, "gru": 3, "lstm": 4}
NUMBER = 4  # bytes of a float32
CGROUPS = Path("/sys/fs/cgroup")

_workers = 1
"""How many workers share this machine's memory."""


@dataclass(frozen=True)
class Footprint:
    """Bytes by what they are for."""

    parameters: int
    """How many numbers the network is made of."""
    network: int
    """Weights, gradients, the optimizer's state, and the best epoch's weights."""
    data: int
    """The data set as it is read, and prepared and divided: both are there until training begins."""
    prepared: int
    """Of it, what is there while training."""
    samples: int
    """How many a batch has."""
    batch: int
    """What the forward pass of a batch keeps for the backward pass."""
    sample: int
    """The same of as few samples as can be trained on at a time."""


def footprint(spec: Spec, summary: DatasetSummary, *, in_file: bool = False, surely: bool = False) -> Footprint:
    """What a job needs of memory with this data. `in_file`: its steps stay in their file. `surely`: only what it needs
    whatever the training split turns out to be: no words, categories, gaps and long sequences, which that may not
    have."""
    a, t, given = spec.architecture, spec.training, summary
    summary = tasks.as_trained(spec, given)
    w = widths(spec.data, summary)
    w, samples = (sure(spec.data, summary, w), _trained_on(spec, summary)) if surely else (w, summary.samples)
    parameters = w.embeddings + _parameters(a, w, summary.target_dim)
    state = {"adam": 2, "adamw": 2, "rmsprop": 1 + (getattr(t.optimizer, "momentum", 0.0) > 0)}
    copies = 3 + state.get(t.optimizer.name, int(getattr(t.optimizer, "momentum", 0.0) > 0))
    if surely and t.epochs == 1:
        copies -= 1  # there is no best epoch before the last one
    kept = GATES[a.cell] + 1 if a.cell != "rnn" else 1  # the gates and the state of each step
    step = kept * a.hidden_size * a.num_layers * (2 if a.bidirectional else 1) * (4 if t.precision == "float32" else 2)
    least = 2 if a.batch_norm else 1
    samples = max(1, min(t.batch_size, samples))
    prepared = w.steps * w.channels * NUMBER
    if tasks.forecast(spec) is not None and given.series is not None:  # the calendar is added to each step
        added = summary.features - given.series.columns
        prepared = given.bytes + given.samples * given.max_length * added * NUMBER
    if in_file or (surely and spec.data.missing == "drop"):
        prepared = 0
    longest, shortest = (min(steps, t.bptt_steps or steps) for steps in (w.longest, w.shortest))
    if surely and not _trains_on_all(spec, summary):
        longest = shortest
    return Footprint(
        parameters=parameters,
        network=parameters * NUMBER * copies,
        data=0 if in_file else given.bytes + prepared,
        prepared=prepared,
        samples=samples,
        batch=step * (longest + (samples - 1) * shortest),  # one of them is the longest
        sample=step * (longest + (least - 1) * shortest),
    )


def _trained_on(spec: Spec, summary: DatasetSummary) -> int:
    """At least so many samples are trained on: the counts are exact only where a split is random."""
    if spec.data.missing == "drop":
        return 1
    train = counts_of_split(spec, summary)["train"]
    return train if spec.data.split.method == "random" else train // 2


def _trains_on_all(spec: Spec, summary: DatasetSummary) -> bool:
    """Whether no sample is kept for validation or the test, or left out. With folds, the last model has all others."""
    given, drawn = shares.given_and_drawn(spec.data.split, summary)
    return spec.data.missing != "drop" and not any(given.values()) and not any(drawn.values())


def of_synthetic(drawn: Synthetic) -> DatasetSummary:
    """What synthetic data will be like."""
    return DatasetSummary(
        samples=drawn.samples,
        features=drawn.features,
        max_length=drawn.length,
        min_length=drawn.length,
        target="classes",
        classes=list(range(drawn.classes)),
        class_counts=None,
        target_dim=drawn.classes,
        given_split=None,
        bytes=drawn.samples * drawn.length * drawn.features * NUMBER,
    )


def check_padded(step: int, lengths: NDArray[np.int64]) -> None:
    """`step` is the size of a step in bytes.

    Raises TooLargeToTrain where sequences of these lengths, padded to the longest, need more than this machine has.
    """
    longest, there = int(lengths.max(initial=0)), host_bytes()
    needed = len(lengths) * longest * step
    if there is not None and needed > there:
        raise TooLargeToTrain(
            f"The data needs {shown(needed)} of memory, and {host_name()} has {shown(there)}: each of the "
            f"{len(lengths):,} sequences is padded to the longest, which has {longest:,} steps, and the median has "
            f"{int(np.median(lengths)):,}. Split the longest ones, or use a queue whose workers have more memory"
            f"{host_advice()}."
        )


def _parameters(a: Architecture, w: Widths, outputs: int) -> int:
    width, directions = a.hidden_size, 2 if a.bidirectional else 1
    layers = sum(
        GATES[a.cell] * width * ((w.inputs if layer == 0 else directions * width) + width + 2)
        for layer in range(a.num_layers)
    )
    pooled = directions * width
    attention = pooled + 1 if a.pooling == "attention" else 0
    return directions * layers + attention + (2 * pooled if a.batch_norm else 0) + (pooled + w.static + 1) * outputs


def share_host(workers: int) -> None:
    """Leave this process its share of the memory, because so many workers of this machine train at the same time."""
    global _workers
    _workers = workers


def host_name() -> str:
    """What has `host_bytes` of memory, for a sentence."""
    return "this machine" if _workers == 1 else f"each of the {_workers} workers that share this machine"


def host_advice() -> str:
    """How one job gets more of this machine's memory, for the end of a sentence. Empty if it has all."""
    return "" if _workers == 1 else ", or set LOOPLINE_CPU_WORKERS=1: then one job has all memory of this machine"


def host_bytes() -> int | None:
    """What this process may use of the machine's memory, in bytes: all of it, or what its cgroup allows, or its share
    of that (`share_host`). None: unknown."""
    try:
        there = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (OSError, ValueError):
        there = []
    for file in _limits():
        try:
            text = file.read_text().strip()
        except OSError:
            continue
        if text.isdigit():  # and not `max`
            there.append(int(text))
    whole = min((size for size in there if size > 0), default=None)
    return None if whole is None else whole // _workers


def _limits() -> Iterator[Path]:
    """Files that hold a limit of the memory: of this process's cgroup and those above it."""
    yield CGROUPS / "memory" / "memory.limit_in_bytes"  # cgroup v1, inside a container
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        if line.startswith("0::/"):
            inner = Path(line.removeprefix("0::/"))
            yield from (CGROUPS / folder / "memory.max" for folder in (inner, *inner.parents))


def shown(size: int) -> str:
    """`3.55 PiB`"""
    value, units = float(size), ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:,.0f} {units[0]}" if units[0] == "bytes" else f"{value:,.3g} {units[0]}"
