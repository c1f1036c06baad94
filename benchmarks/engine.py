"""The compiled engine beside PyTorch: Loopline with either, the plain loop by hand, skorch and Lightning.

All train in one process and a trainer's environment, taking turns epoch by epoch; a figure is a ratio of their fastest
epochs. The share of the peak is what the network's matrix products come to, by the fastest large product that torch's
BLAS made in the same process. Each workload is measured with all vector instructions that this processor has, and with
AVX2 alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from services.training.files.npz import Arrays
    from services.training.loop import Run

ROOT = Path(__file__).parent.parent
PEERS = ROOT / "var" / "peers"
"""skorch and Lightning, installed by this benchmark beside the torch that is there."""
PACKAGES = ("skorch", "lightning", "pytorch-lightning", "lightning-utilities", "torchmetrics", "scikit-learn", "joblib")
MORE = ("scipy", "cloudpickle", "threadpoolctl", "tabulate", "tqdm", "fsspec", "packaging", "aiohttp", "narwhals")
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
GATES = {"lstm": 4, "gru": 3, "rnn": 1}


@dataclass(frozen=True)
class Workload:
    name: str
    samples: int
    length: int
    features: int
    cell: str
    hidden_size: int
    num_layers: int
    batch_size: int
    epochs: int
    share: tuple[float, float]
    """Of the peak, at least: with AVX2 and with AVX-512."""
    ratio: tuple[float, float]
    """To the plain loop, at least."""
    both: bool = False
    """Bidirectional, with batch normalisation."""

    def operations(self) -> float:
        """Floating point operations of an epoch's matrix products in the recurrent layers: forwards, and twice as many
        backwards."""
        directions = 2 if self.both else 1
        read = self.features + (self.num_layers - 1) * directions * self.hidden_size
        per_step = directions * GATES[self.cell] * self.hidden_size * (read + self.num_layers * self.hidden_size)
        return 3.0 * 2.0 * per_step * self.samples * self.length


TUTORIAL = (1000, 50, 10)
WORKLOADS = {
    "tutorial": Workload(
        "tutorial: 1000 x 50 x 10, 2 x LSTM 128, batch 64", *TUTORIAL, "lstm", 128, 2, 64, 10, (0.78, 0.7), (1.15, 2.0)
    ),
    "gru": Workload("the same, GRU", *TUTORIAL, "gru", 128, 2, 64, 10, (0.72, 0.72), (3.5, 3.5)),
    "rnn": Workload(
        "the same, bidirectional tanh RNN with batch norm",
        *TUTORIAL,
        "rnn",
        128,
        2,
        64,
        10,
        (0.55, 0.55),
        (2.2, 2.2),
        True,
    ),
    "tiny": Workload(
        "tiny: 1000 x 20 x 8, LSTM 16, batch 16", 1000, 20, 8, "lstm", 16, 1, 16, 30, (0.25,) * 2, (20,) * 2
    ),
    "long": Workload(
        "long: 256 x 200 x 10, 2 x LSTM 256, batch 128",
        256,
        200,
        10,
        "lstm",
        256,
        2,
        128,
        4,
        (0.78, 0.78),
        (1.15, 1.15),
    ),
}
VOWELS = "Japanese Vowels as in examples/vowels.yaml"


# ---- what is measured, in a process of its own: seconds of each epoch


def drawn(w: Workload) -> Arrays:
    from services.training.files import npz

    return npz.synthetic(w.samples, w.length, w.features, 2, 0)


def run_of(arrays: Arrays, document: dict[str, Any], engine: str) -> Run:
    import torch

    from services.training.data import prepare
    from services.training.engine.choice import choose
    from services.training.files import npz
    from services.training.loop import Run
    from services.training.run import use_threads
    from services.training.spec import check_data, parse

    document["training"] = {**document["training"], "epochs": 1000, "early_stopping": None, "engine": engine}
    spec = check_data(parse(document), npz.summarise(arrays))
    use_threads(spec, choose(spec.training, torch.device("cpu")))
    run = Run(spec, prepare(arrays, spec))
    run.is_probed = False
    return run


def spec_of(w: Workload) -> dict[str, Any]:
    return {
        "architecture": {
            "cell": w.cell,
            "hidden_size": w.hidden_size,
            "num_layers": w.num_layers,
            "bidirectional": w.both,
            "batch_norm": w.both,
        },
        "training": {"batch_size": w.batch_size},
        "data": {"synthetic": {}, "split": {"validation": 0.0, "test": 0.0}},
    }


def epochs(run: Run) -> Iterator[float]:
    from services.training.loop import fit

    began = time.perf_counter()
    for epoch in fit(run):
        if epoch is not None:
            yield time.perf_counter() - began
            began = time.perf_counter()


def vowels(engine: str) -> Iterator[float]:
    """The example's epochs, with the evaluation of its validation part."""
    from services.training.files import npz
    from services.training.files import reading as files
    from services.training.spec import reading

    document = reading.loads((ROOT / "examples" / "vowels.yaml").read_text())
    arrays = files.read(ROOT / "data" / "japanese-vowels.npz", npz.Limits(max_bytes=1 << 30), {})
    return epochs(run_of(arrays, {key: document[key] for key in ("architecture", "training", "data")}, engine))


def model_of(w: Workload) -> Any:
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            kind = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[w.cell]
            self.rnn = kind(w.features, w.hidden_size, w.num_layers, batch_first=True, bidirectional=w.both)
            width = w.hidden_size * (2 if w.both else 1)
            self.norm = nn.BatchNorm1d(width) if w.both else nn.Identity()
            self.fc = nn.Linear(width, 2)

        def forward(self, x: torch.Tensor) -> Any:
            out, _ = self.rnn(x)
            return self.fc(self.norm(out[:, -1, :]))

    torch.manual_seed(0)
    return Model()


def plain(w: Workload) -> Iterator[float]:
    """The loop that one would write by hand."""
    import torch

    from benchmarks.loop import by_hand

    return by_hand(model_of(w), drawn(w), lambda _: torch.randperm(w.samples).split(w.batch_size))


def skorch(w: Workload) -> Iterator[float]:
    import torch
    from skorch import NeuralNetClassifier
    from skorch.callbacks import GradientNormClipping

    arrays = drawn(w)
    net = NeuralNetClassifier(
        model_of(w),
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=1e-3,
        batch_size=w.batch_size,
        iterator_train__shuffle=True,
        train_split=None,
        max_epochs=1,
        verbose=0,
        callbacks=[GradientNormClipping(1.0)],
    )
    net.initialize()
    while True:
        began = time.perf_counter()
        net.partial_fit(arrays.x, arrays.y)
        yield time.perf_counter() - began


def lightning(w: Workload) -> Iterator[float]:
    import logging
    import warnings

    import torch
    from lightning import LightningModule, Trainer

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    arrays = drawn(w)
    data = torch.utils.data.TensorDataset(torch.from_numpy(arrays.x), torch.from_numpy(arrays.y))
    loader = torch.utils.data.DataLoader(data, batch_size=w.batch_size, shuffle=True)

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model_of(w)

        def training_step(self, batch: Any, _: int) -> Any:
            return torch.nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=1e-3)

    module = Module()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    while True:
        trainer = Trainer(max_epochs=1, accelerator="cpu", gradient_clip_val=1.0, **quiet)
        began = time.perf_counter()
        trainer.fit(module, loader)
        yield time.perf_counter() - began


def peak() -> float:
    """The most operations a second of torch's BLAS, in a product of large matrices, with the threads of training."""
    import torch

    a, b = torch.randn(2, 1024, 1024)
    best = 0.0
    for _ in range(30):
        began = time.perf_counter()
        a @ b
        best = max(best, 2.0 * 1024**3 / (time.perf_counter() - began))
    return best


KINDS: dict[str, Callable[[Workload], Iterator[float]]] = {
    "compiled": lambda w: epochs(run_of(drawn(w), spec_of(w), "compiled")),
    "torch": lambda w: epochs(run_of(drawn(w), spec_of(w), "torch")),
    "plain": plain,
    "skorch": skorch,
    "lightning": lightning,
}


def measure(key: str) -> dict[str, float]:
    """Seconds of the fastest epoch of each kind, and the peak; each at the number of threads at which it is faster."""
    import torch

    from services.training.run import prepare_process

    threads = os.cpu_count() or 1
    prepare_process(threads)
    found = {"peak": peak()}
    turns = 30 if key == "vowels" else WORKLOADS[key].epochs
    if key == "vowels":
        streams = {engine: vowels(engine) for engine in ("compiled", "torch")}
    else:
        streams = {kind: make(WORKLOADS[key]) for kind, make in KINDS.items()}
    own = {kind: torch.get_num_threads() if kind in ("compiled", "torch") else threads for kind in streams}
    for kind, stream in streams.items():  # use_threads() sets them when a run is made
        torch.set_num_threads(threads)
        next(stream)
        if kind in ("compiled", "torch"):
            own[kind] = torch.get_num_threads()
    for _ in range(turns):
        for kind, stream in streams.items():
            torch.set_num_threads(own[kind])
            seconds = next(stream)
            found[kind] = min(seconds, found.get(kind, seconds))
    return {**found, "peak": max(found["peak"], peak())}


# ---- the table


def install() -> None:
    if PEERS.exists():
        return
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(PEERS), "--no-deps", *PACKAGES, *MORE],
        check=True,
    )


def in_process(key: str, more: dict[str, str]) -> dict[str, float]:
    from services.training.environment import ENVIRONMENT

    environment = {**os.environ, **ENVIRONMENT, **more, "PYTHONPATH": f"{ROOT}:{PEERS}"}
    command = [sys.executable, __file__, "--measure", key]
    ran = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(ran.stdout.splitlines()[-1])


def rows() -> Iterator[dict[str, object]]:
    """The table's rows: what was measured, the ratio, and what it must reach."""
    import torch

    install()
    has_avx512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
    processors: list[tuple[str, int, dict[str, str]]] = [("AVX2", 0, AVX2)]
    if has_avx512:
        processors.append(("AVX-512", 1, {}))
    for processor, which, environment in processors:
        for key, w in WORKLOADS.items():
            found = in_process(key, environment)
            share = w.operations() / found["compiled"] / found["peak"]
            yield row(f"{w.name}; {processor}: share of the peak", found["compiled"], None, share, w.share[which])
            for kind in ("plain", "torch", "skorch", "lightning"):
                at_least = w.ratio[which] if kind == "plain" else None
                what = {"plain": "the plain loop", "torch": "our PyTorch step"}.get(kind, kind)
                ratio = found[kind] / found["compiled"]
                yield row(f"{w.name}; {processor}: {what}", found["compiled"], found[kind], ratio, at_least)
        found = in_process("vowels", environment)
        ratio = found["torch"] / found["compiled"]
        yield row(f"{VOWELS}; {processor}: our PyTorch step", found["compiled"], found["torch"], ratio, 3.0)


def row(what: str, ours: float, other: float | None, ratio: float, at_least: float | None) -> dict[str, object]:
    shown = {"ours": f"{ours * 1e3:.1f} ms/epoch", "other": "" if other is None else f"{other * 1e3:.1f} ms/epoch"}
    return {"what": what, **shown, "ratio": ratio, "at_least": at_least}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2])))
    else:
        for found in rows():
            print(found)
