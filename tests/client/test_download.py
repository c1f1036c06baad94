from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loopline import BadRequest, Client, DownloadFailed, Job, NotFound
from loopline.download import into

from tests.client.stub import FIXED, Stub, stubbed


def zipped(files: dict[str, bytes]) -> Callable[[Path], None]:
    def fetch(target: Path) -> None:
        with zipfile.ZipFile(target, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)

    return fetch


def test_files_arrive_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "model"
    files = into(folder, zipped({"model.json": b"{}", "model.safetensors": b"w" * 100_000}))
    assert files == [folder / "model.json", folder / "model.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]
    assert (folder / "model.safetensors").stat().st_size == 100_000


@pytest.mark.parametrize("name", ["../evil", "a/b", "/etc/x", "C:x", "a\\b", "..", ".hidden", "x" * 200])
def test_a_name_with_a_path_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(DownloadFailed, match="only plain names"):
        into(tmp_path, zipped({"model.json": b"{}", name: b"x"}))
    assert list(tmp_path.iterdir()) == []


def test_a_broken_download_leaves_the_earlier_one_as_it_was(tmp_path: Path) -> None:
    into(tmp_path, zipped({"model.json": b"first"}))

    def truncated(target: Path) -> None:
        zipped({"model.json": b"second" * 1000})(target)
        target.write_bytes(target.read_bytes()[:-40])

    with pytest.raises(DownloadFailed, match="not whole"):
        into(tmp_path, truncated)
    assert (tmp_path / "model.json").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]


def test_a_member_that_was_damaged_on_the_way_is_refused(tmp_path: Path) -> None:
    def flipped(target: Path) -> None:
        zipped({"model.json": b"content that is long enough"})(target)
        data = bytearray(target.read_bytes())
        data[data.index(b"long")] ^= 0xFF
        target.write_bytes(data)

    with pytest.raises(DownloadFailed, match="not whole"):
        into(tmp_path, flipped)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("")
    with pytest.raises(BadRequest, match=r"Cannot write to .*model: File exists"):
        into(tmp_path / "model", zipped({}))


def test_a_second_download_may_run_while_the_first_is_under_way(tmp_path: Path) -> None:
    def fetch(target: Path) -> None:
        into(tmp_path, zipped({"model.json": b"inner"}))
        zipped({"model.json": b"outer"})(target)

    into(tmp_path, fetch)
    assert (tmp_path / "model.json").read_bytes() == b"outer"
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]


@pytest.fixture
def stub() -> Iterator[Stub]:
    with stubbed() as started:
        yield started


@pytest.fixture
def predicted(stub: Stub) -> Iterator[Callable[..., Job]]:
    """A job that has predicted, as the service tells of it."""
    with Client(stub.url) as client:

        def get(**said: str) -> Job:
            stub.named = {**FIXED, "kind": "predict", "format": "csv", **said}
            return client.job("job_1")

        yield get


@pytest.mark.parametrize("file", ["../evil", "/nowhere/evil", "a/b", "..", ".hidden"])
def test_a_service_does_not_say_where_answers_are_written(
    predicted: Callable[..., Job], tmp_path: Path, file: str
) -> None:
    folder = tmp_path / "answers"
    assert predicted(file=file).download(folder) == [folder / "answers.csv"]
    assert [path.name for path in tmp_path.iterdir()] == ["answers"]


def test_answers_of_a_format_that_is_unknown_are_not_downloaded(predicted: Callable[..., Job], tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match=r"the format '../evil'; this client knows csv or parquet"):
        predicted(format="../evil").download(tmp_path / "answers")
    assert list(tmp_path.iterdir()) == []


def test_answers_that_are_not_there_leave_no_folder(stub: Stub, predicted: Callable[..., Job], tmp_path: Path) -> None:
    job = predicted()
    stub.status = 404
    with pytest.raises(NotFound):
        job.download(tmp_path / "deep" / "answers")
    assert not (tmp_path / "deep" / "answers").exists()
