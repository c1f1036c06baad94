"""Where bytes come from: a file on disk, or a member of an archive; unpacked where they are compressed, and counted."""

from __future__ import annotations

import gzip
import os
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from loopline.files.limits import Limits
from loopline.files.problems import refuse

PIECE = 2 << 20
"""Bytes that are read at a time."""
FREE_BYTES = 16 << 20
"""A file may always unpack to this many bytes."""
GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Source:
    """A file, as its owner names it, which can be read from its beginning any number of times."""

    name: str
    size: int
    """Bytes as stored."""
    open: Callable[[], BinaryIO]
    path: Path | None = None
    """Where it is on this machine, if it is a file of its own."""

    @classmethod
    def of(cls, path: Path, name: str | None = None) -> Source:
        """A regular file. Raises FileInvalid for anything else, such as a link, a pipe or a device."""
        name = name or path.name
        try:
            found = path.lstat()
            if stat.S_ISLNK(found.st_mode) and name == path.name:
                found = path.stat()  # the caller chose it; a link within a folder is refused
        except OSError as error:
            raise refuse(name, f"this file cannot be read ({error.strerror}).") from error
        if not stat.S_ISREG(found.st_mode):
            raise refuse(name, "this is not a regular file. Links, pipes and devices are not read.")
        return cls(name, found.st_size, lambda: path.open("rb"), path)

    def head(self, count: int = 4096) -> bytes:
        with self._opened() as stream:
            return stream.read(count)

    def pieces(self, limits: Limits) -> Iterator[bytes]:
        """The content in pieces of at most 2 MiB, unpacked if it is gzip. Raises FileInvalid at a limit."""
        with self._opened() as raw:
            if self.head(2) != GZIP:
                yield from self._counted(raw, limits, packed=False)
                return
            with gzip.GzipFile(fileobj=raw) as stream:
                yield from self._counted(stream, limits, packed=True)

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        """Open for reading; what goes wrong meanwhile becomes FileInvalid."""
        try:
            with self.open() as stream:
                yield stream
        except EOFError as error:
            raise refuse(self.name, "the file is cut off: its end is missing. Copy or export it again.") from error
        except (gzip.BadGzipFile, zipfile.BadZipFile, zlib.error) as error:
            raise refuse(self.name, f"the packed file is damaged ({error}). Pack it again.") from error
        except NotImplementedError as error:
            raise refuse(
                self.name, f"the file is packed in an unknown way ({error}). Pack it as an ordinary zip."
            ) from error
        except OSError as error:
            raise refuse(self.name, f"this file cannot be read ({error.strerror or error}).") from error

    def _counted(self, stream: BinaryIO | gzip.GzipFile, limits: Limits, *, packed: bool) -> Iterator[bytes]:
        total = 0
        most = min(limits.max_bytes, max(FREE_BYTES, self.size * limits.max_ratio)) if packed else limits.max_bytes
        while piece := stream.read(PIECE):
            total += len(piece)
            if total > most:
                raise too_large(self.name, limits, ratio=packed and most < limits.max_bytes)
            yield piece

    @contextmanager
    def on_disk(self, work: Path, limits: Limits) -> Iterator[Path]:
        """Its path, or a copy in `work` that is deleted afterwards: for readers that must jump about in a file."""
        if self.path is not None:
            yield self.path
            return
        handle, name = tempfile.mkstemp(dir=work, prefix="member-")
        try:
            with os.fdopen(handle, "wb") as copy:
                for piece in self.pieces(limits):
                    copy.write(piece)
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)


def too_large(name: str, limits: Limits, *, ratio: bool = False) -> Exception:
    if ratio:
        return refuse(
            name,
            f"the file unpacks to more than {limits.max_ratio:,} times its size, as no real data does. If it is real,"
            " send it unpacked.",
        )
    return refuse(
        name,
        f"the file has more than {limits.max_bytes:,} bytes of content, which is the limit. Split it, or leave out"
        " columns that no model needs.",
    )
