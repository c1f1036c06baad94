"""Unpacks a zip of result files into a folder. Each file is written completely or not at all."""

from __future__ import annotations

import re
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from loopline.errors import BadRequest, DownloadFailed

SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


def into(folder: Path, fetch: Callable[[Path], None]) -> list[Path]:
    """Fetches a zip with `fetch(path)` and unpacks it into the folder, which is created. Returns the files written.

    Each file is first written beside its final path, under a random name that ends in `.part`, and renamed when it is
    complete. So files of an earlier or parallel download are complete at any moment.
    Raises DownloadFailed if the zip is incomplete or contains anything but plain file names.
    """
    with made(folder), _part(folder) as archive:
        fetch(archive)
        return list(_unpacked(archive, folder))


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Creates the folder, and deletes it again if nothing was written into it. Raises BadRequest if it cannot."""
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise BadRequest(f"Cannot write to {folder}: {error.strerror or error}.") from error
    finally:
        if is_new:
            with suppress(OSError):
                folder.rmdir()  # which fails if there is something in it


def whole(path: Path, fetch: Callable[[Path], None]) -> Path:
    """Fetches one file with `fetch(path)`, in whole or not at all."""
    try:
        with _part(path.parent) as part:
            fetch(part)
            part.replace(path)
    except OSError as error:
        raise BadRequest(f"Cannot write {path}: {error.strerror or error}.") from error
    return path


def _unpacked(archive: Path, folder: Path) -> Iterator[Path]:
    try:
        with zipfile.ZipFile(archive) as package:
            members = package.infolist()
            for name in [member.filename for member in members]:
                if not SAFE_NAME.fullmatch(name):
                    raise DownloadFailed(f"The download holds a file named {name!r}; only plain names are unpacked.")
            for member in members:
                yield _extracted(package, member, folder / member.filename)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DownloadFailed(f"The download is not whole: {error}. Try again.") from error


def _extracted(package: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> Path:
    with _part(target.parent) as part:
        with package.open(member) as source, part.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        part.replace(target)
    return target


@contextmanager
def _part(folder: Path) -> Iterator[Path]:
    """A new empty file, which is deleted at the end unless it was renamed."""
    path = folder / f".loopline-{uuid4().hex}.part"
    path.touch(exist_ok=False)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
