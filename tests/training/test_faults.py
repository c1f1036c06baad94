"""A trainer that dies at a named place: nothing half is taken up, and the next attempt ends as an unbroken run does."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services import faults
from services.training import checkpoint
from services.training.files import npz
from services.training.messages import NEWEST
from tests import forking
from tests.training.building import (
    classes,
    document,
    events,
    make_run,
    names_in,
    of_many_lengths,
    timeless,
)

ROOT = Path(__file__).parents[2]
ARRAYS = of_many_lengths(classes(24))  # 18 training samples: 5 updates an epoch, 15 in all
SPEC = {"architecture": {"num_layers": 2, "dropout": 0.3}}
OFTEN = {"every_steps": 2, "every_seconds": None, "keep_last": 2}

# Dies by the kernel's hand at the n-th passing of a point.
PROGRAM = """
import json, os, signal, sys, torch
from services import faults
from tests.training.building import events
torch.set_num_threads(1)
order, point, passing = json.loads(sys.argv[1])
left = [passing]
def die():
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
faults.arm(point, die)
for event in events(order):
    print(json.dumps(event), flush=True)
"""

# Each point, the passing at which it kills, and the update from which the next attempt goes on.
PLACES = [
    ("checkpoint.epochs_written", 4, 6),
    ("checkpoint.tensors_written", 1, None),
    ("checkpoint.tensors_written", 3, 4),
    ("checkpoint.written", 1, 2),
    ("checkpoint.written", 3, 6),
    ("result.written", 1, 15),
]


class Killed(BaseException):
    """Stands for a death that no code sees coming."""


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    faults.disarm()


@pytest.fixture
def order(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A factory of orders to train in a folder of this test, with a checkpoint every second update."""
    npz.write(tmp_path / "some.npz", ARRAYS)

    def make(folder: str, **changes: Any) -> dict[str, Any]:
        spec = document(**SPEC, checkpoints=OFTEN, **changes)
        return {"spec": spec, "data": str(tmp_path / "some.npz"), "directory": str(tmp_path / folder), "resume": None}

    return make


def killed_at(point: str, passing: int) -> None:
    left = [passing]

    def die() -> None:
        left[0] -= 1
        if not left[0]:
            raise Killed

    faults.arm(point, die)


def outcome(order: dict[str, Any]) -> tuple[bytes, list[dict[str, Any]]]:
    directory = Path(order["directory"])
    history = json.loads((directory / "history.json").read_text())["epochs"]
    return (directory / "model.safetensors").read_bytes(), timeless(history)


def whole(directory: Path) -> list[int]:
    """The updates of the checkpoints that a run would take up."""
    found = []
    for path in checkpoint.newest_first(directory):
        checkpoint.load_into(make_run(ARRAYS, **SPEC), path)
        found.append(checkpoint.step_of(path))
    return found


def ends_as_unbroken(broken: dict[str, Any], unbroken: dict[str, Any], place: int | None) -> None:
    told = list(events(broken | {"resume": NEWEST}))
    started = next(event for event in told if event["event"] == "started")
    assert (started["resumed_from"] or {"step": None})["step"] == place
    for _ in events(unbroken):
        pass
    assert outcome(broken) == outcome(unbroken)
    directory = Path(broken["directory"])
    assert {path.name for path in directory.iterdir()} == {path.name for path in Path(unbroken["directory"]).iterdir()}


@pytest.mark.parametrize(("point", "passing", "place"), PLACES)
def test_death_at_a_point_costs_no_more_than_the_checkpoint_under_way(
    point: str, passing: int, place: int | None, order: Callable[..., dict[str, Any]]
) -> None:
    broken = order("broken")
    killed_at(point, passing)
    told: list[dict[str, Any]] = []
    with pytest.raises(Killed):
        told.extend(events(broken))  # keeps what was told before the end
    faults.disarm()
    directory = Path(broken["directory"])
    announced = [event["step"] for event in told if event["event"] == "checkpoint"]
    assert whole(directory)[:1] == [place] * (place is not None)
    assert set(announced[-1:]) <= set(whole(directory))  # what was told stands
    assert not list(directory.glob("*.part"))
    ends_as_unbroken(broken, order("unbroken"), place)


@pytest.mark.parametrize(("point", "passing", "place"), [PLACES[0], PLACES[2], PLACES[4], PLACES[5]])
def test_a_process_killed_at_a_point_costs_no_more_than_the_checkpoint_under_way(
    point: str, passing: int, place: int | None, order: Callable[..., dict[str, Any]]
) -> None:
    broken = order("broken")
    done = forking.run(
        [sys.executable, "-c", PROGRAM, json.dumps([broken, point, passing])],
        torch=True, cwd=ROOT, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert '"finished"' not in done.stdout
    assert whole(Path(broken["directory"]))[0] == place
    ends_as_unbroken(broken, order("unbroken"), place)


@pytest.mark.parametrize("point", ["checkpoint.tensors_written", "checkpoint.written"])
def test_a_disk_that_refuses_at_a_point_leaves_no_half_checkpoint(point: str, tmp_path: Path) -> None:
    def refuse() -> None:
        raise OSError(5, "Input/output error")

    faults.arm(point, refuse)
    with pytest.raises(OSError, match="Input/output"):
        checkpoint.save(make_run(), tmp_path)
    assert len(names_in(tmp_path)) == (0 if point == "checkpoint.tensors_written" else 2)
