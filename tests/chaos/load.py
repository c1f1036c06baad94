"""The client: submits jobs over HTTP all the time, pauses, resumes and cancels some, writes down what was promised."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos import specs
from tests.chaos.keeper import append
from tests.chaos.servers import MARKERS

TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
TIMEOUT_SECONDS = 6.0
LOOK_SECONDS = 0.7
TRY_AGAIN = frozenset({409, 429, 502, 503, 504})
"""Answers after which a client is right to send the same again (409: the first one is still being worked on)."""


class NoAnswer(Exception):
    """The connection could not be made, broke, or stayed silent."""


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any


@dataclass
class Submitted:
    """A job that the service has accepted."""

    key: str
    job: str
    spec: str
    seed: int
    plan: list[tuple[float, str]] = field(default_factory=list)
    """What is still to be asked of it: when (monotonic), and `cancel`, `pause` or `resume`."""
    status: str = "queued"
    look_at: float = 0.0


class Client:
    """One thread that speaks to the API. `acknowledged` holds only what was answered with a 2xx."""

    def __init__(self, port: int, folder: Path, seed: int, *, unfinished: int, variety: int) -> None:
        self.port, self.log = port, folder / "acknowledged.jsonl"
        self.dice = random.Random(f"client {seed}")
        self.unfinished, self.variety = unfinished, variety
        self.acknowledged: list[Submitted] = []
        self.unexpected: list[str] = []
        """Answers that no fault explains: 500, 4xx, secrets, another job for the same key."""
        self.requests: dict[str, int] = {}
        self.took: list[float] = []
        """Seconds of every request that was answered with a 202 for a new job."""
        self.asked: dict[str, int] = {"cancel": 0, "pause": 0, "resume": 0, "again": 0}
        self.cancelled: set[str] = set()
        """Jobs that somebody at least tried to cancel."""
        self.submitting = True
        self.healing = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="client")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def open_jobs(self) -> list[Submitted]:
        return [one for one in list(self.acknowledged) if one.status not in TERMINAL]

    def upload(self, path: Path) -> None:
        """Put the data set there, before the storm."""
        answer = self._ask("POST", f"/v1/datasets?name={specs.VOWELS}", path.read_bytes(), "application/octet-stream")
        if answer.status not in (200, 201):
            raise RuntimeError(f"The data set was not taken: {answer}")

    def _run(self) -> None:
        while not self._stop.is_set():
            open_jobs = self.open_jobs()
            if self.submitting and len(open_jobs) < self.unfinished:
                self._submit()
            for one in open_jobs:
                if self._stop.is_set():
                    return
                if time.monotonic() >= one.look_at:
                    self._look(one)
                    one.look_at = time.monotonic() + LOOK_SECONDS
                self._carry_out(one)
            self._stop.wait(0.1)

    def _submit(self) -> None:
        number = len(self.acknowledged)
        name = (
            specs.NAMES[number % self.variety]
            if number < self.variety
            else self.dice.choice(specs.NAMES[: self.variety])
        )
        seed = self.dice.choice(specs.SEEDS)
        key = f"key-{number}-{self.dice.randrange(10**9)}"
        body = json.dumps(specs.document(name, seed, {"key": key})).encode()
        job = self._until_accepted(key, body)
        if job is None:
            return
        one = Submitted(key, job, name, seed, self._plan())
        append(self.log, {"wall": time.time(), "key": key, "job": job, "spec": name, "seed": seed})
        self.acknowledged.append(one)
        if self.dice.random() < 0.1:  # a client that never saw the answer
            self.asked["again"] += 1
            again = self._until_accepted(key, body)
            if again not in (job, None):
                self.unexpected.append(f"the key {key} made the job {job} and then {again}")

    def _until_accepted(self, key: str, body: bytes) -> str | None:
        """Send until it is accepted, with one key: that is what makes it safe. None when told to stop meanwhile."""
        while not self._stop.is_set():
            began = time.monotonic()
            answer = self._try("POST", "/v1/jobs", body, "application/json", {"Idempotency-Key": key})
            if answer is not None and 200 <= answer.status < 300:
                self.took.append(time.monotonic() - began)
                return str(answer.body["id"])
            if answer is not None and answer.status not in TRY_AGAIN and answer.status != 500:
                return None
            self._stop.wait(0.3)
        return None

    def _plan(self) -> list[tuple[float, str]]:
        """What will be asked of a new job: of most nothing."""
        now, roll = time.monotonic(), self.dice.random()
        at = now + self.dice.uniform(0.0, 25.0)
        if roll < 0.08:
            return [(at, "cancel")]
        if roll < 0.28:
            plan = [(at, "pause"), (at + self.dice.choice((0.05, 1.0, 5.0)), "resume")]
            return [*plan, (at + 8.0, "cancel")] if self.dice.random() < 0.1 else plan
        return []

    def _look(self, one: Submitted) -> None:
        answer = self._try("GET", f"/v1/jobs/{one.job}")
        if answer is not None and answer.status == 200:
            one.status = answer.body["status"]
        elif answer is not None and answer.status == 404:
            self.unexpected.append(f"the accepted job {one.job} is not known any more")
            one.status = "failed"

    def _carry_out(self, one: Submitted) -> None:
        if self.healing and one.status == "paused" and not any(what == "resume" for _, what in one.plan):
            one.plan.insert(0, (0.0, "resume"))
        if not one.plan or time.monotonic() < one.plan[0][0] or one.status in TERMINAL:
            return
        what = one.plan[0][1]
        if what == "cancel":
            self.cancelled.add(one.job)
        if self._control(one.job, what):
            self.asked[what] += 1
            one.plan.pop(0)

    def _control(self, job: str, what: str) -> bool:
        """Whether it was heard; one that has ended meanwhile cannot be paused, which is an answer too."""
        answer = self._try("POST", f"/v1/jobs/{job}/{what}", refusable=True)
        return answer is not None and (answer.status < 300 or answer.status == 409)

    def _try(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        media: str = "application/json",
        headers: dict[str, str] | None = None,
        *,
        refusable: bool = False,
    ) -> Answer | None:
        """An answer, or None where there was none. Answers that no fault explains are written down."""
        try:
            answer = self._ask(method, path, body, media, headers)
        except NoAnswer:
            self._count("no answer")
            return None
        self._count(str(answer.status))
        expected = answer.status < 400 or answer.status in TRY_AGAIN - {409} or (refusable and answer.status == 409)
        in_flight = answer.status == 409 and "idempotency" in str(answer.body)
        if not expected and not in_flight:
            self.unexpected.append(f"{method} {path}: {answer.status} {str(answer.body)[:500]}")
        return answer

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        media: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_SECONDS)
        try:
            sent = {"Content-Type": media, **(headers or {})} if body else {}
            connection.request(method, path, body or None, sent)
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer from error
        finally:
            connection.close()
        if any(marker in text for marker in MARKERS):
            self.unexpected.append(f"a secret in the answer to {method} {path}: {text[:300]}")
        try:
            return Answer(response.status, json.loads(text))
        except ValueError:
            return Answer(response.status, {"text": text})

    def _count(self, what: str) -> None:
        self.requests[what] = self.requests.get(what, 0) + 1
