"""Precisions that a processor or a build of torch lacks: such layers are computed in float32, and that is told."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from services.training import model as models
from services.training.files import npz
from services.training.model import DTYPES, FUNCTIONS, SequenceModel, works_in
from services.training.spec import parse
from services.training.spec.fields import Architecture
from tests import forking
from tests.training.building import classes, document, events, make_run, of_many_lengths

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
CELLS: dict[str, dict[str, Any]] = {
    "RNN_TANH": {"cell": "rnn"},
    "RNN_RELU": {"cell": "rnn", "nonlinearity": "relu"},
    "LSTM": {"cell": "lstm"},
    "GRU": {"cell": "gru"},
}

# Carries out orders, and tells what happens, in a process with a processor of its own.
PROGRAM = """
import json, sys, torch
from tests.training.building import events
torch.set_num_threads(1)
for order in json.loads(sys.argv[1]):
    for event in events(order):
        print(json.dumps(event))
"""


@pytest.fixture
def orders(tmp_path: Path) -> list[dict[str, Any]]:
    """One of each cell, number of directions, precision, and of sequences of one length or of many."""
    made = []
    for lengths in (False, True):
        data = tmp_path / f"{lengths}.npz"
        npz.write(data, of_many_lengths(classes(12)) if lengths else classes(12))
        for mode, architecture in CELLS.items():
            for precision in ("float32", *DTYPES):
                for both in (False, True):
                    spec = document(
                        architecture={**architecture, "bidirectional": both, "hidden_size": 3},
                        training={"epochs": 1, "precision": precision},
                    )
                    folder = tmp_path / f"{mode}-{precision}-{both}-{lengths}"
                    made.append(
                        {"spec": parse(spec).document(), "data": str(data), "directory": str(folder), "resume": None}
                    )
    return made


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="the variable is for x86")
def test_every_cell_and_precision_trains_on_a_processor_without_avx512(orders: list[dict[str, Any]]) -> None:
    told = _on_a_processor_with("AVX2", orders)
    assert [event["event"] for event in told].count("finished") == len(orders) == 48
    notes = [event for event in told if event["event"] == "note" and event["type"] == "precision"]
    cards = [json.loads((Path(order["directory"]) / "model.json").read_text()) for order in orders]
    lacking = []
    for card in cards:
        asked, cell = card["spec"]["training"]["precision"], card["spec"]["architecture"]["cell"]
        if card["precision_of_layers"] != asked:
            lacking.append((cell, asked))
            assert card["precision_of_layers"] == "float32"
    assert {kind: lacking.count(kind) for kind in lacking} == {("lstm", "bf16"): 4, ("lstm", "fp16"): 4}
    assert [note["data"]["precision"] for note in notes] == [asked for _, asked in lacking]
    assert all("cannot train the lstm layers of this spec" in note["message"] for note in notes)


def test_layers_that_the_machine_has_in_the_precision_asked_for_are_told_by_nothing(tmp_path: Path) -> None:
    npz.write(tmp_path / "some.npz", classes(12))
    for precision in ("float32", "bf16"):
        spec = parse(document(architecture={"cell": "gru"}, training={"epochs": 1, "precision": precision}))
        folder = tmp_path / precision
        order = {"spec": spec.document(), "data": str(tmp_path / "some.npz"), "directory": str(folder), "resume": None}
        told = list(events(order))
        assert "precision" not in [event["type"] for event in told if event["event"] == "note"]
        assert json.loads((folder / "model.json").read_text())["precision_of_layers"] == precision


@pytest.fixture
def _asked_anew() -> Iterator[None]:
    """What was found out in this process is forgotten, before and after."""
    works_in.cache_clear()
    yield
    works_in.cache_clear()


@pytest.mark.usefixtures("_asked_anew")
def test_asking_draws_nothing_and_is_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setitem(FUNCTIONS, "GRU", lambda *a: calls.append(a) or torch.gru(*a))
    before = torch.get_rng_state()
    with torch.inference_mode():
        first = works_in(torch.bfloat16, "GRU", True, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    asked = len(calls)
    assert asked > 0
    assert works_in(torch.bfloat16, "GRU", True, CPU) == first
    assert len(calls) == asked


@pytest.mark.usefixtures("_asked_anew")
def test_nothing_is_asked_for_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(models, "works_in", lambda *a: made.append(a))
    run = make_run()
    run.model(run.data.train.x, run.data.train.lengths)
    assert (made, run.precision_of_layers) == ([], "float32")


def failing(*_: Any) -> Any:
    raise RuntimeError("could not create a primitive")


def failing_backwards(*arguments: Any) -> Any:
    outputs, hidden = torch.gru(*arguments)
    hidden.register_hook(failing)
    return outputs, hidden


def wrong(*arguments: Any) -> Any:
    outputs, hidden = torch.gru(*arguments)
    return outputs, hidden * 1.5


def not_finite(*arguments: Any) -> Any:
    outputs, hidden = torch.gru(*arguments)
    return outputs, hidden * torch.nan


def in_half(function: Callable[..., Any]) -> Callable[..., Any]:
    """This function in half the precision, and torch's own in float32."""
    return lambda *arguments: (function if torch.is_autocast_enabled("cpu") else torch.gru)(*arguments)


@pytest.mark.usefixtures("_asked_anew")
@pytest.mark.parametrize("function", [failing, failing_backwards, wrong, not_finite])
def test_what_fails_there_or_back_or_gives_other_numbers_does_not_work(
    function: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert works_in(torch.bfloat16, "GRU", False, CPU)
    works_in.cache_clear()
    monkeypatch.setitem(FUNCTIONS, "GRU", in_half(function))
    assert not works_in(torch.bfloat16, "GRU", False, CPU)


@pytest.mark.usefixtures("_asked_anew")
def test_a_lack_of_memory_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    with monkeypatch.context() as patch:
        patch.setitem(FUNCTIONS, "GRU", in_half(short))
        with pytest.raises(torch.OutOfMemoryError):
            works_in(torch.bfloat16, "GRU", False, CPU)
    assert works_in(torch.bfloat16, "GRU", False, CPU)


@pytest.mark.usefixtures("_asked_anew")
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("lengths", [None, torch.tensor([6, 2, 1, 5])], ids=["full", "lengths"])
def test_layers_that_do_not_work_are_computed_in_float32_and_the_head_in_what_was_asked_for(
    both: bool, lengths: Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = SequenceModel(Architecture(cell="gru", hidden_size=4, bidirectional=both, num_layers=2), 3, 2)
    x = torch.randn(4, 6, 3)
    monkeypatch.setitem(FUNCTIONS, "GRU", in_half(failing))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(x, lengths)
    pooled = model.pool(x, lengths)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(outputs, model.head(pooled))
    assert (outputs.dtype, pooled.dtype) == (torch.bfloat16, torch.float32)


def _on_a_processor_with(isa: str, orders: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is told where oneDNN takes the processor for one that has these instructions at most."""
    done = forking.run(
        [sys.executable, "-c", PROGRAM, json.dumps(orders)],
        torch=True,
        cwd=ROOT,
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": isa},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
