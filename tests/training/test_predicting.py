"""Orders to predict: the cut into pieces, and the pieces behind which an attempt goes on."""

from __future__ import annotations

import csv
import resource
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from loopline.prediction.given import Given
from loopline.prediction.loading import TrainedModel, load

from services.errors import CheckpointCorrupt, DatasetInvalid
from services.training import pieces, predicting
from services.training.messages import (
    Allowance,
    CheckpointSaved,
    DeviceMemory,
    Event,
    File,
    Finished,
    Log,
    Order,
    SavedModel,
    Started,
    Stopped,
)
from services.training.messages import StopReason as Reason
from services.training.pieces import Piece
from services.training.spec import predict
from tests import forking
from tests.client.prediction.tables import from_file, walks, without, written

CPU = torch.device("cpu")
SEQUENCES = 1300
SCHEMAS = {"classification": "activity", "tagging": "mode"}

ROOT = Path(__file__).parents[2]


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
    assert started.checkpoints is None  # a list would be a query with as many parameters
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
        otherwise.setattr(pieces, "FEWEST", 100)
        first = answered(order("broken", task))
    before = registered(first)[:4]
    again = answered(broken := order("broken", task, before))
    assert went_on_after(again) == 4 * 100
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


def test_a_piece_has_a_full_batch_whatever_it_takes_and_a_file_has_some_thousands_of_pieces() -> None:
    def sizes(effort: float, sequences: int, memory: float = 0.0) -> Sequence[int]:
        ends = pieces.cut(np.full(sequences, effort), np.full(sequences, memory))
        assert ends[-1] == sequences
        return np.diff([0, *ends]).tolist()

    assert sizes(1e6, 255) == [255]
    assert sizes(1e6, 600) == [256, 256, 88]
    assert sizes(0.0, 600) == [256, 256, 88]
    assert set(sizes(0.0, 100_000)) == {5_000}
    assert set(sizes(1 / 1024, 100_000)[:-1]) == {1024}
    assert sizes(1.0, 8, memory=0.25) == [4, 4]
    assert sizes(1.0, 3, memory=5.0) == [1, 1, 1]
    for many in (sizes(1e6, 1_000_000), sizes(0.0, 12_000_000), sizes(1.0, 1_000_000, memory=1.0)):
        assert len(many) <= 5 * pieces.MOST_PIECES


def test_the_pieces_behind_a_place_are_those_of_the_whole_file() -> None:
    rng = np.random.default_rng(0)
    effort, memory = rng.random((2, 20_000)) / 100
    ends = pieces.cut(effort, memory)
    for place, end in enumerate(ends):
        assert pieces.cut(effort, memory, end) == ends[place + 1 :]


def test_a_trainer_stops_between_two_batches_of_a_piece(order: MakeOrder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "FEWEST", 600)
    monkeypatch.setattr(predicting, "SIGN_SECONDS", 0.0)
    asked = 0

    def stop() -> Reason | None:
        nonlocal asked
        asked += 1
        return Reason.PAUSE if asked == 6 else None

    events = list(predicting.events(order("stopped"), CPU, stop))
    assert [file.name for file in registered(events)] == [pieces.name_of(0, 600)]  # in three batches
    assert events[-1] == Stopped(Reason.PAUSE)
    signs = [place for place, event in enumerate(events) if event == DeviceMemory({})]
    assert len(signs) == asked - 1


def test_a_raw_file_is_read_within_the_limits_of_an_upload(order: MakeOrder, tmp_path: Path) -> None:
    row = np.arange(2_000_000)
    columns = {"walk": row // 4, "second": row % 4, "speed": np.random.default_rng(0).normal(size=len(row))}
    pa.csv.write_csv(pa.table(columns), tmp_path / "large.csv")
    asked = replace(order("large"), data=str(tmp_path / "large.csv"))
    before = limits()
    with pytest.raises(DatasetInvalid, match="is too large once it is unpacked"):
        next(predicting.events(replace(asked, allowance=Allowance(1 << 30, 1 << 20)), CPU))
    assert limits() == before
    assert isinstance(next(predicting.events(replace(asked, allowance=Allowance(2 << 30, 1 << 30)), CPU)), Started)


def test_the_kernel_gives_no_more_memory_until_the_file_is_read() -> None:
    code = """
import resource
import numpy as np
from services.errors import DatasetInvalid
from services.training.files.limited import limited
before = resource.getrlimit(resource.RLIMIT_DATA)
try:
    with limited(64 << 20, 1 << 30):
        np.ones(1 << 26)
except DatasetInvalid as error:
    print(error.message)
np.ones(1 << 26)
assert resource.getrlimit(resource.RLIMIT_DATA) == before
"""
    # In a process of its own: one that has freed so much before would get it without asking the kernel.
    done = forking.run([sys.executable, "-c", code], torch=True, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("The file needs more memory to be read")


def limits() -> list[tuple[int, int]]:
    return [resource.getrlimit(which) for which in (resource.RLIMIT_DATA, resource.RLIMIT_FSIZE)]
