"""Uploads that arrive in several requests, so that one which is interrupted can be continued.

    uploads/<upload id>.json    who sends it, and how many bytes it will have; later the data set that it became
    uploads/<upload id>.part    the bytes so far

An upload lives on the disk of the host that took its first request. Ids are minted here, never taken from a client.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO

from services import private
from services.blobs.storage import BLOCK_BYTES, Readable, Storage, placed
from services.errors import QuotaExceeded, TooLarge, UploadConflict, UploadNotFound
from services.orm import new_id

KEEP_SECONDS = 86400.0
"""An upload that was not continued for so long is deleted."""
MOST_PER_TENANT = 32
_ID = re.compile(r"upload_[0-9a-hjkmnp-tv-z]{26}")


@dataclass(frozen=True)
class Upload:
    """One upload, as far as it has come."""

    id: str
    tenant: str
    bytes: int
    """How many there will be."""
    began_at: float
    offset: int = 0
    """How many have arrived."""
    dataset_id: str | None = None
    """The data set that it became."""


class Uploads:
    """The uploads of this host. Making it touches nothing."""

    def __init__(self, storage: Storage) -> None:
        self._root = storage.root / "uploads"

    def begin(self, tenant: str, total_bytes: int, *, most_bytes: int) -> Upload:
        """A new upload without bytes.

        Raises TooLarge, and QuotaExceeded if the tenant has MOST_PER_TENANT uploads that have not ended.
        """
        if total_bytes > most_bytes:
            raise TooLarge(f"The upload has {total_bytes:,} bytes, and this service takes at most {most_bytes:,}.")
        self.sweep()
        if sum(1 for one in self._all() if one.tenant == tenant and one.dataset_id is None) >= MOST_PER_TENANT:
            raise QuotaExceeded(
                f"There are {MOST_PER_TENANT} uploads that have not ended: continue or delete one, or wait a day."
            )
        made = Upload(new_id("upload"), tenant, total_bytes, time.time())
        private.folder(self._root)
        self._part(made.id).touch(mode=0o600)
        self._write(made)
        return made

    def get(self, upload_id: str, tenant: str) -> Upload:
        """Raises UploadNotFound, also for another tenant's."""
        found = self._read(upload_id) if _ID.fullmatch(upload_id) else None
        if found is None or found.tenant != tenant:
            raise UploadNotFound
        return found

    def append(self, upload: Upload, offset: int, file: Readable) -> Upload:
        """Adds what a request brings. What has arrived when the request breaks stays.

        Raises:
            UploadConflict: another request is adding to it, or it has not as many bytes as `offset` says.
            TooLarge: the request brings more bytes than the upload was to have.
        """
        with self._alone(upload) as part:
            if part.seek(0, os.SEEK_END) != offset:
                raise UploadConflict(f"This upload has {part.tell():,} bytes; continue from there.")
            while block := file.read(BLOCK_BYTES):
                if part.tell() + len(block) > upload.bytes:
                    raise TooLarge(f"This upload was to have {upload.bytes:,} bytes, and there are more.")
                part.write(block)
            return replace(upload, offset=part.tell())

    @contextmanager
    def whole(self, upload: Upload) -> Iterator[BinaryIO]:
        """The bytes of an upload, for the block. Raises UploadConflict if there are not all of them."""
        with self._alone(upload) as part:
            if part.seek(0, os.SEEK_END) != upload.bytes:
                raise UploadConflict(
                    f"This upload has {part.tell():,} of {upload.bytes:,} bytes; send the others first."
                )
            part.seek(0)
            yield part

    def end(self, upload: Upload, dataset_id: str) -> None:
        """Keeps the id of the data set that it became, for a request that is repeated, and deletes the bytes."""
        self._write(replace(upload, dataset_id=dataset_id))
        self._part(upload.id).unlink(missing_ok=True)

    def delete(self, upload: Upload) -> None:
        for path in (self._part(upload.id), self._about(upload.id)):
            path.unlink(missing_ok=True)

    def sweep(self) -> int:
        """Deletes uploads that nobody has continued for KEEP_SECONDS; returns how many."""
        before, gone = time.time() - KEEP_SECONDS, 0
        for one in self._all():
            with suppress(FileNotFoundError):
                part = self._part(one.id)
                if (part if part.exists() else self._about(one.id)).stat().st_mtime < before:
                    self.delete(one)
                    gone += 1
        return gone

    def _all(self) -> Iterator[Upload]:
        for path in self._root.glob("upload_*.json"):
            if found := self._read(path.stem):
                yield found

    def _read(self, upload_id: str) -> Upload | None:
        try:
            found = Upload(**json.loads(self._about(upload_id).read_text()))
            if found.dataset_id is None:
                found = replace(found, offset=self._part(upload_id).stat().st_size)
        except FileNotFoundError:
            return None
        return found

    def _write(self, upload: Upload) -> None:
        with placed(self._about(upload.id)) as file:
            file.write(json.dumps(asdict(upload)).encode())

    @contextmanager
    def _alone(self, upload: Upload) -> Iterator[BinaryIO]:
        try:
            part = self._part(upload.id).open("r+b")
        except FileNotFoundError:
            raise UploadNotFound from None
        with part:
            try:
                fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UploadConflict("Another request is using this upload; try again in a second.") from None
            yield part

    def _about(self, upload_id: str) -> Path:
        return self._root / f"{upload_id}.json"

    def _part(self, upload_id: str) -> Path:
        return self._root / f"{upload_id}.part"
