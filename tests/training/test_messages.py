"""What supervisor and trainer say to each other: written, read, and refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.training import messages
from services.training.messages import (
    PROTOCOL,
    Allowance,
    Best,
    CheckpointDeleted,
    CheckpointSaved,
    DeviceMemory,
    EpochEnded,
    Event,
    Failed,
    File,
    Finished,
    FoldProgress,
    FoldStarted,
    Lease,
    Log,
    Note,
    Order,
    Place,
    ProtocolError,
    Ready,
    Recorded,
    Request,
    RolledBack,
    RungAnswer,
    SavedModel,
    Started,
    Steps,
    Stop,
    Stopped,
    StopReason,
    read_event,
    read_request,
    to_json,
)

BEST = Best(2, "validation_loss", 0.25)
FOLD = FoldProgress(number=2, folds=5, epochs=3, epochs_before=3, total_epochs=18, total_steps=72)
FILE = File("model.json", 12, "ab" * 32)

ALL_EVENTS: list[Event] = [
    Ready(PROTOCOL, "cpu"),
    Started(3, 4, Place(1, 4), BEST, 10, "cpu", 1, "2.9", [4], {"pid": 7}),
    Started(3, 4, None, None, 10, "cpu", 1, "2.9"),
    Started(18, 4, Place(4, 16), BEST, 10, "cpu", 1, "2.9", fold=FOLD),
    FoldStarted(FOLD),
    Steps(5, [0.5, None], [1.0, 2.0]),
    Steps(5, [0.5, None], [1.0, 2.0], 2),
    EpochEnded({"epoch": 1, "train_loss": 0.5, "validation_loss": None}, BEST),
    DeviceMemory({"allocated": 1, "reserved": 2, "peak": 3}),
    CheckpointSaved(1, 4, True, (FILE, File("model.safetensors", 3, "cd" * 32, "jobs/x"))),
    CheckpointSaved(4, 16, True, (FILE,), 2),
    CheckpointDeleted(4),
    RolledBack(0, 0, None, "It goes on from the start.", {"lr": 0.1}),
    Note("gate", "info", "It is better.", {"metric": "loss"}),
    Log("warning", "less is well"),
    Finished({"best_epoch": 1, "epochs": 3}, (FILE,)),
    Stopped(StopReason.DRAIN),
    Stopped(StopReason.CANCEL, {"complete": False}, (FILE,)),
    Failed("diverged", "Training diverged.", None),
]
ALL_REQUESTS: list[Request] = [
    Order({"training": {"epochs": 3}}, "data.npz", "job"),
    Order({}, None, "job", "newest", "cpu", "ab", True, "j", 2, {"against": SavedModel("m", None), "warm_start": None}),
    Order({}, None, "job", rungs=(1, 3, 9)),
    Order({}, None, "job", pieces=(FILE, FILE), allowance=Allowance(1 << 30, 1 << 32)),
    Lease(12.5),
    Stop(StopReason.PAUSE),
    Recorded(3),
    RungAnswer(3, goes_on=False),
]


def test_every_kind_of_message_is_tried_here() -> None:
    assert {type(event) for event in ALL_EVENTS} == set(messages.EVENTS.values())
    assert {type(request) for request in ALL_REQUESTS} == set(messages.REQUESTS.values())


@pytest.mark.parametrize("event", ALL_EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_is_read_as_it_was_sent(event: Event) -> None:
    assert read_event(json.loads(json.dumps(to_json(event), allow_nan=False))) == event


def test_messages_of_a_job_without_folds_are_as_before_there_were_any() -> None:
    assert json.dumps(to_json(Steps(5, [0.5], [1.0]))) == (
        '{"event": "steps", "first_step": 5, "loss": [0.5], "grad_norm": [1.0]}'
    )
    assert json.dumps(to_json(CheckpointSaved(1, 4, True, ()))) == (
        '{"event": "checkpoint", "epoch": 1, "step": 4, "best": true, "files": []}'
    )
    assert json.dumps(to_json(Started(3, 4, None, None, 10, "cpu", 1, "2.9"))) == (
        '{"event": "started", "epochs": 3, "steps_per_epoch": 4, "resumed_from": null, "best": null, "parameters": 10, '
        '"device": "cpu", "threads": 1, "torch": "2.9"}'
    )


@pytest.mark.parametrize("request_", ALL_REQUESTS, ids=lambda request: type(request).__name__)
def test_a_request_is_read_as_it_was_sent(request_: Request) -> None:
    assert read_request(json.loads(json.dumps(to_json(request_), allow_nan=False))) == request_


def test_what_was_not_set_is_not_sent() -> None:
    assert to_json(Stopped(StopReason.DRAIN)) == {"event": "stopped", "reason": "drain"}
    assert to_json(CheckpointSaved(1, 4, False, (FILE,)))["files"] == [
        {"name": "model.json", "bytes": 12, "sha256": "ab" * 32}
    ]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([1], "a line that is no event: [1]"),
        ({"event": 1}, "a line that is no event"),
        ({"event": "song"}, "unknown event, 'song'; known are ready, started"),
        ({"event": "finished", "files": []}, "`finished` that is not whole: `result`: field required"),
        (
            {"event": "steps", "first_step": 1, "loss": 5, "grad_norm": [1]},
            "`loss`: input should be a valid list; got",
        ),
        (
            {"event": "steps", "first_step": 1, "loss": ["x"], "grad_norm": [1]},
            "`loss.0`: input should be a valid",
        ),
        (
            {"event": "steps", "first_step": 1, "loss": [], "grad_norm": []},
            "must have the same length, and at least",
        ),
        ({"event": "epoch", "record": {"train_loss": 1.0}, "best": None}, "record must have its epoch"),
        ({"event": "log", "level": "loud", "message": "x"}, "`level`: input should be 'info', 'warning' or 'error'"),
        ({"event": "stopped", "reason": "tired"}, "`reason`: input should be 'cancel', 'pause'"),
        ({"event": "checkpoint_deleted", "step": 4, "why": 1}, "`why`: unexpected keyword argument"),
    ],
)
def test_an_event_that_is_not_whole_is_refused_with_the_field_and_what_was_expected(document: Any, words: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        read_event(document)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"event": "steps"}, "The supervisor sent a line that is no request"),
        ({"request": "steps"}, "unknown request, 'steps'; known are order, lease, stop, heard"),
        ({"request": "order", "spec": {}, "data": None}, "`order` that is not whole: `directory`: field required"),
        ({"request": "lease", "until": "soon"}, "`until`: input should be a valid number"),
    ],
)
def test_a_request_that_is_not_whole_is_refused_too(document: Any, words: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        read_request(document)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "ready", [{"protocol": PROTOCOL + 1, "device": "cpu"}, {"protocol": PROTOCOL + 1, "place": []}, {"device": "cpu"}]
)
def test_a_trainer_of_another_version_is_refused_before_its_fields_are_read(ready: dict[str, Any]) -> None:
    versions = f"speaks version {ready.get('protocol', 0)} of the protocol and this worker version {PROTOCOL}"
    with pytest.raises(ProtocolError, match=rf"{versions}: .*Restart the worker"):
        read_event({"event": "ready", **ready})
