"""A zip whose members are neither packed nor scattered: each begins at a multiple of 64 bytes, one behind the other.

So an array in it can be mapped into memory in place. `zipfile` and `np.load` can read it too. What is read is checked
against the size of the file before anything is allocated, because the file may be damaged or hostile.

Format: PKWARE's APPNOTE. The gap before a member is an extra field, as Android's zipalign writes it.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

ALIGNMENT = 64
_ALIGNMENT_FIELD = 0xD935
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_ZIP64_FIELD = struct.Struct("<HHQQ")
_END = struct.Struct("<4s4H2LH")
_END64_BYTES = 56 + 20
"""Of the two records that are before the end if a member, or the whole, is beyond 4 GiB."""
_MOST_MEMBERS = 32
_LONGEST_EXTRA = 256
_IN_ZIP64 = 0xFFFFFFFF
_LARGE = 1 << 31
_CHUNK = 1 << 24


class Damaged(Exception):
    """The file is not one that `write` has written; says why."""


@dataclass(frozen=True)
class Member:
    """Where a member is in the file."""

    name: str
    start: int
    size: int
    crc: int


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """A new archive to write to. If that fails, nothing is left of it."""
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            yield archive
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def write(archive: zipfile.ZipFile, name: str, chunks: Iterable[bytes | memoryview], size: int) -> None:
    """Adds a member of `size` bytes. Equal members in equal order give equal archives."""
    info = zipfile.ZipInfo(name)  # dated 1980, not now
    info.create_system = 3
    info.external_attr = 0o644 << 16
    large = size >= _LARGE
    assert archive.fp is not None  # noqa: S101  (it is open)
    behind = archive.fp.tell() + _LOCAL.size + len(name) + (_ZIP64_FIELD.size if large else 0)
    gap = -behind % ALIGNMENT
    gap += ALIGNMENT if gap < 6 else 0
    info.extra = struct.pack("<HHH", _ALIGNMENT_FIELD, gap - 4, ALIGNMENT).ljust(gap, b"\0")
    with archive.open(info, "w", force_zip64=large) as stream:
        for chunk in chunks:
            stream.write(chunk)


def members(file: BinaryIO, names: Iterable[str]) -> dict[str, Member]:
    """Where the members are. Raises Damaged unless they fill the file, in one piece, and have only these names."""
    end = file.seek(0, 2)
    known = set(names)
    found: dict[str, Member] = {}
    offsets: dict[str, int] = {}
    position = 0
    while (member := _local(file, position, end)) is not None:
        if member.name not in known or member.name in found or len(found) == _MOST_MEMBERS:
            raise Damaged("it has a member that does not belong there")
        offsets[member.name] = position
        found[member.name] = member
        position = member.start + member.size
    _check_directory(file, position, end, found, offsets)
    return found


def _record(file: BinaryIO, position: int, layout: struct.Struct) -> tuple[int, ...] | None:
    """The record at a position, without its signature."""
    file.seek(position)
    data = file.read(layout.size)
    return layout.unpack(data)[1:] if len(data) == layout.size else None


def _signature(file: BinaryIO, position: int) -> bytes:
    file.seek(position)
    return file.read(4)


def _local(file: BinaryIO, position: int, end: int) -> Member | None:
    """The member whose header is at a position, or None if there is none."""
    if _signature(file, position) != b"PK\x03\x04":
        return None
    record = _record(file, position, _LOCAL)
    if record is None:
        raise Damaged("it is cut off")
    _, flags, method, _, _, crc, packed, size, name_bytes, extra_bytes = record
    if flags or method:
        raise Damaged("a member is packed or encrypted")
    if name_bytes > _LONGEST_EXTRA or extra_bytes > _LONGEST_EXTRA:
        raise Damaged("a header is too long")
    name = file.read(name_bytes)
    extra = file.read(extra_bytes)
    if size == _IN_ZIP64:
        place = extra.find(struct.pack("<HH", 1, 16))
        if place < 0 or len(extra) < place + _ZIP64_FIELD.size:
            raise Damaged("a size is missing")
        _, _, size, packed = _ZIP64_FIELD.unpack_from(extra, place)
    start = position + _LOCAL.size + name_bytes + extra_bytes
    if packed != size or size > end - start or start % ALIGNMENT:
        raise Damaged("a member is not where it should be")
    return Member(name.decode("ascii", "replace"), start, size, crc)


def _check_directory(
    file: BinaryIO, position: int, end: int, found: dict[str, Member], offsets: dict[str, int]
) -> None:
    """The directory lists the members that are there, in their order, and ends with the file."""
    for member in found.values():
        record = _record(file, position, _CENTRAL)
        if record is None or _signature(file, position) != b"PK\x01\x02":
            raise Damaged("its directory is missing")
        crc, name_bytes, extra_bytes, comment, offset = record[6], record[9], record[10], record[11], record[15]
        file.seek(position + _CENTRAL.size)
        name = file.read(name_bytes).decode("ascii", "replace")
        if name != member.name or crc != member.crc or offset not in (offsets[name], _IN_ZIP64) or comment:
            raise Damaged("its directory does not fit its members")
        position += _CENTRAL.size + name_bytes + extra_bytes
    if _signature(file, position) == b"PK\x06\x06":
        position += _END64_BYTES
    last = _record(file, position, _END)
    if last is None or _signature(file, position) != b"PK\x05\x06" or last[-1] or position + _END.size != end:
        raise Damaged("its end is missing")


def check_content(file: BinaryIO, member: Member) -> None:
    """Raises Damaged if the bytes of a member are not those that were written."""
    file.seek(member.start)
    crc, left = 0, member.size
    while left and (chunk := file.read(min(left, _CHUNK))):
        crc = zlib.crc32(chunk, crc)
        left -= len(chunk)
    if left or crc != member.crc:
        raise Damaged(f"the bytes of {member.name} have changed")
