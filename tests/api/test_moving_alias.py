"""An alias that moves under load is followed at once by both processes of the API, and no answer is of two models."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from loopline import load

from services.blobs.storage import Storage
from tests.api.conftest import SPEC, give_model
from tests.client.prediction.cases import Trained
from tests.ports import free_port
from tests.scraping import scrape
from tests.serving import Server, serving

MOVES, ASKERS, BETWEEN = 12, 4, 3
"""Between two moves, each asker gets so many answers."""
X = [[[0.1, 0.2, 0.3]] * 4, [[0.3, 0.2, 0.1]] * 2]


def numbers_of(row: dict[str, Any]) -> list[float]:
    return [value for value in row.values() if isinstance(value, float)]


class Load:
    """Askers that go on until they are told to stop, and check each answer."""

    def __init__(self, server: Server, metrics_port: int, wanted: dict[int, Any]) -> None:
        self._server, self._metrics_port, self._wanted = server, metrics_port, wanted
        self._changed = threading.Condition()
        self._answers = [0] * ASKERS
        self.versions = [1]
        """That the alias points at, one after the other; the last one may be on its way."""
        self.settled = 0
        """The place of the last one that the service has confirmed."""
        self.ended = False

    def ask(self, asker: int) -> None:
        try:
            while not self.ended:
                before = self.settled
                answer = self._post("models/toy/versions/production/predict", {"x": X})
                possible = self.versions[before:]
                assert answer.status_code == 200, answer.text
                found = answer.json()
                version = found["model"]["version"]
                assert version in possible
                assert answer.headers["Loopline-Model"] == f"toy@{version}"
                assert (found["task"], len(found["rows"])) == (self._wanted[version]["task"], 2)
                for one, other in zip(found["rows"], self._wanted[version]["rows"], strict=True):
                    assert list(one) == list(other)
                    assert numbers_of(one) == pytest.approx(numbers_of(other), rel=1e-4, abs=1e-5)
                with self._changed:
                    self._answers[asker] += 1
                    self._changed.notify_all()
        except BaseException:
            with self._changed:
                self.ended = True
                self._changed.notify_all()
            raise

    def move(self, version: int) -> None:
        """Moves the alias, and waits until all have asked again."""
        self.versions.append(version)
        path = f"{self._server.url}/v1/models/toy/aliases/production"
        assert httpx.put(path, json={"version": version}, timeout=30).status_code == 200
        self.settled = len(self.versions) - 1
        with self._changed:
            least = min(self._answers) + BETWEEN
            assert self._changed.wait_for(lambda: self.ended or min(self._answers) >= least, 60)

    def loads(self) -> int:
        """How many times a process has loaded a model."""
        return int(scrape(self._metrics_port).value("loopline_model_loads_total", result="loaded") or 0)

    def _post(self, path: str, body: Any) -> httpx.Response:
        return httpx.post(f"{self._server.url}/v1/{path}", json=body, timeout=60)  # a connection of its own


def test_an_alias_is_followed_at_once_and_no_answer_is_of_two_models(
    tmp_path: Path, trained_model: Callable[[str], Trained]
) -> None:
    metrics_port = free_port()
    with serving(tmp_path, LOOPLINE_METRICS_PORT=str(metrics_port)) as server, ThreadPoolExecutor(ASKERS) as pool:
        wanted = {}
        for version, name in enumerate(("plain", "values"), 1):
            assert httpx.post(f"{server.url}/v1/jobs", json=SPEC, timeout=30).status_code == 202
            job_id = give_model(server.engine, Storage(server.data_dir), trained_model(name).folder)
            made = httpx.post(f"{server.url}/v1/models/toy/versions", json={"job": job_id}, timeout=30)
            assert made.status_code == 201, made.text
            wanted[version] = load(trained_model(name).folder, "numpy").predict(X).to_dict()
        alias = f"{server.url}/v1/models/toy/aliases/production"
        assert httpx.put(alias, json={"version": 1}, timeout=30).status_code == 200
        asking = Load(server, metrics_port, wanted)
        askers = [pool.submit(asking.ask, asker) for asker in range(ASKERS)]
        try:
            moves = 0
            while not asking.ended and (moves < MOVES or asking.loads() < 4) and moves < 20 * MOVES:
                moves += 1
                asking.move(1 + moves % 2)
        finally:
            asking.ended = True
        for asker in askers:
            asker.result(60)
        assert asking.loads() == 4, moves  # each process has loaded both models, once
