"""Data sets: what is read, what is refused and in which words, and what that costs."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from numpy.typing import NDArray

from services.errors import DatasetInvalid
from services.training.files import npz
from services.training.files.npz import Arrays
from services.training.files.steps import FileSteps
from tests.properties import examples

ROOT = Path(__file__).parents[3]
VOWELS = ROOT / "data" / "japanese-vowels.npz"
X = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
Y = np.array([0, 1, 0, 1])


def saved(*, compress: bool = False, **arrays: Any) -> io.BytesIO:
    """What a client uploads: numpy's own writer."""
    file = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(file, **arrays)
    return file


def zipped(members: dict[str, bytes] | list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items() if isinstance(members, dict) else members:
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return file


def npy(header: str, data: bytes = b"", version: int = 1) -> bytes:
    """A .npy file by hand, padded as numpy does."""
    layout = "<H" if version == 1 else "<L"
    text = header.encode("utf-8" if version == 3 else "latin-1")
    text = (
        text.ljust(-(-(len(text) + 9 + struct.calcsize(layout)) // 64) * 64 - 8 - struct.calcsize(layout) - 1) + b"\n"
    )
    return b"\x93NUMPY" + bytes((version, 0)) + struct.pack(layout, len(text)) + text + data


def plain(descr: str, shape: tuple[int, ...], data: bytes = b"", **more: Any) -> bytes:
    return npy(repr({"descr": descr, "fortran_order": False, "shape": shape}), data, **more)


def array(values: Any) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(values), allow_pickle=False)
    return file.getvalue()


def problems(file: io.BytesIO | Path, limits: npz.Limits | None = None) -> dict[str, str]:
    """The details by pointer; each pointer occurs once here."""
    with pytest.raises(DatasetInvalid) as caught:
        npz.read(file, limits or npz.Limits())
    found = caught.value.problems
    details = {problem.pointer: problem.detail for problem in found}
    assert found
    assert len(details) == len(found)
    assert found[0].detail in caught.value.message
    return details


def peak(work: Callable[[], object]) -> int:
    """The most bytes that were allocated at once, by Python and numpy."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# The vendored data


def test_the_vowels_are_those_of_the_source() -> None:
    arrays = npz.read(VOWELS)
    summary = npz.summarise(arrays)
    assert arrays.x.shape == (640, 29, 12)
    assert arrays.x.dtype == np.float32
    assert (summary.min_length, summary.max_length, summary.features) == (7, 29, 12)
    assert summary.classes == list(range(1, 10))
    assert summary.given_split == {"train": 270, "test": 370}
    assert arrays.split is not None
    assert np.bincount(arrays.y[arrays.split == 0]).tolist() == [0, *[30] * 9]
    assert np.bincount(arrays.y[arrays.split == 2]).tolist() == [0, 31, 35, 88, 44, 29, 24, 40, 50, 29]
    assert np.allclose(arrays.x[0, 0, :3], [1.860936, -0.207383, 0.261557])
    assert VOWELS.stat().st_size < 500_000


def test_the_vowels_are_zero_behind_their_ends_and_not_before() -> None:
    arrays = npz.read(VOWELS)
    behind = np.arange(29) >= arrays.lengths[:, np.newaxis]
    assert not arrays.x[behind].any()
    assert arrays.x[~behind].any(axis=1).all()


# What is read


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4", ">f8", "<i4", ">i2", "u1", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("compress", [False, True])
def test_numbers_of_every_kind_and_order_are_read(dtype: str, order: Any, compress: bool) -> None:
    x = np.array(X, dtype=dtype, order=order)
    arrays = npz.read(saved(x=x, y=Y, compress=compress))
    assert arrays.x.dtype == np.float32
    assert arrays.x.flags.c_contiguous
    assert np.array_equal(arrays.x, x.astype(np.float32))


def test_arrays_larger_than_a_chunk_are_read_whole() -> None:
    x = np.random.default_rng(0).standard_normal((321, 41, 37))
    y = np.arange(321) % 2
    for order in "CF":
        arrays = npz.read(saved(x=np.array(x, order=order), y=y))  # type: ignore[call-overload]
        assert np.array_equal(arrays.x, x.astype(np.float32))


def test_two_dimensions_are_one_feature() -> None:
    assert npz.read(saved(x=X[:, :, 0], y=Y)).x.shape == (4, 3, 1)


def test_without_lengths_every_step_is_valid() -> None:
    arrays = npz.read(saved(x=X, y=Y))
    assert arrays.lengths.tolist() == [3, 3, 3, 3]
    assert arrays.lengths.dtype == np.int64
    assert arrays.split is None


def test_padding_is_zeroed_whatever_it_holds() -> None:
    x = X.copy()
    x[1, 2], x[2, 1:] = np.nan, np.inf
    arrays = npz.read(saved(x=x, y=Y, lengths=np.array([3, 2, 1, 3], dtype=np.uint8)))
    assert not arrays.x[1, 2].any()
    assert not arrays.x[2, 1:].any()
    assert np.array_equal(arrays.x[0], X[0])
    assert np.array_equal(arrays.x[1, :2], X[1, :2])


@pytest.mark.parametrize(
    ("y", "dtype", "expected"),
    [
        (np.array([3, 1, 3, 2], dtype=">i2"), np.int64, ("classes", 3, [1, 2, 3], [1, 1, 2])),
        (np.array([True, False, True, True]), np.int64, ("classes", 2, [0, 1], [1, 3])),
        (np.array(["b", "a", "ü", "b"], dtype=">U4"), np.dtype("U4"), ("classes", 3, ["a", "b", "ü"], [1, 2, 1])),
        (np.array([0.5, 1, 2, 3]), np.float32, ("values", 1, None, None)),
        (np.ones((4, 3), dtype=np.float16), np.float32, ("values", 3, None, None)),
        (np.asfortranarray(np.arange(8).reshape(4, 2)), np.float32, ("values", 2, None, None)),
        (np.eye(4, 3, dtype=np.uint8), np.int64, ("multilabel", 3, None, None)),
        (np.eye(4, 1, dtype=bool), np.int64, ("multilabel", 1, None, None)),
    ],
    ids=str,
)
def test_targets_are_classes_values_or_several_labels(y: NDArray[Any], dtype: Any, expected: tuple[Any, ...]) -> None:
    arrays = npz.read(saved(x=X, y=y))
    summary = npz.summarise(arrays)
    assert arrays.y.dtype == dtype
    assert np.array_equal(arrays.y, y.astype(dtype))
    assert (summary.target, summary.target_dim, summary.classes, summary.class_counts) == expected


@pytest.mark.parametrize(
    "split", [np.array(["train", "validation", "train", "train"]), np.array([0, 1, 0, 0], dtype=">u4")]
)
def test_a_split_is_numbers_or_words(split: NDArray[Any]) -> None:
    arrays = npz.read(saved(x=X, y=np.array([0, 1, 0, 1]), split=split))
    assert arrays.split is not None
    assert arrays.split.dtype == np.int8
    assert arrays.split.tolist() == [0, 1, 0, 0]
    assert npz.summarise(arrays).given_split == {"train": 3, "validation": 1}


@pytest.mark.parametrize("version", [1, 2, 3])
def test_every_version_of_the_header_is_read(version: int) -> None:
    file = zipped({"x.npy": plain("<f4", (4, 3, 2), X.tobytes(), version=version), "y.npy": array(Y)})
    assert np.array_equal(npz.read(file).x, X)


def test_a_path_is_read_as_a_file_is(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(saved(x=X, y=Y).getvalue())
    assert np.array_equal(npz.read(path).x, X)
    with pytest.raises(FileNotFoundError):
        npz.read(tmp_path / "none.npz")


# Round trips


labels = st.one_of(
    st.just(np.dtype(np.int64)),
    arrays_of.unicode_string_dtypes(endianness="=", min_len=1, max_len=8),
    st.just(np.dtype(np.float32)),
)


@st.composite
def data_sets(draw: st.DrawFn) -> npz.Arrays:
    rows, steps, features = (draw(st.integers(low, 6)) for low in (2, 1, 1))
    finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
    x = draw(arrays_of.arrays(np.float32, (rows, steps, features), elements=finite))
    lengths = draw(arrays_of.arrays(np.int64, rows, elements=st.integers(1, steps)))
    x[np.arange(steps) >= lengths[:, np.newaxis]] = 0
    dtype = draw(labels)
    text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=dtype.itemsize // 4)
    elements = {"i": st.integers(-5, 5), "f": finite, "U": text}[dtype.kind]
    y = draw(arrays_of.arrays(dtype, rows, elements=elements))
    split = draw(st.none() | arrays_of.arrays(np.int8, rows, elements=st.integers(0, 2)))
    if dtype.kind != "f":
        y[:2] = [0, 1]
    if split is not None:
        split[:] = np.where(np.isin(y, y[:2]), split, 0)
        split[:2] = 0
    return npz.Arrays(x=x, lengths=lengths, y=y, split=split)


def same(a: npz.Arrays, b: npz.Arrays) -> bool:
    pairs = [(getattr(a, name), getattr(b, name)) for name in ("x", "lengths", "y", "split")]
    return all(
        p is q is None or (p is not None and q is not None and p.dtype == q.dtype and np.array_equal(p, q))
        for p, q in pairs
    )


@given(arrays=data_sets(), compress=st.booleans())
@examples(40)
def test_what_is_written_is_read_back(arrays: npz.Arrays, compress: bool) -> None:
    file = io.BytesIO()
    npz.write(file, arrays, compress=compress)
    assert same(npz.read(file, npz.Limits(plain_labels=False)), arrays)


def test_equal_arrays_give_equal_bytes() -> None:
    def written(seed: int) -> bytes:
        file = io.BytesIO()
        npz.write(file, npz.synthetic(10, 5, 2, 3, seed))
        return file.getvalue()

    assert written(1) == written(1)
    assert written(1) != written(2)


def test_numpy_reads_what_is_written(tmp_path: Path) -> None:
    npz.write(tmp_path / "data.npz", npz.read(VOWELS))
    with np.load(tmp_path / "data.npz", allow_pickle=False) as loaded:
        assert sorted(loaded) == ["lengths", "split", "x", "y"]
        assert loaded["x"].shape == (640, 29, 12)


@given(data=st.data(), compress=st.booleans())
@examples(100)
def test_a_damaged_file_is_read_or_refused_and_nothing_else(data: st.DataObject, compress: bool) -> None:
    content = bytearray(saved(x=X, y=Y, lengths=np.array([1, 2, 3, 3]), compress=compress).getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    with contextlib.suppress(DatasetInvalid):
        npz.read(io.BytesIO(bytes(content[:end])))


# The tutorial's generator


def test_synthetic_data_is_the_same_for_the_same_seed() -> None:
    assert same(npz.synthetic(20, 5, 3, 4, seed=7), npz.synthetic(20, 5, 3, 4, seed=7))
    assert not np.array_equal(npz.synthetic(20, 5, 3, 4, seed=7).x, npz.synthetic(20, 5, 3, 4, seed=8).x)


def test_synthetic_data_is_standard_normal_with_every_class() -> None:
    arrays = npz.synthetic(1000, 50, 10, 3, seed=0)
    assert arrays.x.dtype == np.float32
    assert abs(float(arrays.x.mean())) < 0.01
    assert abs(float(arrays.x.std()) - 1) < 0.01
    assert min(npz.summarise(arrays).class_counts or []) > 250
    assert npz.summarise(npz.synthetic(40, 2, 1, 40, seed=0)).classes == list(range(40))
    assert len(npz.summarise(npz.synthetic(3, 2, 1, 40, seed=0)).classes or []) == 3


def test_synthetic_data_passes_its_own_reader() -> None:
    arrays, file = npz.synthetic(30, 5, 2, 3, seed=0), io.BytesIO()
    npz.write(file, arrays)
    assert same(npz.read(file, npz.Limits(plain_labels=False)), arrays)


# Contents that are wrong: which rows, and the way out


def with_nan(rows: list[int], size: int = 300, value: float = np.nan) -> NDArray[np.float64]:
    x = np.ones((size, 3, 2))
    x[rows, 1, 1] = value
    return x


def fit_for(size: int) -> dict[str, Any]:
    return {"y": np.arange(size) % 2, "lengths": np.full(size, 2)}


BAD_CONTENTS: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "NaN": ({"x": with_nan([40, 3, 17]), **fit_for(300)}, "/x", ("rows 3, 17 and 40 (3 in all) hold NaN or infinity",)),
    "one infinity": ({"x": with_nan([3], 4, -np.inf), "y": Y}, "/x", ("row 3 holds", "`lengths`")),
    "beyond float32": ({"x": with_nan([2], 4, 1e300), "y": Y}, "/x", ("row 2 holds", "beyond float32")),
    "many rows": (
        {"x": with_nan(list(range(12, 212))), **fit_for(300)},
        "/x",
        ("rows 12, 13, 14, 15, 16, 17, 18, 19, 20, 21 and 190 more (200 in all)",),
    ),
    "objects": (
        {"x": X, "y": np.array([0, "a", None, 1], dtype=object)},
        "/y",
        ("never unpickled", "np.array(y.tolist())"),
    ),
    "ragged": (
        {"x": np.array([np.ones(2), np.ones(3)], dtype=object), "y": [0, 1]},
        "/x",
        ("pad sequences", "`lengths`"),
    ),
    "records": ({"x": np.zeros(4, dtype=[("a", "f4"), ("b", "f4")]), "y": Y}, "/x", ("several fields", "astype")),
    "text as x": ({"x": X.astype(str), "y": Y}, "/x", ("type text", "x.astype(np.float32)")),
    "bytes as y": ({"x": X, "y": np.array([b"a", b"b", b"a", b"b"])}, "/y", ("type bytes", "text for classes")),
    "dates": ({"x": X, "y": np.zeros(4, dtype="M8[s]")}, "/y", ("type datetime64[s]",)),
    "complex": ({"x": X.astype(complex), "y": Y}, "/x", ("type complex128",)),
    "float lengths": ({"x": X, "y": Y, "lengths": np.ones(4)}, "/lengths", ("type float64", "dtype=np.int64")),
    "long strings": ({"x": X, "y": np.array(["a" * 300] * 4)}, "/y", ("1 to 256 characters",)),
    "half a character": ({"x": X, "y": np.array(["a", "\ud800", "b", "c"])}, "/y", ("not text",)),
    "NUL in a label": ({"x": X, "y": np.array(["a", "b\0c", "b", "c"])}, "/y", ("not text",)),
    "huge labels": ({"x": X, "y": np.array([0, 1, 2**64 - 1, 0], dtype=np.uint64)}, "/y", ("64 bits",)),
    "four dimensions": ({"x": X[np.newaxis], "y": Y}, "/x", ("(1, 4, 3, 2)", "(samples, length, features)")),
    "one dimension": ({"x": X[:, 0, 0], "y": Y}, "/x", ("(4,)",)),
    "a scalar": ({"x": X, "y": np.array(3)}, "/y", ("()",)),
    "2-d text": ({"x": X, "y": np.array([["a"], ["b"], ["a"], ["b"]])}, "/y", ("(4, 1)",)),
    "no features": ({"x": X[:, :, :0], "y": Y}, "/x", ("no features",)),
    "no steps": ({"x": X[:, :0], "y": Y}, "/x", ("no time steps",)),
    "zero lengths": (
        {"x": X, "y": Y, "lengths": [3, 0, 1, -1]},
        "/lengths",
        ("zero-length sequences: rows 1 and 3 (2 in all)",),
    ),
    "lengths beyond x": ({"x": X, "y": Y, "lengths": [3, 4, 1, 1]}, "/lengths", ("beyond the 3 time steps", "row 1")),
    "fewer y": ({"x": X, "y": Y[:3]}, "/y", ("y has 3 rows but x has 4",)),
    "steps first": (
        {"x": np.zeros((3, 4, 2)), "y": Y},
        "/y",
        ("y has 4 rows but x has 3", "if x is (steps, samples, features), save x.transpose(1, 0, 2)"),
    ),
    "features before steps": (
        {"x": np.zeros((4, 2, 3)), "y": Y, "lengths": [3, 3, 1, 2]},
        "/lengths",
        ("beyond the 2 time steps", "if x is (samples, features, steps), save x.transpose(0, 2, 1)"),
    ),
    "fewer lengths": ({"x": X, "y": Y, "lengths": [3, 3]}, "/lengths", ("lengths has 2 rows but x has 4",)),
    "fewer split": ({"x": X, "y": Y, "split": [0, 0, 2]}, "/split", ("split has 3 rows but x has 4",)),
    "NaN targets": ({"x": X, "y": [0.5, np.nan, 1, np.inf]}, "/y", ("rows 1 and 3 (2 in all) hold NaN",)),
    "NaN in 2-d targets": ({"x": X, "y": np.where(np.eye(4, 2), np.nan, 0)}, "/y", ("rows 0 and 1",)),
    "one class": ({"x": X, "y": [7, 7, 7, 7]}, "/y", ("one class only, 7", "astype(np.float32)")),
    "column of classes": ({"x": X, "y": [[1], [2], [3], [1]]}, "/y", ("y.ravel()",)),
    "unseen labels": (
        {"x": X, "y": [0, 1, 7, 7], "split": [0, 0, 1, 2]},
        "/y",
        ("missing from training, 7,", "rows 2 and 3 (2 in all)"),
    ),
    "unseen words": (
        {"x": X, "y": ["a", "b", "c", "d"], "split": ["train", "train", "test", "train"]},
        "/y",
        ("'c'", "row 2"),
    ),
    "no training rows": ({"x": X, "y": Y, "split": [1, 2, 1, 2]}, "/split", ("no row is for training",)),
    "unknown splits": (
        {"x": X, "y": Y, "split": [0, 3, -1, 0]},
        "/split",
        ("rows 1 and 2 (2 in all) hold -1, 3: give 0, 1 and 2",),
    ),
    "unknown split words": (
        {"x": X, "y": Y, "split": ["train", "train", "dev", "train"]},
        "/split",
        ("row 2 holds 'dev'", "validation"),
    ),
    "no rows": ({"x": X[:0], "y": Y[:0]}, "", ("empty",)),
    "no y": ({"x": X}, "/y", ("y is missing", "np.savez")),
    "a stray array": ({"x": X, "y": Y, "weights": Y}, "/weights", ("'weights'", "leave it out")),
}


@pytest.mark.parametrize("case", BAD_CONTENTS)
def test_a_bad_data_set_is_refused_with_the_rows_and_a_way_out(case: str) -> None:
    arrays, pointer, words = BAD_CONTENTS[case]
    found = problems(saved(**arrays))
    assert list(found) == [pointer]
    for word in words:
        assert word in found[pointer]


def test_every_problem_is_reported_at_once() -> None:
    x = with_nan([1], 5)
    file = saved(x=x, y=Y, lengths=[3, 3, 0, 4, 3], split=[0, 0, 0, 9, 0], z=[1])
    with pytest.raises(DatasetInvalid) as caught:
        npz.read(file)
    assert [problem.pointer for problem in caught.value.problems] == [
        "/z",
        "/y",
        "/lengths",
        "/lengths",
        "/x",
        "/split",
    ]
    assert caught.value.message.startswith("The data set has 6 problems; the first: 'z'")


def test_an_array_under_another_name_is_to_be_renamed() -> None:
    assert problems(saved(X=X, labels=Y)) == {
        "/X": "'X' is no array of a data set: rename X to x",
        "/labels": "'labels' is no array of a data set: rename labels to y",
    }
    assert "leave it out" in problems(saved(x=X, y=Y, labels=Y))["/labels"]


def test_an_array_that_cannot_be_read_hides_no_other() -> None:
    file = saved(x=X, y=np.array([None] * 4, dtype=object), lengths=[0, 1, 2, 3], split=[0, 5, 0, 0])
    assert set(problems(file)) == {"/y", "/lengths", "/split"}


# Files that mean harm


def test_a_header_that_asks_for_32_gib_is_refused_from_the_header() -> None:
    header = plain("<f8", (1 << 16, 1 << 8, 1 << 8))
    assert len(header) == 128
    file = zipped({"x.npy": header, "y.npy": array(Y)})
    assert peak(lambda: problems(file)) < 1 << 20
    assert "asks for 34,359,738,496 bytes" in problems(file)["/x"]


def test_no_object_is_ever_unpickled(tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (marker,)

    content = pickle.dumps(np.array([Harmful()], dtype=object))
    for name in ("x", "y", "lengths", "split"):
        members = {"x.npy": array(X), "y.npy": array(Y), f"{name}.npy": plain("|O", (4,), content)}
        assert "never unpickled" in problems(zipped(members))[f"/{name}"]
    assert "not a .npy array" in problems(zipped({"x.npy": content, "y.npy": array(Y)}))["/x"]
    assert problems(io.BytesIO(content)).keys() == {""}
    assert not marker.exists()
    pickle.loads(content)  # noqa: S301 - the harm was real
    assert marker.exists()


def test_a_bomb_is_refused_for_its_ratio() -> None:
    file = zipped({"x.npy": plain("<f4", (64, 1 << 10, 256), bytes(64 << 20)), "y.npy": array(Y)}, zipfile.ZIP_DEFLATED)
    assert len(file.getvalue()) < 100_000
    assert peak(lambda: problems(file)) < 1 << 20
    assert "300 are allowed: save it uncompressed" in problems(file)["/x"]


def test_a_bomb_behind_a_small_header_is_refused() -> None:
    file = zipped({"x.npy": plain("<f4", (4, 3, 2), bytes(8 << 20)), "y.npy": array(Y)}, zipfile.ZIP_DEFLATED)
    assert "but there are" in problems(file)["/x"]


def forged(file: io.BytesIO, name: str, offset: int, layout: str, value: int) -> io.BytesIO:
    """Change a field of a member's record in the directory."""
    content = bytearray(file.getvalue())
    start = content.index(b"PK\x01\x02")
    while content[start + 46 : start + 46 + len(name)] != name.encode():
        start = content.index(b"PK\x01\x02", start + 1)
    struct.pack_into(layout, content, start + offset, value)
    return io.BytesIO(bytes(content))


@pytest.mark.parametrize("flag", [0x1, 0x41])
def test_an_encrypted_array_is_refused(flag: int) -> None:
    assert "encrypted" in problems(forged(saved(x=X, y=Y), "x.npy", 8, "<H", flag))["/x"]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_only_what_numpy_writes_is_expanded(method: int) -> None:
    assert "compressed in a way" in problems(zipped({"x.npy": array(X), "y.npy": array(Y)}, method))["/x"]


def test_a_forged_size_is_refused_before_it_is_allocated() -> None:
    header = plain("<f4", (1 << 10, 1 << 8, 1 << 9))
    file = zipped({"x.npy": header + b"stray", "y.npy": array(np.arange(1 << 10) % 2)}, zipfile.ZIP_DEFLATED)
    lying = forged(file, "x.npy", 24, "<L", len(header) + (1 << 29))
    assert peak(lambda: problems(lying)) < 1 << 20
    assert "expands" in problems(lying)["/x"]
    stored = forged(zipped({"x.npy": header, "y.npy": array(Y)}), "x.npy", 24, "<L", len(header) + (1 << 29))
    assert "two sizes" in problems(stored)["/x"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_array_that_is_there_twice_is_refused() -> None:
    assert "twice" in problems(zipped([("x.npy", array(X)), ("y.npy", array(Y)), ("x.npy", array(X))]))["/x"]


def test_overlapping_members_are_refused() -> None:
    file = saved(x=X, y=Y)
    assert "overlap" in problems(forged(file, "y.npy", 42, "<L", 0))[""]
    assert "overlap" in problems(forged(file, "y.npy", 42, "<L", 17))[""]


@pytest.mark.parametrize("entries", [1_000_000, 3])
def test_a_million_members_are_refused_without_reading_them(entries: int) -> None:
    """The count may tell the truth or lie: the size of the directory is looked at as well."""
    record = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"x"
    size = len(record) * 1_000_000
    end = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, entries, entries, size, 0)
    end += struct.pack("<4sLQL", b"PK\x06\x07", 0, size, 1)
    end += struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    file = io.BytesIO(record * 1_000_000 + end)
    assert peak(lambda: problems(file)) < 1 << 20
    assert f"{entries:,} members" in problems(file)[""]


def test_a_directory_with_too_many_members_is_refused() -> None:
    assert "17 members" in problems(zipped({f"{n}.npy": b"" for n in range(17)}))[""]


@pytest.mark.parametrize("name", ["../x.npy", "x.npy/", "C:\\x.npy", "x", "X.npy", "x.npz", "a/~b.npy", "é" * 300])
def test_members_of_other_names_are_refused_by_name(name: str) -> None:
    found = problems(zipped({"x.npy": array(X), "y.npy": array(Y), name: array(Y)}))
    assert len(found) == 1
    assert repr(name.removesuffix(".npy")[:64]) in str(*found.values())
    assert all(len(detail) < 300 for detail in found.values())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK",
        b"x,y\n1,2\n" * 10,
        array(X),
        saved(x=X, y=Y).getvalue()[:-1],
        saved(x=X, y=Y).getvalue()[:200],
        saved(x=X, y=Y).getvalue() + b"more",
        b"prefix" + saved(x=X, y=Y).getvalue(),
        saved(x=X, y=Y).getvalue()[:-2] + b"\x04\0note",
    ],
)
def test_what_is_no_npz_file_is_refused(content: bytes) -> None:
    assert "np.savez" in problems(io.BytesIO(content))[""]


def test_a_name_that_differs_between_directory_and_member_is_refused_in_few_words() -> None:
    file = zipped({"x.npy": array(X), "é" * 30_000: array(Y)})
    content = bytearray(file.getvalue())
    record = content.index("é".encode() * 30_000, content.index(b"PK\x01\x02")) - 46
    content[record + 28 : record + 30] = struct.pack("<H", 5)
    content[record + 46 : record + 46 + 60_000] = b"y.npy"
    content[-10:-6] = struct.pack("<L", struct.unpack("<L", content[-10:-6])[0] - 59_995)
    assert len(problems(io.BytesIO(bytes(content)))["/y"]) < 300


def test_a_wrong_checksum_is_refused() -> None:
    for file in (saved(x=X, y=Y), saved(x=X, y=Y, compress=True)):
        assert "damaged" in problems(forged(file, "x.npy", 16, "<L", 1))["/x"]
        assert "damaged" in problems(forged(file, "y.npy", 16, "<L", 1))["/y"]


def test_a_compressed_array_that_ends_too_soon_is_refused() -> None:
    whole = array(X)
    file = zipped({"x.npy": whole[:-4], "y.npy": array(Y)}, zipfile.ZIP_DEFLATED)
    lying = forged(forged(file, "x.npy", 24, "<L", len(whole)), "x.npy", 16, "<L", zlib.crc32(whole[:-4]))
    assert "too soon" in problems(lying)["/x"]


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 3, 2), 'more': 1}",
        "{'descr': '<f4', 'fortran_order': 0, 'shape': (4, 3, 2)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 3, -2)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 3, True)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 3, 2.0)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 3, 1" + "0" * 400 + ")}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': " + "(" * 150 + ")" * 150 + "}",
        "{'descr': '<f16', 'fortran_order': False, 'shape': (4, 3, 2)}",
        "{'descr': '<f', 'fortran_order': False, 'shape': (4, 3, 2)}",
        "{'descr': '<f4, <f4', 'fortran_order': False, 'shape': (4, 3, 2)}",
        "{'descr': '|V4', 'fortran_order': False, 'shape': (4, 3, 2)}",
        "{'descr': ('<f4', (4,)), 'fortran_order': False, 'shape': (4, 3, 2)}",
        "{'descr': __import__('os'), 'fortran_order': False, 'shape': (4, 3, 2)}",
        "[1]",
        "{[]: 1}",
        "-" * 4000,
        "(" * 4000,
        "x" * 5000,
        "",
    ],
    ids=lambda header: header[-40:],
)
def test_a_header_that_is_not_numpys_is_refused(header: str) -> None:
    for version in (1, 2, 3):
        file = zipped({"x.npy": npy(header, X.tobytes(), version), "y.npy": array(Y)})
        assert problems(file).keys() == {"/x"}


def test_a_header_of_four_gib_is_refused_unread() -> None:
    header = b"\x93NUMPY\x02\0" + struct.pack("<L", 0xFFFFFFFF) + bytes(64 << 20)
    file = zipped({"x.npy": header, "y.npy": array(Y)}, zipfile.ZIP_DEFLATED)
    assert peak(lambda: problems(file)) < 1 << 20
    assert "header is 4,294,967,295 bytes long" in problems(file)["/x"]


# Limits and memory


@pytest.mark.parametrize(
    ("limits", "pointers", "words"),
    [
        (npz.Limits(max_bytes=127), {""}, "take 128 bytes, and at most 127 are allowed"),
        (npz.Limits(max_samples=3), {"/x", "/y"}, "4 samples, and at most 3"),
        (npz.Limits(max_length=2), {"/x"}, "3 time steps, and at most 2"),
        (npz.Limits(max_features=1), {"/x"}, "2 features, and at most 1"),
        (npz.Limits(max_classes=1), {"/y"}, "more than 1 classes"),
    ],
)
def test_the_limits_hold(limits: npz.Limits, pointers: set[str], words: str) -> None:
    found = problems(saved(x=X, y=Y), limits)
    assert found.keys() == pointers
    assert words in str(found)
    assert npz.read(saved(x=X, y=Y), npz.Limits(128, 4, 3, 2, 2))


def test_small_numbers_count_as_what_they_become() -> None:
    assert "take 128 bytes" in problems(saved(x=X.astype(np.int8), y=Y.astype(np.int8)), npz.Limits(max_bytes=64))[""]


def test_wide_labels_are_checked_without_copies_of_them(tmp_path: Path) -> None:
    y = np.array([f"{row % 50:0>200}" for row in range(40_000)])
    split = np.arange(40_000) % 3
    split[y == y[7]], split[7] = 1, 2
    path = tmp_path / "data.npz"
    np.savez(path, x=np.ones((40_000, 1)), y=y, split=split)
    assert peak(lambda: problems(path)) < y.nbytes + (20 << 20)  # sorting them all at once would take 32 MB more
    assert "and 790 more (800 in all)" in problems(path)["/y"]
    np.savez(path, x=np.ones((40_000, 1)), y=y)
    assert npz.summarise(npz.read(path)).class_counts == [800] * 50


@pytest.mark.parametrize("bad", [False, True])
@pytest.mark.parametrize("compress", [False, True])
def test_reading_takes_the_memory_of_the_result_and_little_more(bad: bool, compress: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((10_000, 16, 16)).astype(np.float64)
    if bad:
        x[::2, 0, 0] = np.nan
    path = tmp_path / "data.npz"
    (np.savez_compressed if compress else np.savez)(
        path, x=x, y=np.arange(10_000) % 7, lengths=rng.integers(1, 17, 10_000)
    )
    took = peak(lambda: problems(path) if bad else npz.read(path))
    assert took < x.size * 4 + (4 << 20)  # float64 as stored would take twice the result


def test_the_tutorials_data_are_read_in_milliseconds(tmp_path: Path) -> None:
    """About 1 ms where nothing else runs; the bound is for machines where much does."""
    path, seconds = tmp_path / "data.npz", []
    npz.write(path, npz.synthetic(1000, 50, 10, 2, seed=0))
    for _ in range(10):
        start = time.perf_counter()
        npz.read(path)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.02


def test_the_readme_shows_how_to_make_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, snippet = (ROOT / "examples" / "README.md").read_text().partition("```python\n")
    monkeypatch.chdir(tmp_path)
    exec(snippet.partition("```")[0], {})  # noqa: S102 - our own text
    summary = npz.summarise(npz.read(tmp_path / "mine.npz"))
    assert (summary.samples, summary.features, summary.classes) == (200, 3, ["down", "up"])


def sizes(scales: NDArray[Any], **changes: Any) -> Arrays:
    """Sequences of noise of these sizes, with a second feature that is constant."""
    x = np.random.default_rng(0).normal(size=(len(scales), 30, 2)) * scales[:, None, None]
    x[:, :, 1] = 7.0
    plain = {"lengths": np.full(len(scales), 30), "y": np.arange(len(scales)) % 2}
    return Arrays(x=x.astype(np.float32), **(plain | changes))


def test_the_spread_says_how_much_more_some_sequences_vary_than_others() -> None:
    scales = np.repeat([1.0, 5000.0], 20)
    assert npz.summarise(sizes(np.ones(40))).spread == pytest.approx(1.3, abs=0.3)
    assert npz.summarise(sizes(scales)).spread == pytest.approx(5000, rel=0.5)
    assert npz.summarise(sizes(scales[10:29])).spread is None  # too few
    assert npz.summarise(sizes(np.zeros(40))).spread is None


def test_the_spread_knows_nothing_of_the_test_of_gaps_and_of_what_lies_behind_the_end() -> None:
    scales = np.repeat([1.0, 5000.0], 20)
    split = np.repeat(np.array([0, 2], np.int8), 20)
    assert npz.summarise(sizes(scales, split=split)).spread == pytest.approx(1.3, abs=0.3)
    gaps = sizes(np.ones(40))
    gaps.x[::2, 3], gaps.x[5] = np.nan, np.nan
    gaps.x[:, 20:] = 1e6
    gaps = replace(gaps, lengths=np.full(40, 20))
    assert npz.summarise(gaps).spread == pytest.approx(1.4, abs=0.3)


def test_the_spread_of_steps_in_a_file_is_the_same(tmp_path: Path) -> None:
    arrays = sizes(np.geomspace(1, 1e4, 40))
    path = tmp_path / "steps"
    path.write_bytes(arrays.x[:, :20].tobytes())
    steps = FileSteps.of(path, 0, np.dtype(np.float32), 2, np.full(40, 20))
    short = replace(arrays, lengths=np.full(40, 20))
    assert npz.summarise(replace(short, x=steps)).spread == npz.summarise(short).spread
