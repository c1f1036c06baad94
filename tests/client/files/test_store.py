"""The stored form: exact, canonical, mapped in place, and refused where a byte is wrong."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopline.files import aligned, store
from loopline.files.problems import FileInvalid
from loopline.files.schema import Schema
from loopline.files.sequences import Column, Sequences

from tests.client.files.drawn import sequences
from tests.client.files.tables import differences
from tests.properties import examples

SMALL = Sequences(
    x=np.array([[1.5, 0], [np.nan, 1], [3, 0]], np.float32),
    lengths=np.array([2, 1]),
    features=(Column("v"), Column("mode", "category", ("cool", "heat"))),
    schema=Schema(layout="long", group=("id",), order="t", target=("label",)),
    y=np.array([0, 1]),
    targets="classes",
    target_names=("label",),
    classes=("p", "q"),
    ids=np.array(["a", "bé"]),
    times=np.array([0, 1, 0]),
    time_kind="time",
    weights=np.array([1.0, 2.0]),
    split=np.array([0, 2], np.int8),
)


def stored(of: Sequences) -> bytes:
    with TemporaryDirectory() as folder:
        store.write(Path(folder) / "data", of)
        return (Path(folder) / "data").read_bytes()


def reading(content: bytes, *, mapped: bool = True) -> Sequences:
    with TemporaryDirectory() as folder:
        (Path(folder) / "data").write_bytes(content)
        return store.read(Path(folder) / "data", mapped=mapped)


@given(sequences(), st.booleans())
@examples(40)
def test_what_was_written_is_read_again_exactly_and_in_the_same_bytes(of: Sequences, mapped: bool) -> None:
    content = stored(of)
    again = reading(content, mapped=mapped)
    assert differences(of, again) == []
    assert again.schema == of.schema
    assert stored(again) == content


def test_equal_content_has_equal_bytes_whatever_the_memory_holds() -> None:
    other_nan = np.array([0x7FC00123], np.uint32).view(np.float32)[0]
    x = np.asfortranarray(SMALL.x)
    x[1, 0] = other_nan
    assert x.tobytes() != SMALL.x.tobytes()
    twin = replace(SMALL, x=x, lengths=SMALL.lengths.astype(">i8"), ids=SMALL.ids.astype("U40"), notes=("sorted",))  # type: ignore[union-attr]
    assert stored(twin) == stored(SMALL)
    assert stored(replace(SMALL, classes=("p", "r"))) != stored(SMALL)


def test_the_bytes_are_those_of_every_release() -> None:
    """Hashes of stored files name data sets for good."""
    assert (
        hashlib.sha256(stored(SMALL)).hexdigest() == "3d65a803596ad8d967a976befe6c4a4e85e3e5b7249ceaae757352e89c8aaddb"
    )


def test_arrays_are_mapped_in_place_at_multiples_of_64_bytes(tmp_path: Path) -> None:
    store.write(tmp_path / "data", SMALL)
    found = store.read(tmp_path / "data")
    for name in ("x", "lengths", "y", "times", "weights", "split"):
        array = getattr(found, name)
        assert isinstance(array, np.memmap)
        assert array.offset % aligned.ALIGNMENT == 0
        assert not array.flags.writeable
    assert not isinstance(store.read(tmp_path / "data", mapped=False).x, np.memmap)


def test_numpy_and_zipfile_read_it_too() -> None:
    with np.load(io.BytesIO(stored(SMALL)), allow_pickle=False) as arrays:
        assert np.array_equal(arrays["x"], SMALL.x, equal_nan=True)
        assert set(arrays) >= {"x", "lengths", "y", "id_bytes", "id_ends"}
    with zipfile.ZipFile(io.BytesIO(stored(SMALL))) as archive:
        assert archive.testzip() is None
        assert json.loads(archive.read("schema.json"))["classes"] == ["p", "q"]
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_members_beyond_two_gigabytes_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their sizes are in another place of the header; that place does not depend on the size."""
    monkeypatch.setattr(aligned, "_LARGE", 100)
    store.write(tmp_path / "data", SMALL)
    found = store.read(tmp_path / "data")
    assert differences(found, SMALL) == []
    assert found.x.offset % aligned.ALIGNMENT == 0  # type: ignore[attr-defined]


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        store.write(tmp_path / "data", replace(SMALL, ids=np.array(["a", "\ud800"])))
    assert list(tmp_path.iterdir()) == []


@given(st.data())
@examples(150)
def test_a_byte_that_changed_is_noticed_or_does_not_matter(data: st.DataObject) -> None:
    content = bytearray(CONTENT)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(FileInvalid):
        assert differences(reading(bytes(content), mapped=False), SMALL) == []


@given(st.integers(0, 4000), st.binary(max_size=8))
def test_a_file_that_was_cut_off_or_added_to_is_refused(length: int, more: bytes) -> None:
    content = CONTENT[:length] + more
    if content != CONTENT:
        with pytest.raises(FileInvalid):
            reading(content)


@given(st.binary(max_size=200))
def test_anything_else_is_refused(content: bytes) -> None:
    with pytest.raises(FileInvalid, match="this is no stored data set"):
        reading(content)


def rewritten(document: dict[str, Any] | None = None, /, **arrays: Any) -> bytes:
    """A well-formed file with other arrays, or another document: what a hostile client would send."""
    file = io.BytesIO(CONTENT)
    with np.load(file) as found:
        old = {name: found[name] for name in found if name != "schema.json"}
        words = {**json.loads(found["schema.json"]), **(document or {})}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "data"
        with aligned.opened(path) as archive:
            coded = json.dumps(words).encode()
            aligned.write(archive, "schema.json", [coded], len(coded))
            for name, array in {**old, **arrays}.items():
                if array is None:
                    continue
                content = array if isinstance(array, bytes) else as_npy(array)
                aligned.write(archive, f"{name}.npy", [content], len(content))
        return path.read_bytes()


def as_npy(array: Any, *, shape: tuple[int, ...] | None = None) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array), allow_pickle=True)
    content = file.getvalue()
    if shape is None:
        return content
    header = content[10 : content.index(b"\n")].replace(str(np.asarray(array).shape).encode(), str(shape).encode())
    return (
        content[:10]
        + header.ljust(content.index(b"\n") - 10)[: content.index(b"\n") - 10]
        + content[content.index(b"\n") :]
    )


CONTENT = stored(SMALL)
X = np.zeros((3, 2), np.float32)
HOSTILE = {
    "python objects": rewritten(y=np.array([object, 1], object)),
    "a shape that is larger than the file": rewritten(x=as_npy(X, shape=(1 << 40, 1 << 20))),
    "a shape of nothing that claims many steps": rewritten({"features": []}, x=np.zeros((1 << 50, 0), np.float32)),
    "a negative shape": rewritten(x=as_npy(X, shape=(-3, -2))),
    "columns that come first": rewritten(x=np.asfortranarray(np.ones((3, 2), np.float32))),
    "another type of x": rewritten(x=np.zeros((3, 2), np.int64)),
    "lengths that do not add up": rewritten(lengths=np.array([2, 2])),
    "lengths that add up by overflow": rewritten(lengths=np.array([-(1 << 62), (1 << 62) + 3])),
    "an empty sequence": rewritten(lengths=np.array([3, 0])),
    "a class that is not there": rewritten(y=np.array([0, 2])),
    "a class below zero": rewritten(y=np.array([0, -1])),
    "too few targets": rewritten(y=np.array([0])),
    "no lengths": rewritten(lengths=None),
    "a category that is not there": rewritten(x=np.array([[0, 2], [0, 0], [0, 1]], np.float32)),
    "half a category": rewritten(x=np.array([[0, 0.5], [0, 0], [0, 1]], np.float32)),
    "a weight of zero": rewritten(weights=np.array([1.0, 0.0])),
    "an endless weight": rewritten(weights=np.array([1.0, np.inf])),
    "a fourth part of the split": rewritten(split=np.array([0, 3], np.int8)),
    "ids that end before they begin": rewritten(id_ends=np.array([5, 4])),
    "ids that are no text": rewritten(id_bytes=np.full(4, 0xFF, np.uint8)),
    "ids without ends": rewritten(id_ends=None),
    "too few times": rewritten(times=np.array([0, 1])),
    "times of another type": rewritten(times=np.array([0.0, 1, 2])),
    "an array that is not known": rewritten(z=np.zeros(3)),
    "another format": rewritten({"format": 2}),
    "classes that are not sorted": rewritten({"classes": ["q", "p"]}),
    "classes of two kinds": rewritten({"classes": ["p", 1]}),
    "classes beyond 64 bits": rewritten({"classes": [1, 1 << 70]}),
    "a schema with other fields": rewritten({"schema": {"colour": "red"}}),
    "a schema that is a list": rewritten({"schema": []}),
    "a column without a kind": rewritten({"features": [{"name": "v"}, {"name": "w"}]}),
    "targets that are not known": rewritten({"targets": ["classes"]}),
    "a name that is a number": rewritten({"target_names": [1]}),
    "a zone that is a word": rewritten({"zoned": "UTC"}),
    "a zone of numbers": rewritten({"time_kind": "number", "zoned": True}, times=np.array([0.0, 1, 2])),
    "a static column without values": rewritten({"static": [{"name": "a", "kind": "number", "categories": None}]}),
    "lists a thousand deep": CONTENT.replace(b'"schema":', b"[[[[[[[[["),
}


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused(name: str, mapped: bool) -> None:
    with pytest.raises(FileInvalid, match="this is no stored data set, or it is damaged"):
        reading(HOSTILE[name], mapped=mapped)


def test_json_of_any_depth_is_refused() -> None:
    deep = b"[" * 100_000
    with TemporaryDirectory() as folder:
        with aligned.opened(Path(folder) / "data") as archive:
            aligned.write(archive, "schema.json", [deep], len(deep))
        with pytest.raises(FileInvalid):
            store.read(Path(folder) / "data")


def test_a_packed_archive_and_one_with_a_size_beyond_its_end_are_refused() -> None:
    file = io.BytesIO()
    np.savez_compressed(file, x=SMALL.x, lengths=SMALL.lengths)
    with pytest.raises(FileInvalid, match="packed"):
        reading(file.getvalue())
    content = bytearray(CONTENT)
    struct.pack_into("<LL", content, 18, 1 << 31, 1 << 31)
    with pytest.raises(FileInvalid, match="not where it should be"):
        reading(bytes(content))


def test_a_file_that_is_not_there_is_no_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store.read(tmp_path / "data")
