"""The loop beside the arithmetic: Loopline's fit() and the plain loop that one would write, on the same data order.

Another row is what the probe of gradients (services/training/gradients.py) adds to an epoch.

The two loops run in one process and a trainer's environment, taking turns epoch by epoch; the figure is the ratio of
their fastest epochs, as whatever else the machine does can only slow one down. "As it comes" is the plain loop in a
process of its own, without that environment and without flush-to-zero.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from services.training.files.npz import Arrays
    from services.training.loop import Run

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Workload:
    name: str
    samples: int
    length: int
    features: int
    hidden_size: int
    num_layers: int
    batch_size: int
    epochs: int
    denormals: bool = False  # whether the plain loop runs without flush-to-zero, in a process of its own
    at_least: float = 1.0


SLOW_DENORMALS = 4.0  # from this penalty on, flush-to-zero is asked to show what it wins

WORKLOADS = {
    "tutorial": Workload("tutorial: 1000 x 50 x 10, 2 x LSTM 128, batch 64", 1000, 50, 10, 128, 2, 64, 12),
    "tiny": Workload("tiny: 1000 x 20 x 8, LSTM 16, batch 16", 1000, 20, 8, 16, 1, 16, 40, at_least=1.15),
    "long": Workload("long: 256 x 200 x 10, 2 x LSTM 256, batch 128", 256, 200, 10, 256, 2, 128, 3, True, 8.0),
}


def ours(w: Workload) -> Iterator[float]:
    """Seconds of each epoch of fit(), without its probe of gradients."""
    from services.training.loop import fit

    run = built(w)
    run.is_probed = False
    began = time.perf_counter()
    for epoch in fit(run):
        if epoch is not None:
            yield time.perf_counter() - began
            began = time.perf_counter()


def probes(w: Workload) -> Iterator[float]:
    """Seconds that the probe of gradients adds to each epoch in the mean: it is made every few epochs."""
    from services.training.loop import probe

    run = built(w)
    while True:
        began = time.perf_counter()
        probe(run)
        yield (time.perf_counter() - began) / run.probe_interval


def built(w: Workload) -> Run:
    import torch

    from services.training.data import prepare
    from services.training.engine.choice import choose
    from services.training.files import npz
    from services.training.loop import Run
    from services.training.run import use_threads
    from services.training.spec import check_data, parse

    arrays = npz.synthetic(w.samples, w.length, w.features, 2, 0)
    document = {
        "architecture": {"cell": "lstm", "hidden_size": w.hidden_size, "num_layers": w.num_layers},
        "training": {"epochs": 1000, "batch_size": w.batch_size},
        "data": {"synthetic": {}, "split": {"validation": 0.0, "test": 0.0}},
    }
    spec = check_data(parse(document), npz.summarise(arrays))
    use_threads(spec, choose(spec.training, torch.device("cpu")))
    return Run(spec, prepare(arrays, spec))


def plain(w: Workload) -> Iterator[float]:
    """Seconds of each epoch of the loop one would write by hand: the tutorial's, its data order drawn as ours is."""
    import torch
    from torch import nn

    from services.training.data import order_of
    from services.training.files import npz

    arrays = npz.synthetic(w.samples, w.length, w.features, 2, 0)
    torch.manual_seed(0)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(w.features, w.hidden_size, w.num_layers, batch_first=True)
            self.fc = nn.Linear(w.hidden_size, 2)

        def forward(self, x: torch.Tensor) -> Any:
            out, _ = self.lstm(x)
            return self.fc(out[:, -1, :])

    def rows(epoch: int) -> Iterator[Any]:
        ordered = order_of(epoch, seed=0, samples=w.samples, batch_size=w.batch_size)
        return map(torch.from_numpy, ordered.batches)

    return by_hand(Model(), arrays, rows)


def by_hand(model: Any, arrays: Arrays, rows: Callable[[int], Iterable[Any]]) -> Iterator[float]:
    """Seconds of each epoch of that loop, for any model. `rows` gives the samples of each batch of an epoch."""
    import torch
    from torch import nn

    x, y = torch.from_numpy(arrays.x), torch.from_numpy(arrays.y)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in itertools.count(1):
        began = time.perf_counter()
        total, correct = 0.0, 0
        for index in rows(epoch):
            optimizer.zero_grad()
            outputs = model(x[index])
            loss = criterion(outputs, y[index])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
            optimizer.step()
            total += loss.item() * len(index)
            correct += (outputs.argmax(dim=1) == y[index]).sum().item()
        yield time.perf_counter() - began


def epochs_of(kind: Callable[[Workload], Iterator[float]], w: Workload) -> Callable[[], float]:
    stream = kind(w)
    return lambda: next(stream)


def measure(key: str, kinds: list[str], flush: bool) -> dict[str, float]:
    """Seconds of the fastest epoch of each kind, in this process, the kinds taking turns."""
    import torch

    torch.set_flush_denormal(flush)
    w = WORKLOADS[key]
    runs = {kind: epochs_of({"ours": ours, "plain": plain, "probes": probes}[kind], w) for kind in kinds}
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(w.epochs + 1):
        for kind, epoch in runs.items():
            seconds = epoch()
            if turn:  # the first warms up
                times[kind].append(seconds)
    return {kind: min(values) for kind, values in times.items()}


def in_process(key: str, kinds: list[str], *, flush: bool = True, malloc: bool = True) -> dict[str, float]:
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    if malloc:
        from services.training.environment import ENVIRONMENT

        environment |= ENVIRONMENT
    command = [sys.executable, __file__, "--measure", key, ",".join(kinds), "flush" if flush else "denormals"]
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def rows() -> list[dict[str, object]]:
    """The table's rows: what was measured, the ratio, and what it must reach."""
    found: list[dict[str, object]] = []
    for key, w in WORKLOADS.items():
        if w.denormals:
            own, other, penalty = in_process(key, ["ours"])["ours"], as_it_comes(key), denormal_penalty()
            name = f"{w.name}; plain as it comes, on a CPU that multiplies denormals {penalty:.1f} times slower"
            found.append(row(name, own, other, w.at_least if penalty > SLOW_DENORMALS else None))
        else:
            both = in_process(key, ["ours", "plain"])
            found.append(row(w.name, both["ours"], both["plain"], w.at_least))
    for key in ("tutorial", "tiny"):
        both = in_process(key, ["ours", "probes"])
        with_probe = both["ours"] + both["probes"]
        found.append(row(f"{key}; with and without the probe of gradients", with_probe, both["ours"], 0.98))
    own = in_process("tutorial", ["ours"])["ours"]
    found.append(row("tutorial; plain as it comes", own, as_it_comes("tutorial"), None))
    bare = in_process("tutorial", ["ours"], malloc=False)["ours"]
    found.append(row("tutorial; ours without a trainer's environment", own, bare, None))
    return found


def denormal_penalty() -> float:
    """How many times slower this CPU multiplies where the results are denormal numbers: up to 100 on many of Intel's.

    Where it is not slower at all, as on recent ones of AMD's, flush-to-zero has nothing to win.
    """
    import torch

    torch.set_flush_denormal(False)
    seconds = []
    for value in (1.0, 1e-39):
        factor = torch.full((256, 256), value)
        began = time.perf_counter()
        for _ in range(200):
            torch.mul(factor, 0.5)
        seconds.append(time.perf_counter() - began)
    return seconds[1] / seconds[0]


def as_it_comes(key: str) -> float:
    return in_process(key, ["plain"], flush=False, malloc=False)["plain"]


def row(what: str, ours: float, other: float, at_least: float | None) -> dict[str, object]:
    shown = {"ours": f"{ours * 1e3:.1f} ms/epoch", "other": f"{other * 1e3:.1f} ms/epoch"}
    return {"what": what, **shown, "ratio": other / ours, "at_least": at_least}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2], sys.argv[3].split(","), sys.argv[4] == "flush")))
    else:
        for found in rows():
            print(found)
