"""The network of the Japanese Vowels answers over HTTP: what that costs over a bare call of ONNX Runtime, and MLflow.

`mlflow models serve` serves the same model.onnx with two processes, as our API has. MLflow has an environment of its
own (benchmarks/tracking.py), into which onnx and onnxruntime are installed here. Clients are processes with a socket
each, kept open. Each request asks about one sequence.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import tracking
from benchmarks.start import ROOT, WORKLOAD, free_port, service

CLIENTS, SECONDS, ROUNDS, CALLS = 8, 3.0, 3, 300
OVERHEAD_SECONDS, MOST_TAIL = 0.003, 5.0
DATA, EXAMPLE = ROOT / "data" / "japanese-vowels.npz", ROOT / "examples" / "vowels.yaml"
SAVE = """
import sys
import mlflow.onnx, numpy, onnx
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
model = onnx.load(sys.argv[1])
x = model.graph.input[0].type.tensor_type
dtype = numpy.dtype(onnx.helper.tensor_dtype_to_np_dtype(x.elem_type))
inputs = [TensorSpec(dtype, (-1, -1, x.shape.dim[2].dim_value), "x")]
inputs.append(TensorSpec(numpy.dtype("int64"), (-1,), "lengths"))
mlflow.onnx.save_model(model, sys.argv[2], signature=ModelSignature(inputs=Schema(inputs)))
"""


def rows() -> Iterator[dict[str, Any]]:
    """Milliseconds over the bare call, and answers a second beside MLflow."""
    from loopline import Client
    from loopline import spec as specs

    with tempfile.TemporaryDirectory(prefix="loopline-bench-") as place:
        folder = Path(place)
        x = spoken()
        with service(folder / "ours") as (url, _), Client(url) as client:
            client.upload(DATA, "japanese-vowels")
            spec = specs.read(str(EXAMPLE))
            spec.set(("training", "epochs"), "2")
            job = client.submit(spec).wait(timeout=300)
            job.download(folder / "model")
            port = int(url.rpartition(":")[2])
            ours = tracking.raw("POST", f"/v1/jobs/{job.id}/predict", {"x": x.tolist()})
            yield overhead(port, ours, folder / "model" / "model.onnx", x)
            yield from beside_training(client, port, ours)
            with mlflow(folder) as other:
                theirs = tracking.raw("POST", "/invocations", {"inputs": {"x": x.tolist(), "lengths": [x.shape[1]]}})
                yield from beside(port, ours, other, theirs)


def spoken() -> np.ndarray[Any, Any]:
    """The first of the recordings, (1, steps, features)."""
    with np.load(DATA) as arrays:
        return np.asarray(arrays["x"][:1, : arrays["lengths"][0]], np.float32)


def overhead(port: int, request: str, path: Path, x: np.ndarray[Any, Any]) -> dict[str, Any]:
    """One client's median beside that of the bare call; in turns."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    dtype = np.float64 if "double" in session.get_inputs()[0].type else np.float32
    feeds = {"x": x.astype(dtype), "lengths": np.array([x.shape[1]])}
    bare, asked = [], []
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        for _ in range(CALLS):
            bare.append(seconds(lambda: session.run(["probabilities"], feeds)))
            asked.append(seconds(lambda: (connection.sendall(request.encode()), tracking.answer(connection))))
    alone, over_http = statistics.median(bare), statistics.median(asked)
    extra = over_http - alone
    return {
        "what": f"a prediction over HTTP by one client, over a bare call of ONNX Runtime ({1000 * alone:.2f} ms)",
        "ours": f"{1000 * extra:.2f} ms",
        "other": f"{1000 * OVERHEAD_SECONDS:.0f} ms",
        "ratio": OVERHEAD_SECONDS / extra,
        "at_least": 1.0,
    }


def beside(port: int, request: str, other: int, others: str) -> Iterator[dict[str, Any]]:
    """Answers a second to eight clients, and how much longer the slowest hundredth takes than the median."""
    turns = [(measured(port, request), measured(other, others)) for _ in range(ROUNDS + 1)][1:]
    mine, theirs = ([turn[side] for turn in turns] for side in (0, 1))
    rates = [statistics.median(len(each) / SECONDS for each in side) for side in (mine, theirs)]
    yield {
        "what": f"predictions a second by {CLIENTS} clients, beside `mlflow models serve` of the same model.onnx",
        "ours": f"{rates[0]:.0f}/s",
        "other": f"{rates[1]:.0f}/s",
        "ratio": rates[0] / rates[1],
        "at_least": 10.0,
    }
    tails = [statistics.median(tail(each) for each in side) for side in (mine, theirs)]
    yield {
        "what": f"the time of these predictions, the 99th percentile by the median, {CLIENTS} clients",
        "ours": f"{tails[0]:.1f}",
        "other": f"{tails[1]:.1f}",
        "ratio": MOST_TAIL / tails[0],
        "at_least": 1.0,
    }


def beside_training(client: Any, port: int, request: str) -> Iterator[dict[str, Any]]:
    """How long predictions take while the worker trains, and while it does not."""
    from loopline import JobCancelled

    quiet = measured(port, request)
    job = client.submit(WORKLOAD)
    while not job.refresh().progress.step:
        time.sleep(0.05)
    training = measured(port, request)
    job.cancel()
    with suppress(JobCancelled):
        job.wait(timeout=60)
    for name, share in (("median", 0.5), ("99th percentile", 0.99)):
        with_it, without = (1000 * float(np.quantile(each, share)) for each in (training, quiet))
        yield {
            "what": f"the time of a prediction to one of {CLIENTS} clients, the {name}, beside that without training",
            "ours": f"{with_it:.1f} ms",
            "other": f"{without:.1f} ms",
            "ratio": without / with_it,
            "at_least": None,
        }


def tail(times: Sequence[float]) -> float:
    return float(np.quantile(times, 0.99) / np.median(times))


def seconds(call: Any) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def measured(port: int, request: str) -> list[float]:
    """How long each request of eight clients took, which send it again and again, in seconds."""
    command = [sys.executable, "-m", "benchmarks.predicting", str(port), str(SECONDS)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    clients = [subprocess.Popen(command, cwd=ROOT, **pipes) for _ in range(CLIENTS)]
    for one in clients:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in clients:
        assert one.stdin is not None
        one.stdin.write(json.dumps(request) + "\n")
        one.stdin.flush()
    return [each for one in clients for each in json.loads(one.communicate()[0])]


def client(port: int, for_seconds: float) -> list[float]:
    """How long each request took, as it stands on standard input."""
    print("ready", flush=True)
    request = json.loads(sys.stdin.readline()).encode()
    times = []
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        end = time.perf_counter() + for_seconds
        while time.perf_counter() < end:
            times.append(seconds(lambda: (connection.sendall(request), tracking.answer(connection))))
    return times


@contextmanager
def mlflow(folder: Path) -> Iterator[int]:
    """MLflow with the model of a folder: its port."""
    programs = tracking.installed()
    if not (tracking.PLACE / ".onnx").exists():
        pip = [programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "onnx", "onnxruntime"], check=True)
        (tracking.PLACE / ".onnx").touch()
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    environment = {**os.environ, **quiet, "PATH": f"{programs}:{os.environ['PATH']}"}
    saved = folder / "mlflow"
    save = [programs / "python", "-c", SAVE, folder / "model" / "model.onnx", saved]
    subprocess.run(save, env=environment, cwd=folder, check=True)
    port = free_port()
    command = [programs / "mlflow", "models", "serve", "--model-uri", saved, "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "2"]
    with tracking.process(command, folder, environment, f"http://127.0.0.1:{port}/ping"):
        yield port


if __name__ == "__main__":
    print(json.dumps(client(int(sys.argv[1]), float(sys.argv[2]))))
