"""Orders to predict: the cut into pieces, and the pieces behind which an attempt goes on."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from loopline.prediction.given import Given
from loopline.prediction.loading import TrainedModel, load

from services.errors import CheckpointCorrupt
from services.training import pieces, predicting
from services.training.messages import CheckpointSaved, Event, File, Finished, Log, Order, SavedModel, Started
from services.training.pieces import Piece
from services.training.spec import predict
from tests.client.prediction.tables import from_file, walks, without, written

CPU = torch.device("cpu")
SEQUENCES = 1300
SCHEMAS = {"classification": "activity", "tagging": "mode"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of two models: of a row for each sequence, and of a row for each step."""
    folder = tmp_path_factory.mktemp("models")
    data = {"missing": "forward", "scaling": "standard"}
    for task, target in SCHEMAS.items():
        schema = {"group": ["walk"], "order": "second", "features": ["speed"], "target": [target]}
        from_file(written(walks(), folder / "walks.csv"), folder / task, schema, data=data)
    return {task: folder / task for task in SCHEMAS}


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    columns = without(walks(SEQUENCES, seed=5), "activity", "mode")
    return written(columns, tmp_path_factory.mktemp("asked") / "asked.csv")


MakeOrder = Callable[..., Order]


@pytest.fixture
def order(models: dict[str, Path], asked: Path, tmp_path: Path) -> MakeOrder:
    def made(folder: str, task: str = "classification", registered: Sequence[File] = ()) -> Order:
        spec = predict.parse({"kind": "predict", "model": "model@1", "data": {"dataset": "asked"}, "format": "csv"})
        (tmp_path / folder).mkdir(exist_ok=True)
        return Order(
            spec=spec.document(),
            data=str(asked),
            directory=str(tmp_path / folder),
            device="cpu",
            baselines={"predicts": SavedModel("model@1", str(models[task]))},
            ending="csv",
            pieces=tuple(registered),
        )

    return made


def answered(order: Order) -> list[Event]:
    found = list(predicting.events(order, CPU))
    assert isinstance(found[-1], Finished)
    return found


def registered(events: Sequence[Event]) -> list[File]:
    return [event.files[0] for event in events if isinstance(event, CheckpointSaved)]


def went_on_after(events: Sequence[Event]) -> int:
    [started] = (event for event in events if isinstance(event, Started))
    return started.resumed_from.step if started.resumed_from else 0


def rows(order: Order) -> list[list[str]]:
    return list(csv.reader((Path(order.directory) / "answers.csv").read_text().splitlines()))


def check_answers(found: Order, expected: Order) -> None:
    """The same rows, with numbers that may differ in the last digits: pieces of another cut are other batches."""
    ours, others = rows(found), rows(expected)
    assert [row[:2] for row in ours] == [row[:2] for row in others]
    numbers = [np.array([row[2:] for row in each[1:]]) for each in (ours, others)]
    np.testing.assert_array_equal(*(each[:, -1] == "" for each in numbers))
    np.testing.assert_allclose(*(each[:, -1].astype(float) for each in numbers), rtol=1e-4)


@pytest.mark.parametrize("task", SCHEMAS)
def test_an_attempt_goes_on_behind_pieces_that_were_cut_otherwise(
    order: MakeOrder, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered(whole := order("whole", task))
    with monkeypatch.context() as otherwise:
        otherwise.setattr(pieces, "FEWEST", 170)
        first = answered(order("broken", task))
    before = registered(first)[:4]
    again = answered(broken := order("broken", task, before))
    assert went_on_after(again) == 4 * 170
    check_answers(broken, whole)


def test_an_attempt_answers_again_what_is_not_there_as_it_was_registered(order: MakeOrder, tmp_path: Path) -> None:
    first = answered(whole := order("whole"))
    before = registered(first)
    assert len(before) >= 3

    def resumed(name: str, change: Callable[[Path, list[File]], list[File]]) -> tuple[int, list[Event]]:
        shutil.copytree(whole.directory, tmp_path / name)
        (tmp_path / name / "answers.csv").unlink()
        events = answered(broken := order(name, registered=change(tmp_path / name, list(before))))
        check_answers(broken, whole)
        return went_on_after(events), [event for event in events if isinstance(event, Log)]

    def flipped(folder: Path, files: list[File]) -> list[File]:
        path = folder / files[1].name
        content = bytearray(path.read_bytes())
        content[100] ^= 1
        path.write_bytes(content)
        pyarrow.parquet.read_metadata(path)  # its footer is whole
        return files

    def gone(folder: Path, files: list[File]) -> list[File]:
        (folder / files[0].name).unlink()
        return files

    end = int(before[0].name[18:27])
    assert resumed("all", lambda folder, files: files) == (SEQUENCES, [])
    assert resumed("flipped", flipped)[0] == end
    assert resumed("gone", gone)[0] == 0
    assert resumed("a gap", lambda folder, files: [files[0], *files[2:]])[0] == end
    assert resumed("another file", lambda folder, files: [replace(files[0], sha256="0" * 64)])[0] == 0
    old = [replace(files, name="answers-000000500.parquet") for files in before[:1]]
    found, logged = resumed("of an old version", lambda folder, files: old)
    assert (found, len(logged)) == (0, 1)


@pytest.mark.parametrize("task", SCHEMAS)
def test_pieces_that_do_not_answer_each_sequence_once_are_not_joined(
    order: MakeOrder, models: dict[str, Path], task: str
) -> None:
    folder = Path(order("joined", task).directory)
    made = [piece_of(file) for file in registered(answered(order("joined", task)))]
    model, given = load(models[task]), SEQUENCES
    short = pieces.write(folder, 0, made[0].end, model.answer(sequences(model, folder.parent, made[0].end - 1)))
    for wrong, why in (
        (made[:-1], "do not answer each"),
        (made[1:], "do not answer each"),
        ([made[0], *made], "do not answer each"),
        ([short, *made[1:]], f"answers {made[0].end - 1:,} sequences, not {made[0].end:,}"),
        ([replace(made[0], file=replace(made[0].file, sha256="0" * 64)), *made[1:]], "is damaged"),
    ):
        with pytest.raises(CheckpointCorrupt, match=why):
            pieces.together(folder, wrong, "csv", task, given)


def sequences(model: TrainedModel, folder: Path, count: int) -> Given:
    return model.read(written(without(walks(count, seed=5), "activity", "mode"), folder / "some.csv"))


def piece_of(file: File) -> Piece:
    match = pieces.NAME.fullmatch(file.name)
    assert match is not None
    return Piece(int(match[1]), int(match[2]), file)
