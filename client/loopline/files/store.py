"""The stored form of a data set: the arrays of `Sequences` in one file, mapped into memory when they are read.

The file is a zip of `.npy` arrays, and `schema.json` with everything else. Equal content gives equal bytes, so a hash
of the file names the content; `Sequences.notes` are not content. `np.load` reads the arrays too. Texts are one array of
UTF-8 bytes, and one of where each of them ends; so are ids.
"""

from __future__ import annotations

import io
import json
import math
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from loopline.files import aligned, stored
from loopline.files.aligned import Damaged, Member
from loopline.files.problems import refuse
from loopline.files.sequences import Column, Sequences

FORMAT = 1
DOCUMENT = "schema.json"
TYPES = {
    "x": ("<f4", "<f8"),
    "lengths": ("<i8",),
    "y": ("<i8", "|i1", "<f8"),
    "static": ("<f8",),
    "weights": ("<f8",),
    "split": ("|i1",),
    "times": ("<i8", "<f8"),
    "id_bytes": ("|u1",),
    "id_ends": ("<i8",),
    "text_bytes": ("|u1",),
    "text_ends": ("<i8",),
}
"""The arrays, in their order in the file, and their types."""
_NAMES = {f"{name}.npy": name for name in TYPES}
_MOST_DOCUMENT = 64 << 20
_MOST_HEADER = 1 << 12
_HEADER = re.compile(
    rb"\{'descr': '([<|]\w{2})', 'fortran_order': False, 'shape': \((\d{1,19}),(?: (\d{1,19}))?\), \} *\n"
)
"""Of an array, as numpy writes it; numpy's own reader would take Python for it."""
_CHUNK = 1 << 22
_FIRST_NAME = 30
"""Where the name of the first file stands in a zip."""
_DAMAGED = (Damaged, ValueError, TypeError, KeyError, OverflowError, EOFError, SyntaxError, RecursionError)


def write(path: Path, sequences: Sequences) -> None:
    """Writes a data set to a new file. If that fails, no file is left."""
    words = json.dumps(_document(sequences), ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    with aligned.opened(path) as archive:
        aligned.write(archive, DOCUMENT, [words], len(words))
        for name, array in _arrays(sequences).items():
            header = _header(array)
            aligned.write(archive, f"{name}.npy", _chunks(header, array), len(header) + array.nbytes)


def is_stored(path: Path) -> bool:
    """Whether a file begins as those of `write` do. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        head = file.read(_FIRST_NAME + len(DOCUMENT))
    return head.startswith(b"PK\x03\x04") and head[_FIRST_NAME:] == DOCUMENT.encode()


def read(path: Path, *, mapped: bool = True) -> Sequences:
    """Reads a data set that `write` has written, and checks it.

    With `mapped`, arrays are mapped from the file: they are read from the disk as they are used, so the file must stay.
    Then everything is checked except the bytes of `x`. Nothing is unpickled, and no more is allocated than the file is
    long.

    Raises FileInvalid if the file is damaged or something else, FileNotFoundError if it is not there.
    """
    with path.open("rb") as file:
        try:
            members = aligned.members(file, (DOCUMENT, *_NAMES))
            document = _read_document(file, members)
            arrays: dict[str, NDArray[Any]] = {}
            for file_name, member in members.items():
                if file_name == DOCUMENT:
                    continue
                name = _NAMES[file_name]
                arrays[name] = _array(path, file, member, name, mapped=mapped)
                if name != "x" or not mapped:
                    aligned.check_content(file, member)
            return stored.checked(document, arrays, file.seek(0, 2))
        except _DAMAGED as error:
            why = str(error)[:160] or type(error).__name__
            raise refuse("", f"this is no stored data set, or it is damaged ({why}); upload the file again") from error


# ---- writing


def _document(sequences: Sequences) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "schema": sequences.schema.document(),
        "features": [_of_column(column) for column in sequences.features],
        "static": [_of_column(column) for column in sequences.static_columns],
        "targets": sequences.targets,
        "target_names": list(sequences.target_names),
        "classes": None if sequences.classes is None else list(sequences.classes),
        "time_kind": sequences.time_kind,
        **({} if sequences.zoned is None else {"zoned": sequences.zoned}),
    }


def _of_column(column: Column) -> dict[str, Any]:
    categories = None if column.categories is None else list(column.categories)
    return {"name": column.name, "kind": column.kind, "categories": categories}


def _arrays(sequences: Sequences) -> dict[str, NDArray[Any]]:
    found = {name: getattr(sequences, name) for name in ("x", "lengths", "y", "static", "weights", "split", "times")}
    for name, words in (("id", sequences.ids), ("text", sequences.texts)):
        if words is not None:
            found[f"{name}_bytes"], found[f"{name}_ends"] = _joined([str(word) for word in words])
    return {name: np.asarray(array) for name in TYPES if (array := found.get(name)) is not None}


def _joined(words: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    coded = [word.encode() for word in words]
    ends = np.cumsum([len(word) for word in coded], dtype=np.int64)
    return np.frombuffer(b"".join(coded), np.uint8), ends


def _header(array: NDArray[Any]) -> bytes:
    header = io.BytesIO()
    described = {"descr": array.dtype.newbyteorder("<").str, "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(header, described)
    return header.getvalue()


def _chunks(header: bytes, array: NDArray[Any]) -> Iterator[bytes]:
    yield header
    rows = max(1, _CHUNK // max(1, array.nbytes // max(1, len(array))))
    for start in range(0, len(array) if array.size else 0, rows):
        chunk = array[start : start + rows].astype(array.dtype.newbyteorder("<"))
        if chunk.dtype.kind == "f":
            chunk[np.isnan(chunk)] = np.nan  # there are many, which differ in their bits
        yield chunk.tobytes()


# ---- reading


def _read_document(file: BinaryIO, members: dict[str, Member]) -> dict[str, Any]:
    member = members[DOCUMENT]
    if member.size > _MOST_DOCUMENT:
        raise Damaged("its schema is too long")
    aligned.check_content(file, member)
    file.seek(member.start)
    document = json.loads(file.read(member.size))
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise Damaged(f"it has no schema of the format {FORMAT}")
    return document


def _array(path: Path, file: BinaryIO, member: Member, name: str, *, mapped: bool) -> NDArray[Any]:
    file.seek(member.start)
    head = file.read(min(member.size, _MOST_HEADER))
    magic, (length,) = head[:8], struct.unpack("<H", head[8:10].ljust(2, b"\0"))
    written = _HEADER.fullmatch(head[10 : 10 + length])
    if magic != b"\x93NUMPY\1\0" or written is None or (type_ := written[1].decode()) not in TYPES[name]:
        raise Damaged(f"{name} is no array, or one of another type")
    dtype, shape = np.dtype(type_), tuple(int(size) for size in written.groups()[1:] if size is not None)
    if 10 + length + math.prod(shape) * dtype.itemsize != member.size:
        raise Damaged(f"{name} has another size than its shape")
    start = member.start + 10 + length
    if not math.prod(shape):
        return np.zeros(shape, dtype)
    if mapped:
        return np.memmap(path, dtype, "r", start, shape)
    file.seek(start)
    return np.frombuffer(bytearray(file.read(member.size - 10 - length)), dtype).reshape(shape)
