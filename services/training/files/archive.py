"""The arrays of a stranger's `.npz`, described before they are read.

Nothing is unpickled, and nothing is allocated on a file's word alone: what the zip directory declares, what the `.npy`
header implies and how many compressed bytes there are must agree first. Contents stream through small chunks into
their final type, so that loading takes the memory of the result and about a MiB more.

Formats: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html and PKWARE's APPNOTE (zip).
"""

from __future__ import annotations

import ast
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from loopline.files.rounding import Sample
from numpy.typing import NDArray

from services.errors import DatasetInvalid, Problem

MEMBERS = ("x", "y", "lengths", "split")
SAVE_AGAIN = "save it with np.savez_compressed(path, x=x, y=y)"

_MAX_ENTRIES = 16  # more than MEMBERS, so that stray arrays can be named
_MAX_DIRECTORY = 1 << 16
_MAX_HEADER = 1 << 12  # numpy writes 118 bytes for a plain array
_MAX_LABEL = 256  # characters
_CHUNK = 1 << 18  # bytes read at a time: fits the second-level cache

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCAL = struct.Struct("<4s5H3L2H")
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_DESCR = re.compile(r"([<>|=]?)([A-Za-z?])([0-9]{0,5})(?:\[.{0,16}\])?")
_ITEM_SIZES = {"f": (2, 4, 8), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "b": (1,), "U": range(4, 4 * _MAX_LABEL + 1, 4)}
_KINDS = {"x": "fiub", "y": "fiubU", "lengths": "iu", "split": "iuU"}
_DIMENSIONS = {"x": (2, 3), "y": (1, 2, 3), "lengths": (1,), "split": (1,)}
_SHAPES = {
    "x": "(samples, length, features), or (samples, length) for one feature",
    "y": "(samples,), (samples, targets), or (samples, length) for a class for each step",
    "lengths": "(samples,)",
    "split": "(samples,)",
}
_MEANT = dict.fromkeys(("label", "labels", "target", "targets"), "y") | {name: name for name in MEMBERS}
_RECAST = {
    "x": "save x as numbers, x.astype(np.float32); pad sequences of different lengths with zeros to the longest, and"
    " give their true lengths in `lengths`",
    "y": "save y as whole numbers or text for classes, or as floats for values; np.array(y.tolist()) makes them where"
    " no row is None: give those rows a label or leave them out",
    "lengths": "save lengths as integers: np.asarray(lengths, dtype=np.int64)",
    "split": "save split as integers, 0 train, 1 validation and 2 test, or as those words: np.array(split.tolist())",
}
# What a stranger's bytes make zipfile, zlib, struct and codecs raise.
BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OverflowError)


@dataclass
class Findings:
    """The problems found so far: they are reported together."""

    problems: list[Problem] = field(default_factory=list)

    def add(self, name: str, detail: str) -> None:
        """Note a problem of an array, or of the whole file (an empty name)."""
        pointer = name.replace("~", "~0").replace("/", "~1")
        self.problems.append(Problem(f"/{pointer}" if name else "", detail))

    def error(self) -> DatasetInvalid:
        count, first = len(self.problems), self.problems[0].detail
        head = "The data set is not valid" if count == 1 else f"The data set has {count} problems; the first"
        return DatasetInvalid(f"{head}: {first}", self.problems)


@dataclass(frozen=True)
class Member:
    """One array as its `.npy` header describes it; nothing of it is read yet."""

    name: str
    info: zipfile.ZipInfo
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran_order: bool
    header_bytes: int

    @property
    def target(self) -> np.dtype[Any]:
        """The type it is read into."""
        if self.dtype.kind == "U":
            return self.dtype.newbyteorder("=")
        if self.name == "x":
            return np.dtype(np.float32)
        if self.dtype.kind == "f":
            return np.dtype(np.float64 if self.dtype.itemsize == 8 else np.float32)
        return np.dtype(np.int64)

    @property
    def cost(self) -> int:
        """Bytes once read, or as stored where that is more."""
        return math.prod(self.shape) * max(self.dtype.itemsize, self.target.itemsize)


@contextmanager
def opened(file: Path | BinaryIO) -> Iterator[zipfile.ZipFile]:
    """Open an archive whose directory is small, plain and where it says it is; DatasetInvalid otherwise."""
    if isinstance(file, Path):
        with file.open("rb") as stream, opened(stream) as archive:
            yield archive
        return
    _check_directory(file)
    try:
        archive = zipfile.ZipFile(file)
        _check_entries(file, archive.infolist())
    except BROKEN as error:
        raise _refused(f"the zip file is damaged ({str(error)[:160]}): {SAVE_AGAIN}") from error
    with archive:
        yield archive


def members(archive: zipfile.ZipFile, findings: Findings) -> list[Member]:
    """Describe the arrays that can be read, and note why the others cannot; contents stay unread."""
    infos: dict[str, zipfile.ZipInfo] = {}
    given = {info.filename for info in archive.infolist()}
    renamed: set[str] = set()
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        if info.filename not in (f"{member}.npy" for member in MEMBERS):
            meant = _MEANT.get(name.lower())
            if meant is None or meant in (name, *renamed) or f"{meant}.npy" in given:
                findings.add(name[:64], f"{name[:64]!r} is no array of a data set: leave it out; those are {_NAMES}")
            else:
                renamed.add(meant)
                findings.add(name, f"{name!r} is no array of a data set: rename {name} to {meant}")
        elif name in infos:
            findings.add(name, f"{name} is in the file twice: {SAVE_AGAIN}")
        else:
            infos[name] = info
    for name in ("x", "y"):
        if name not in infos and name not in renamed:
            findings.add(name, f"{name} is missing: {SAVE_AGAIN}")
    found = []
    for name, info in infos.items():
        try:
            found.append(_member(archive, name, info))
        except _Unreadable as error:
            findings.add(name, str(error))
        except BROKEN as error:
            findings.add(name, damaged(name, error))
    return found


def load(
    archive: zipfile.ZipFile, member: Member, *, target: type[np.float64] | None = None, sample: Sample | None = None
) -> NDArray[Any]:
    """Read an array in C order, as `member.target` unless said; a `sample` sees it as it is in the file.

    Raises one of BROKEN where its bytes or checksum are wrong.
    """
    array = np.empty(member.shape, target or member.target)
    # A Fortran-ordered file holds the transposed array in C order; `flat` walks its strides in that order.
    flat = array.T.flat if member.fortran_order and array.ndim > 1 else array.reshape(-1)
    count = _CHUNK // member.dtype.itemsize
    with archive.open(member.info) as stream, np.errstate(over="ignore", invalid="ignore"):
        _exactly(stream, member.header_bytes)
        for start in range(0, array.size, count):
            stop = min(start + count, array.size)
            chunk = np.frombuffer(_exactly(stream, (stop - start) * member.dtype.itemsize), member.dtype)
            _check_representable(chunk, member)
            if sample is not None:
                sample.see(start, chunk)
            flat[start:stop] = chunk
        if stream.read(1):  # also where zipfile compares the checksum of an empty array
            raise EOFError("more bytes than its header says")
    return array


def checked_start(archive: zipfile.ZipFile, member: Member) -> int:
    """Where the numbers of an array that is not compressed begin in the file. Its bytes are read once.

    Raises one of BROKEN where its bytes or checksum are wrong.
    """
    with archive.open(member.info) as stream:
        left = member.info.file_size
        while left:
            left -= len(_exactly(stream, min(left, _CHUNK)))
        if stream.read(1):
            raise EOFError("more bytes than its header says")
    assert archive.fp is not None  # noqa: S101  (it is open)
    record = _record(archive.fp, member.info.header_offset, _LOCAL, b"PK\x03\x04")
    if record is None:
        raise EOFError("it ends too soon")
    return member.info.header_offset + _LOCAL.size + int(record[-2]) + int(record[-1]) + member.header_bytes


def _check_representable(chunk: NDArray[Any], member: Member) -> None:
    if chunk.dtype.kind == "U":
        codes = chunk.astype(member.target, copy=False).view(np.uint32).reshape(chunk.size, -1)
        inner_nul = (codes[:, :-1] == 0) & (codes[:, 1:] != 0)
        if inner_nul.any() or (codes > 0x10FFFF).any() or ((codes >= 0xD800) & (codes < 0xE000)).any():
            raise ValueError("it holds characters that are not text")
    elif chunk.dtype.kind == "u" and member.target == np.int64 and (chunk > np.iinfo(np.int64).max).any():
        raise OverflowError("it holds integers beyond 64 bits with a sign")


def damaged(name: str, error: Exception) -> str:
    return f"{name} is damaged ({str(error)[:160]}): save the file again"


_NAMES = "x, y and, where needed, lengths and split"


class _Unreadable(Exception):
    """An array cannot be read; says why and the way out."""


def _refused(detail: str) -> DatasetInvalid:
    findings = Findings()
    findings.add("", detail)
    return findings.error()


def _check_directory(stream: BinaryIO) -> None:
    """zipfile would read a directory of any size, and look for it behind comments and prefixes; numpy writes none."""
    position = stream.seek(0, 2) - _END.size
    stream.seek(0)
    if stream.read(6) == b"\x93NUMPY":
        raise _refused(f"this is a single .npy array, not an .npz file: {SAVE_AGAIN}")
    record = _record(stream, position, _END, b"PK\x05\x06")
    if record is None:
        raise _refused(f"this is not an .npz file, or its end is missing: {SAVE_AGAIN}")
    disk, _, _, entries, size, offset, comment = record[1:]
    locator = _record(stream, position - _END64_LOCATOR.size, _END64_LOCATOR, b"PK\x06\x07")
    if locator is not None:
        position -= _END64_LOCATOR.size + _END64.size
        record = _record(stream, position, _END64, b"PK\x06\x06")
        if record is None or locator[2] != position:
            raise _refused(f"the zip file's directory is damaged: {SAVE_AGAIN}")
        entries, size, offset = record[7:]
    if entries > _MAX_ENTRIES or size > _MAX_DIRECTORY:
        raise _refused(f"the file's directory is too long ({entries:,} members in {size:,} bytes): save only {_NAMES}")
    if disk or comment or offset + size != position:
        raise _refused(f"the zip file is damaged or holds more than arrays: {SAVE_AGAIN}")


def _record(stream: IO[bytes], position: int, layout: struct.Struct, signature: bytes) -> tuple[Any, ...] | None:
    if position < 0:
        return None
    stream.seek(position)
    data = stream.read(layout.size)
    if len(data) < layout.size or not data.startswith(signature):
        return None
    return layout.unpack(data)


def _check_entries(stream: BinaryIO, infos: list[zipfile.ZipInfo]) -> None:
    """Each member lies behind the one before it, and none reaches into the directory."""
    if len(infos) > _MAX_ENTRIES:
        raise _refused(f"the file holds {len(infos):,} members: save only {_NAMES}")
    behind = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        local = _record(stream, info.header_offset, _LOCAL, b"PK\x03\x04")
        if local is None or info.header_offset < behind:
            raise _refused(f"members of the zip file overlap or are missing: {SAVE_AGAIN}")
        behind = info.header_offset + _LOCAL.size + local[-2] + local[-1] + info.compress_size
    if behind > stream.seek(0, 2) - _END.size:
        raise _refused(f"the zip file is cut off: {SAVE_AGAIN}")


def _member(archive: zipfile.ZipFile, name: str, info: zipfile.ZipInfo) -> Member:
    if info.flag_bits & _ENCRYPTED:
        raise _Unreadable(f"{name} is encrypted: {SAVE_AGAIN}, without a password")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _Unreadable(f"{name} is compressed in a way that numpy does not write: {SAVE_AGAIN}")
    if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
        raise _Unreadable(f"{name} is damaged (two sizes for the same bytes): save the file again")
    with archive.open(info) as stream:
        header, header_bytes = _header(name, stream)
    dtype, shape, fortran_order = _described(name, header)
    implied = header_bytes + math.prod(shape) * dtype.itemsize
    if implied != info.file_size:
        raise _Unreadable(
            f"{name}'s header asks for {implied:,} bytes (shape {shape}, {dtype}), but there are {info.file_size:,}: "
            "save the file again"
        )
    return Member(name, info, dtype, shape, fortran_order, header_bytes)


def _header(name: str, stream: IO[bytes]) -> tuple[object, int]:
    """The literal that describes the array, and the length of all that stands before its data.

    numpy's own reader would read a header of up to 4 GiB before it looks at the length.
    """
    magic = _exactly(stream, 8)
    if magic[:6] != b"\x93NUMPY" or magic[6] not in (1, 2, 3):
        raise _Unreadable(f"{name} is not a .npy array: {SAVE_AGAIN}")
    layout = struct.Struct("<H" if magic[6] == 1 else "<L")
    (length,) = layout.unpack(_exactly(stream, layout.size))
    if length > _MAX_HEADER:
        raise _Unreadable(f"{name}'s header is {length:,} bytes long, at most {_MAX_HEADER:,} here: {_RECAST[name]}")
    text = _exactly(stream, length).decode("utf-8" if magic[6] == 3 else "latin-1")
    try:
        return ast.literal_eval(text.strip()), len(magic) + layout.size + length
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise _Unreadable(f"{name}'s header cannot be read: {SAVE_AGAIN}") from error


def _described(name: str, header: object) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    match header:
        case {"descr": descr, "fortran_order": bool(fortran_order), "shape": tuple(shape), **rest} if not rest:
            pass
        case _:
            raise _Unreadable(f"{name}'s header cannot be read: {SAVE_AGAIN}")
    if any(type(size) is not int or not 0 <= size < 1 << 62 for size in shape):
        raise _Unreadable(f"{name}'s header gives {str(shape)[:64]} as its shape: {SAVE_AGAIN}")
    dtype = _dtype(name, descr)
    if len(shape) not in _DIMENSIONS[name]:
        raise _Unreadable(f"{name} has shape {str(shape)[:64]}: save it as {_SHAPES[name]}")
    return dtype, shape, fortran_order


def _dtype(name: str, descr: object) -> np.dtype[Any]:
    if not isinstance(descr, str):
        raise _Unreadable(f"{name} holds records of several fields: {_RECAST[name]}")
    match = _DESCR.fullmatch(descr)
    if match is None:
        raise _Unreadable(f"{name} has the unknown type {descr[:32]!r}: {_RECAST[name]}")
    order, kind, digits = match.groups()
    if kind == "O":
        raise _Unreadable(f"{name} holds Python objects, which are never unpickled: {_RECAST[name]}")
    size = int(digits or 0) * (4 if kind == "U" else 1)
    if kind not in _KINDS[name]:
        raise _Unreadable(f"{name} has type {_type_name(descr)}: {_RECAST[name]}")
    if size not in _ITEM_SIZES[kind]:
        widest = f"strings of 1 to {_MAX_LABEL} characters" if kind == "U" else "numbers of at most 64 bits"
        raise _Unreadable(f"{name} has type {_type_name(descr)}: save it as {widest}")
    return np.dtype(f"{order}{kind}{digits}")


def _type_name(descr: str) -> str:
    """`float64` for `<f8`, as numpy prints it; text and bytes by those words, their length in characters aside."""
    try:
        dtype = np.dtype(descr)
    except (TypeError, ValueError):
        return repr(descr[:32])
    return {"U": "text", "S": "bytes"}.get(dtype.kind, dtype.name)


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise EOFError("it ends too soon")
    return data
