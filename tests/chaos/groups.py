"""What consists of several jobs: searches, batches, a schedule and models that are retrained. Each kind has a thread
that submits one after the other and waits for its end.

Before the storm the searches and the retrainings run once in calm. Those of the storm must give the same results.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.chaos import specs
from tests.chaos.asking import Caller
from tests.chaos.evidence import Ack
from tests.chaos.load import TERMINAL

LOOK_SECONDS = 0.7
CALM, STORM = "calm", "storm"
MINUTE = 60.0
CLEAR_SECONDS = 5.0
"""A schedule is paused only if its next slot is this far away, so that no slot is lost to the pause."""


@dataclass
class Group:
    """A search, batch, schedule or model that the API has accepted."""

    kind: str
    """`batch`, `schedule`, `model`, or of a search its name in `specs.SEARCHES`."""
    name: str
    weather: str
    """CALM or STORM."""
    id: str
    jobs: list[str] = field(default_factory=list)
    """What the API named: the jobs of a search or a batch, of all batches of a schedule, and the retrainings of a model
    in their order."""
    runs: int = 0
    """Of a schedule: how many runs were asked for and accepted."""
    answer: Mapping[str, Any] | None = None
    """What the API says of it at its end; None while it has not ended."""


class Kind:
    """The thread of one kind. It goes on with another group until it is told to submit no more."""

    def __init__(self, kind: str, play: Callable[[Kind, str], None], port: int, weather: str, seed: int) -> None:
        self.kind, self.play, self.weather = kind, play, weather
        self.caller = Caller(port)
        self.dice = random.Random(f"{kind} {seed}")
        self.groups: list[Group] = []
        self.submitting = weather == STORM
        self.paused = 0
        self.failed = False
        self._thread = threading.Thread(target=self._run, name=f"{weather} {kind}")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.caller.stopped.set()
        self._thread.join()

    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def _run(self) -> None:
        self.failed = True
        number = 1
        self.play(self, self._name(number))
        while self.submitting and not self.caller.stopped.is_set():
            number += 1
            self.play(self, self._name(number))
        self.failed = False

    def _name(self, number: int) -> str:
        return f"{self.kind}-{self.weather}-{number}"

    def accepted(self, name: str, method: str, path: str, document: Mapping[str, Any]) -> Group | None:
        """The group that the API has made of this document; None if the thread was told to stop."""
        answer = self.caller.until_accepted(method, path, _body(document), None if method == "PUT" else name)
        if answer is None:
            return None
        group = Group(self.kind, name, self.weather, answer["id"])
        self.groups.append(group)
        return group

    def until(self, path: str, is_so: Callable[[Any], bool]) -> Any:
        """What the API answers as soon as it is so; None if the thread was told to stop."""
        while not self.caller.stopped.wait(LOOK_SECONDS):
            answer = self.caller.attempt("GET", path)
            if answer is not None and answer.status == 200 and is_so(answer.body):
                return answer.body
            if answer is not None and answer.status == 404:
                return None
        return None

    def wait(self, seconds: float) -> None:
        """Wait, at most until nothing more is to be submitted."""
        end = time.monotonic() + seconds
        while self.submitting and time.monotonic() < end and not self.caller.stopped.wait(0.1):
            pass


class Groups:
    """All kinds. A thread to `World`, which starts and stops it and looks whether it is alive."""

    def __init__(self, port: int, seed: int, weather: str) -> None:
        plays = {**dict.fromkeys(specs.SEARCHES, search), "model": retrainings}
        if weather == STORM:  # the jobs of these have twins
            plays |= {"batch": batch, "schedule": schedule}
        self.kinds = [Kind(kind, play, port, weather, seed) for kind, play in plays.items()]

    @property
    def groups(self) -> list[Group]:
        return [group for kind in self.kinds for group in kind.groups]

    @property
    def acknowledged(self) -> list[Ack]:
        """Jobs that the API has named, and whose specs have no twins."""
        return [Ack(group.name, job, group.kind, 0) for group in self.groups for job in group.jobs]

    def start(self) -> None:
        for kind in self.kinds:
            kind.start()

    def submit_no_more(self) -> None:
        """Let each kind end what it has begun."""
        for kind in self.kinds:
            kind.submitting = False

    def stop(self) -> None:
        for kind in self.kinds:
            kind.caller.stopped.set()
        for kind in self.kinds:
            kind.stop()

    def is_alive(self) -> bool:
        """Whether no thread has died of an error."""
        return not any(kind.is_over() and kind.failed for kind in self.kinds)

    def is_over(self) -> bool:
        return all(kind.is_over() for kind in self.kinds)

    def open(self) -> list[str]:
        return [group.name for group in self.groups if group.answer is None]


def search(kind: Kind, name: str) -> None:
    """Submit a search and wait for its final model. In the storm it is paused once, for a moment."""
    group = kind.accepted(name, "POST", "/v1/searches", specs.search(kind.kind, name))
    if group is None:
        return
    path = f"/v1/searches/{group.id}"
    if kind.weather == STORM:
        kind.wait(kind.dice.uniform(1.0, 20.0))
        kind.paused += _paused(kind.caller, path, kind.dice.uniform(0.1, 3.0))

    def is_over(body: Any) -> bool:
        if body["status"] == "paused":  # the pause was served after the request to resume
            kind.caller.attempt("POST", f"{path}/resume", refusable=True)
        return bool(body["terminal"])

    group.answer = kind.until(path, is_over)
    if group.answer is not None:
        ids = [row["job_id"] for row in group.answer["trials"] if row["job_id"] is not None]
        group.jobs = [*ids, *([group.answer["final"]["job_id"]] if group.answer["final"] else [])]
    kind.wait(kind.dice.uniform(5.0, 30.0))


def retrainings(kind: Kind, name: str) -> None:
    """Train versions of a model, one after the other, and look at the model then."""
    group, succeeded = Group(kind.kind, name, kind.weather, name), 0
    kind.groups.append(group)
    for number in range(1, specs.RETRAININGS + 1):
        body = _body(specs.retraining(number, name))
        answer = kind.caller.until_accepted("POST", "/v1/jobs", body, f"{name}-{number}")
        if answer is None:
            return
        group.jobs.append(answer["id"])
        ended = kind.until(f"/v1/jobs/{answer['id']}", lambda body: body["status"] in TERMINAL)
        if ended is None:
            return
        succeeded += ended["status"] == "succeeded"
    if not succeeded:  # which other checks have to explain; there is no model
        group.answer = {"aliases": {}, "versions": []}
        return
    model = kind.until(f"/v1/models/{name}", bool)
    versions = kind.until(f"/v1/models/{name}/versions", bool)
    if model is not None and versions is not None:
        group.answer = {**model, "versions": versions["data"]}
    kind.wait(kind.dice.uniform(5.0, 30.0))


def batch(kind: Kind, name: str) -> None:
    """Submit a batch and wait for its end."""
    jobs = [{**spec, "tags": {**spec["tags"], "key": f"{name}-{n}"}} for n, spec in enumerate(specs.short({}), 1)]
    group = kind.accepted(name, "POST", "/v1/batches", {"name": name, "jobs": jobs})
    if group is None:
        return
    group.answer = kind.until(f"/v1/batches/{group.id}", lambda body: body["terminal"])
    if group.answer is not None:
        group.jobs = [row["id"] for row in group.answer["jobs"]]
    kind.wait(kind.dice.uniform(5.0, 30.0))


def schedule(kind: Kind, name: str) -> None:
    """Set a schedule that fires every minute, run it now and then, and pause it when the storm is over."""
    path = f"/v1/schedules/{name}"
    jobs = [{**spec, "priority": specs.PRIORITY} for spec in specs.short({"group": name})]
    wanted = {"cron": "* * * * *", "overlap": "queue", "submit": {"jobs": jobs}}
    group = kind.accepted(name, "PUT", path, wanted)
    if group is None:
        return
    while kind.submitting and not kind.caller.stopped.is_set():
        kind.wait(kind.dice.uniform(20.0, 80.0))
        if kind.submitting:
            answer = kind.caller.until_accepted("POST", f"{path}/run", b"", f"{name}-run-{group.runs + 1}")
            group.runs += answer is not None
    kind.until(f"{path}/firings?limit=100", lambda body: all(row["outcome"] != "waiting" for row in body["data"]))
    while time.time() % MINUTE > MINUTE - CLEAR_SECONDS or time.time() % MINUTE < CLEAR_SECONDS:
        if kind.caller.stopped.wait(0.1):
            return
    if kind.caller.until_accepted("POST", f"{path}/pause", b"") is None:
        return
    firings = kind.until(f"{path}/firings?limit=100", lambda body: all(row["ended_at"] for row in body["data"]))
    for batch_id in [row["batch_id"] for row in (firings or {"data": []})["data"] if row["batch_id"] is not None]:
        found = kind.until(f"/v1/batches/{batch_id}", bool)
        group.jobs += [] if found is None else [row["id"] for row in found["jobs"]]
    group.answer = firings


def _paused(caller: Caller, path: str, seconds: float) -> bool:
    """Pause something and let it go on; whether it was paused. What has ended meanwhile cannot be."""
    answer = caller.attempt("POST", f"{path}/pause", refusable=True)
    caller.stopped.wait(seconds)
    while not caller.stopped.is_set():  # also if the answer was lost: then it may be paused
        again = caller.attempt("POST", f"{path}/resume", refusable=True)
        if again is not None and (again.status < 300 or again.status == 409):
            break
        caller.stopped.wait(LOOK_SECONDS)
    return answer is not None and answer.status < 300


def _body(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document).encode()
