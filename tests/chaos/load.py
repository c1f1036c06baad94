"""The client: submits jobs over HTTP all the time, pauses, resumes and cancels some, writes down what was promised."""

from __future__ import annotations

import json
import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos import specs
from tests.chaos.asking import Caller
from tests.chaos.keeper import append

TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
LOOK_SECONDS = 0.7


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


class Client(Caller):
    """One thread that speaks to the API. `acknowledged` holds only what was answered with a 2xx."""

    def __init__(self, port: int, folder: Path, seed: int, *, unfinished: int, variety: int) -> None:
        super().__init__(port)
        self.log = folder / "acknowledged.jsonl"
        self.dice = random.Random(f"client {seed}")
        self.unfinished, self.variety = unfinished, variety
        self.acknowledged: list[Submitted] = []
        self.asked: dict[str, int] = {"cancel": 0, "pause": 0, "resume": 0, "again": 0}
        self.cancelled: set[str] = set()
        """Jobs that somebody at least tried to cancel."""
        self.submitting = True
        self.healing = False
        self._thread = threading.Thread(target=self._run, name="client")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.stopped.set()
        self._thread.join()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def open_jobs(self) -> list[Submitted]:
        return [one for one in list(self.acknowledged) if one.status not in TERMINAL]

    def upload(self, path: Path) -> None:
        """Put the data set there, before the storm."""
        answer = self.ask("POST", f"/v1/datasets?name={specs.VOWELS}", path.read_bytes(), "application/octet-stream")
        if answer.status not in (200, 201):
            raise RuntimeError(f"The data set was not taken: {answer}")

    def _run(self) -> None:
        while not self.stopped.is_set():
            open_jobs = self.open_jobs()
            if self.submitting and len(open_jobs) < self.unfinished:
                self._submit()
            for one in open_jobs:
                if self.stopped.is_set():
                    return
                if time.monotonic() >= one.look_at:
                    self._look(one)
                    one.look_at = time.monotonic() + LOOK_SECONDS
                self._carry_out(one)
            self.stopped.wait(0.1)

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
        job = self._accepted(key, body)
        if job is None:
            return
        one = Submitted(key, job, name, seed, self._plan())
        append(self.log, {"wall": time.time(), "key": key, "job": job, "spec": name, "seed": seed})
        self.acknowledged.append(one)
        if self.dice.random() < 0.1:  # a client that never saw the answer
            self.asked["again"] += 1
            again = self._accepted(key, body)
            if again not in (job, None):
                self.unexpected.append(f"the key {key} made the job {job} and then {again}")

    def _accepted(self, key: str, body: bytes) -> str | None:
        """The id of the job that was accepted; None if there is none."""
        answer = self.until_accepted("POST", "/v1/jobs", body, key)
        return None if answer is None else str(answer["id"])

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
        answer = self.attempt("GET", f"/v1/jobs/{one.job}")
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
        answer = self.attempt("POST", f"/v1/jobs/{job}/{what}", refusable=True)
        return answer is not None and (answer.status < 300 or answer.status == 409)
