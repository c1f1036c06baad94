"""`python -m local`: the whole service as a user starts it, and nothing left of it afterwards."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from loopline import Client
from loopline.types import Epoch

from local import __main__ as command
from local import broker, demo, launcher
from local.launcher import Launcher, _free_port
from services.settings import Settings
from tests.system.conftest import Service
from tests.system.tutorial import assert_prints, output_of

ROOT = Path(__file__).parent.parent.parent
TINY: dict[str, Any] = {
    "architecture": {"cell": "gru", "hidden_size": 4},
    "training": {"epochs": 2},
    "data": {"synthetic": {"samples": 40, "length": 5, "features": 2, "classes": 2}},
}
LONG = {**TINY, "training": {"epochs": 100_000}}


def wait_for_end(family: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that are still there."""
    return psutil.wait_procs([one for one in family if one.is_running()], timeout=seconds)[1]


def test_a_job_runs_and_ctrl_c_leaves_no_process(start: Callable[..., Service], tmp_path: Path) -> None:
    service = start(tmp_path / "var")
    url = service.url()
    assert f"\nOpen {url} to watch it.\n" in service.said
    with Client(url) as client:
        job = client.submit(TINY).wait(timeout=60)
        assert job.status == "succeeded"
        assert {path.name for path in job.download(tmp_path / "model")} == {
            *("history.json", "model.json", "model.onnx", "model.safetensors"),
            *("README.md", "loss.svg", "gradients.svg", "confusion.svg", "calibration.svg"),
        }
    for path in (tmp_path / "var", *(tmp_path / "var").iterdir(), *(tmp_path / "var" / "valkey").rglob("*")):
        assert path.stat().st_mode & 0o077 == 0 or path.name == "port", path  # others may not read it
    family = service.family()
    assert len(family) >= 7  # broker, API and its two, worker and its child, scheduler, and the spare trainer
    assert sys.platform != "linux" or "template" in {one.name() for one in family}  # the trainers are its forks
    assert service.stop() == 0
    assert wait_for_end(family, 5) == []
    assert service.said.splitlines()[-2:] == [
        "Stopping the service; running jobs are checkpointed and go on at the next start.",
        "Stopped.",
    ]
    assert re.search(r"scheduler +started\n", service.said)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "none needed: it listens on this machine only (LOOPLINE_AUTH=keys asks for them)"),
        ({"host": "0.0.0.0"}, "needed; the first one: .venv/bin/python -m services keys create"),  # noqa: S104
        ({"auth": "keys"}, "needed; the first one: .venv/bin/python -m services keys create"),
        ({"host": "0.0.0.0", "auth": "none"}, "none needed: LOOPLINE_AUTH=none: anybody may come in"),  # noqa: S104
    ],
)
def test_the_banner_says_whether_a_key_is_needed_and_why(given: dict[str, str], said: str) -> None:
    assert f"  API keys       {said}" in command.addresses(Launcher(Settings(**given)))


def test_a_running_job_goes_on_after_a_restart(start: Callable[..., Service], tmp_path: Path) -> None:
    service = start(tmp_path / "var")
    with Client(service.url()) as client:
        job = client.submit(LONG)
        wait_until(lambda: job.refresh().progress.epoch > 0)
    assert service.stop(signal.SIGTERM) == 0
    with Client(start(tmp_path / "var").url()) as client:
        again = client.job(job.id)
        assert again.progress.epoch > 0
        wait_until(lambda: again.refresh().attempt == 2)
        again.cancel()
        wait_until(lambda: again.refresh().status == "cancelled")


def test_a_killed_launcher_leaves_no_process(start: Callable[..., Service], tmp_path: Path) -> None:
    service = start(tmp_path / "var")
    service.url()
    family = service.family()
    service.process.kill()
    assert wait_for_end(family, 40) == []


def test_a_killed_worker_and_scheduler_are_started_again_and_the_work_goes_on(
    start: Callable[..., Service], tmp_path: Path
) -> None:
    service = start(
        tmp_path / "var", LOOPLINE_LEASE_SECONDS="3", LOOPLINE_RENEW_SECONDS="0.5", LOOPLINE_GRACE_SECONDS="0"
    )
    with Client(service.url()) as client:
        job = client.submit(LONG)
        wait_until(lambda: job.refresh().progress.epoch > 0)
        for name in ("worker.scheduler", "worker"):
            part(service, name).kill()
        wait_until(lambda: job.refresh().attempt == 2)
        job.cancel()
        wait_until(lambda: job.refresh().status == "cancelled")
    assert service.stop() == 0
    for name in ("worker", "scheduler"):
        assert f"The {name} was ended by signal 9 and is started again" in service.said
        assert (tmp_path / "var" / "log" / f"{name}.log.1").exists()


def test_a_worker_that_ends_again_and_again_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "FIRST_WAIT_SECONDS", 0.01)
    said: list[str] = []
    with Launcher(Settings(data_dir=tmp_path), on_restart=said.append) as service:
        [worker] = [one for one in service.parts if one.name == "worker"]
        worker.command = [sys.executable, "-c", "raise SystemExit('it cannot be')"]
        worker.process.kill()
        with pytest.raises(launcher.Failed, match=r"(?s)The worker ended with exit status 1\..*it cannot be"):
            service.watch()
    assert len(said) == launcher.MOST_RESTARTS
    assert said[0].startswith("The worker was ended by signal 9 and is started again")


def test_a_killed_broker_and_api_are_started_again_and_the_running_job_goes_on(
    start: Callable[..., Service], tmp_path: Path
) -> None:
    service = start(tmp_path / "var")
    url = service.url()
    with Client(url, retry_seconds=60) as client:
        job = client.submit(LONG)
        wait_until(lambda: job.refresh().progress.epoch > 0)
        worker = part(service, "worker").pid
        for word in ("valkey-server", "api"):
            killed = part(service, word)
            killed.kill()
            wait_until(lambda word=word, killed=killed: part_of(service, word) not in (None, killed))
        epoch = job.refresh().progress.epoch
        wait_until(lambda: job.refresh().progress.epoch > epoch)
        assert (job.refresh().attempt, part(service, "worker").pid) == (1, worker)
        job.cancel()
        wait_until(lambda: job.refresh().status == "cancelled")
        assert client.submit(TINY).wait(timeout=60).status == "succeeded"  # the bell still reaches the worker
    assert service.stop() == 0
    for name in ("broker", "api"):
        assert f"The {name} was ended by signal 9 and is started again" in service.said
    assert "The worker" not in service.said


def part(service: Service, word: str) -> psutil.Process:
    """The part of the service in whose command line a word stands: itself, not its children."""
    found = part_of(service, word)
    assert found is not None
    return found


def part_of(service: Service, word: str) -> psutil.Process | None:
    """The same; None where there is none at the moment."""
    parts = psutil.Process(service.process.pid).children()
    found = [one for one in parts if any(Path(item.split(" ")[0]).name == word for item in command_of(one))]
    return found[0] if found else None


def command_of(process: psutil.Process) -> list[str]:
    """Its command line; empty where it has ended, which it may do between two looks."""
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


def test_a_second_service_in_the_same_folder_is_refused(start: Callable[..., Service], tmp_path: Path) -> None:
    start(tmp_path / "var").url()
    second = start(tmp_path / "var")
    said, _ = second.process.communicate(timeout=60)
    assert second.process.returncode == 1
    assert "already running" in said


def test_a_port_that_was_asked_for_and_is_taken_is_refused_with_a_way_out(
    start: Callable[..., Service], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        service = start(tmp_path / "var", LOOPLINE_PORT=str(port))
        said, _ = service.process.communicate(timeout=60)
    assert service.process.returncode == 1
    assert said.splitlines()[1:] == [f"Port {port} is taken. Set LOOPLINE_PORT to another, or to 0 to take a free one."]


def test_a_default_port_that_is_taken_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOOPLINE_PORT", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        settings = Settings(data_dir=tmp_path).model_copy(update={"port": port})
        settings.model_fields_set.discard("port")
        assert Launcher(settings)._port() not in (0, port)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PORT", "abc", 'LOOPLINE_PORT must be a whole number; got "abc".'),
        ("PORT", "99999", 'LOOPLINE_PORT must be at most 65535; got "99999".'),
        ("LEASE_SECONDS", "-1", 'LOOPLINE_LEASE_SECONDS must be greater than 0; got "-1".'),
        ("RENEW_SECONDS", "50", "LOOPLINE_RENEW_SECONDS must be at most half of LOOPLINE_LEASE_SECONDS."),
        ("BROKER_URL_FILE", "/none", "LOOPLINE_BROKER_URL_FILE: cannot read /none: No such file or directory."),
    ],
)
def test_a_wrong_setting_is_named_in_a_sentence(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"LOOPLINE_{name}", value)
    monkeypatch.setattr(sys, "argv", ["local", "run"])
    assert command.main() == 2
    assert capsys.readouterr().err == f"{said}\n"


def test_a_part_that_fails_is_shown_with_its_last_words(start: Callable[..., Service], tmp_path: Path) -> None:
    service = start(tmp_path / "var", LOOPLINE_DATABASE_URL="nonsense")
    said, _ = service.process.communicate(timeout=60)
    assert service.process.returncode == 1
    assert "The api ended with exit status" in said
    assert "Could not parse SQLAlchemy URL" in said


def test_a_valkey_that_was_left_behind_is_stopped_and_no_other(tmp_path: Path) -> None:
    folder, other = tmp_path / "valkey", tmp_path / "other"
    folder.mkdir()
    port = _free_port("127.0.0.1")
    with subprocess.Popen(broker.command(folder, port), stdout=subprocess.DEVNULL) as left:
        try:
            wait_until(lambda: broker.answers(port))
            broker.stop_leftover(other, port)
            assert broker.answers(port)
            broker.stop_leftover(folder, port)
            assert left.wait(10) == 0
        finally:
            left.kill()


def test_the_demo_trains_and_says_where_the_model_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = psutil.Process().children()
    spec = tmp_path / "vowels.yaml"
    spec.write_text(
        "{architecture: {cell: gru, hidden_size: 8}, training: {epochs: 2}, data: {dataset: japanese-vowels}}"
    )
    monkeypatch.setattr(demo, "SPEC", spec)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("LOOPLINE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("LOOPLINE_PORT", str(port))
    assert demo.run(command.part_printer()) == 0
    said = capsys.readouterr().out
    assert re.search(r"Test accuracy  0\.\d{4}", said)
    model = Path(re.search(r"The model +(.+)", said).group(1))  # type: ignore[union-attr]
    assert {path.name for path in model.iterdir()} >= {"model.json", "model.onnx", "model.safetensors", "README.md"}
    assert model.is_relative_to(tmp_path / "data" / "demo" / "models")
    assert f"http://127.0.0.1:{port}, in {tmp_path / 'data' / 'demo' / 'service'}" in said
    assert f"http://127.0.0.1:{port}/v1/jobs" in said
    for word in ("broker", "api", "worker", "scheduler", "epoch 2/2", "curl", "from loopline import Client"):
        assert word in said
    assert "  * best so far\n" in said
    assert "Stopping the service" in said
    asking = textwrap.dedent(said.partition("more in docs/predict.md):\n\n")[2].partition("\n\n")[0])
    answered = subprocess.run([sys.executable, "-c", asking], cwd=demo.ROOT, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"\[\d\] \d\n", answered.stdout)
    assert_prints(said.replace(f"{tmp_path}/", "examples/"), output_of("make demo"))
    assert "\x1b" not in said
    assert psutil.Process().children() == before


class Told:
    """A job whose epochs all come in few looks, with the best of all in each: as `Job.follow` yields it."""

    def __init__(self, metric: str, *looks: list[dict[str, Any]]) -> None:
        self.best = SimpleNamespace(metric=metric)
        self.progress = SimpleNamespace(epochs=4)
        self.looks = looks

    def follow(self) -> Iterator[tuple[Told, list[Epoch]]]:
        for look in self.looks:
            yield self, [Epoch.of(record) for record in look]


@pytest.mark.parametrize(
    ("metric", "numbers", "starred"),
    [
        ("validation_loss", [0.5, 0.3, 0.4, 0.3], [1, 2]),
        ("train_loss", [0.5, 0.6, 0.4, 0.2], [1, 3, 4]),
        ("validation_accuracy", [0.5, 0.3, 0.6, None], [1, 3]),
    ],
)
def test_the_star_is_at_what_was_the_best_then(
    metric: str, numbers: list[float | None], starred: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    records = [{"epoch": epoch, metric: number} for epoch, number in enumerate(numbers, 1)]
    demo.watch(Told(metric, records[:3], records[3:]))  # type: ignore[arg-type]
    *lines, meaning = capsys.readouterr().out.splitlines()
    assert [epoch for epoch, line in enumerate(lines, 1) if line.endswith(" *")] == starred
    assert meaning == "  * best so far"


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_each_part_has_a_port_of_its_own_for_its_metrics() -> None:
    settings = Settings(metrics_port=9000)
    ports = {
        name: launcher.settings_of(name, settings).metrics_port for name in ("broker", "api", "worker", "scheduler")
    }
    assert ports == {"broker": 9000, "api": 9000, "worker": 9001, "scheduler": 9002}
    assert launcher.settings_of("worker", Settings()).metrics_port == 0
