"""The files in a folder or in a zip, each with its name. Nothing is unpacked to where a name says."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import IO, BinaryIO, cast

from loopline.files.limits import Limits
from loopline.files.problems import Findings, refuse
from loopline.files.source import FREE_BYTES, Source, too_large

_IGNORED = ("__macosx", "thumbs.db", "desktop.ini", "readme", "license", "licence")
_ARCHIVES = (".zip", ".gz", ".7z", ".rar", ".tar", ".tgz", ".bz2", ".xz", ".zst")
_MOST_DIRECTORY = 64 << 20
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LONGEST_NAME = 1000


@dataclass(frozen=True)
class Member:
    """A file, and the folders above it within the folder or zip."""

    folders: tuple[str, ...]
    source: Source

    @property
    def name(self) -> str:
        return self.source.name.rsplit("/", 1)[-1]


def of_folder(path: Path, limits: Limits) -> list[Member]:
    """All files below a folder, in the order of their names. Raises FileInvalid for links and too many files."""
    found: list[Member] = []
    findings = Findings()
    total = 0
    for folder, folders, names in os.walk(path):
        folders.sort()
        inner = Path(folder).relative_to(path).parts
        for name in sorted(folders):
            if (Path(folder) / name).is_symlink():
                findings.add("/".join((*inner, name)), "this is a link. Links are not followed: put the files here.")
        for name in sorted(names):
            if _is_ignored((*inner, name)):
                continue
            if len(found) == limits.max_files:
                raise refuse("", f"the folder has more than {limits.max_files:,} files, which is the limit.")
            full = "/".join((*inner, name))
            if (Path(folder) / name).is_symlink():
                findings.add(full, "this is a link. Links are not followed: put the file here.")
                continue
            source = Source.of(Path(folder) / name, full)
            total += source.size
            found.append(Member(inner, source))
    findings.check()
    if total > limits.max_bytes:
        raise too_large(path.name, limits)
    return _below_common(found)


@contextmanager
def of_zip(path: Path, limits: Limits) -> Iterator[list[Member]]:
    """All files of a zip. Raises FileInvalid for a zip that is damaged, encrypted, too large or names files outside."""
    _check_directory(path)
    try:
        archive = zipfile.ZipFile(path)
    except (
        zipfile.BadZipFile,
        struct.error,
        ValueError,
        OverflowError,
        EOFError,
        OSError,
        NotImplementedError,
    ) as error:
        raise refuse("", f"the zip is damaged ({str(error)[:100]}). Pack it again.") from error
    with archive:
        yield _below_common(_members(archive, path, limits))


def _members(archive: zipfile.ZipFile, path: Path, limits: Limits) -> list[Member]:
    infos = [info for info in archive.infolist() if not info.is_dir()]
    if len(infos) > limits.max_files:
        raise refuse("", f"the zip has {len(infos):,} files; the limit is {limits.max_files:,}. Make several zips.")
    findings = Findings()
    names: set[str] = set()
    found = []
    for info in sorted(infos, key=lambda one: one.filename):
        name = info.filename
        if reason := _reason_against(info):
            findings.add(_printable(name), reason)
        elif name in names:
            findings.add(_printable(name), "the zip has this file twice. Pack it again.")
        elif not _is_ignored(tuple(name.split("/"))):
            found.append(_member(archive, info))
        names.add(name)
    findings.check()
    size, total = path.stat().st_size, sum(info.file_size for info in infos)
    if total > limits.max_bytes:
        raise too_large(path.name, limits)
    if total > max(FREE_BYTES, size * limits.max_ratio):
        raise too_large(path.name, limits, ratio=True)
    return found


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    def opened() -> BinaryIO:
        stream: IO[bytes] = archive.open(info)  # stops at the size that the directory names, which was checked
        return cast(BinaryIO, stream)

    parts = tuple(info.filename.split("/"))
    return Member(parts[:-1], Source("/".join(parts), max(info.compress_size, 1), opened))


def _reason_against(info: zipfile.ZipInfo) -> str | None:
    parts = info.filename.replace("\\", "/").split("/")
    if len(info.filename) > _LONGEST_NAME or not info.filename.isprintable():
        return "the name is too long, or has characters that cannot be shown. Rename the file."
    if parts[0] == "" or ".." in parts or ":" in parts[0] or "\\" in info.filename:
        return "the name points outside of the zip. Pack the folder again, with relative names."
    if stat.S_ISLNK(info.external_attr >> 16):
        return "this is a link. Links are not followed: pack the file itself."
    if info.flag_bits & _ENCRYPTED:
        return "the file is encrypted. Pack it without a password."
    if info.filename.lower().endswith(_ARCHIVES):
        return "this is an archive within the zip. Pack the files themselves."
    return None


def _check_directory(path: Path) -> None:
    """zipfile would read a directory of any size."""
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        start = max(size - _END.size - (1 << 16), 0)
        stream.seek(start)
        tail = stream.read()
        position = tail.rfind(b"PK\x05\x06")
        if position < 0 or len(tail) - position < _END.size:
            raise refuse("", "the zip is cut off: its end is missing. Copy or pack it again.")
        length = _END.unpack_from(tail, position)[5]
        locator = position - 20
        if locator >= 0 and tail[locator : locator + 4] == b"PK\x06\x07":
            stream.seek(min(struct.unpack_from("<Q", tail, locator + 8)[0], size))
            record = stream.read(_END64.size)
            length = _END64.unpack(record)[8] if len(record) == _END64.size else size
    if length > _MOST_DIRECTORY:
        raise refuse("", "the zip is damaged, or its list of files is too long. Pack it again, or make several zips.")


def _is_ignored(parts: tuple[str, ...]) -> bool:
    """What systems leave in folders, and what is written for people."""
    name = parts[-1].lower()
    return any(part.startswith(".") for part in parts) or parts[0].lower() == "__macosx" or name.startswith(_IGNORED)


def _below_common(found: list[Member]) -> list[Member]:
    """Without the folders that all files are in."""
    if not found:
        return found
    first, last = min(member.folders for member in found), max(member.folders for member in found)
    common = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))))
    return [
        Member(one.folders[common:], replace(one.source, name="/".join((*one.folders[common:], one.name))))
        for one in found
    ]


def _printable(name: str) -> str:
    return ascii(name[:100])[1:-1]
