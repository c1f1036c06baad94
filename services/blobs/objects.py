"""The object store, in which several hosts share blobs: S3, or a server with the same protocol.

What is large is streamed: a file goes up in parts, an object comes down in blocks, and neither is ever whole in memory.
Every request has its timeouts and a few tries. What the store cannot answer is StorageUnavailable, what it has not is
FileNotFoundError.

s3fs, which takes most of a second to import and keeps a thread for its event loop, is imported and made when a process
first needs it: after any fork, and never where no store is set.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit

from services.errors import StorageUnavailable

if TYPE_CHECKING:
    from s3fs.core import S3FileSystem

    from services.settings import Settings

CONNECT_SECONDS = 5
READ_SECONDS = 30
TRIES = 3
PART_BYTES = 16 << 20
"""A file is sent in parts of this size, one in memory at a time; S3 takes 10,000 of them."""
CONNECTIONS = 256
"""At once, in one process: an API of 64 threads opens all three files of a model before it sends the first."""
REOPENED = 3
"""How often a download goes on after its connection broke."""


class Changed(OSError):
    """A file is not, or no longer, what was said of it."""


@dataclass(frozen=True)
class Object:
    """An object as the store lists it; `modified` is in seconds since 1970 by the store's clock."""

    key: str
    bytes: int
    modified: float


class S3:
    """The objects below one address, `s3://bucket/prefix`; keys are relative to it. Making one touches nothing.

    Without `keys` (an access key and its secret) botocore looks for them where it always does: `AWS_*`, `~/.aws`, the
    machine's role.
    """

    def __init__(
        self,
        url: str,
        *,
        endpoint_url: str | None = None,
        region: str | None = None,
        keys: tuple[str, str] | None = None,
    ) -> None:
        address = urlsplit(url)
        self.bucket = address.netloc
        self._prefix = f"{address.path.strip('/')}/".lstrip("/")
        self._endpoint_url, self._region, self._keys = endpoint_url, region, keys
        self._made: tuple[int, S3FileSystem] | None = None  # by which process
        self._lock = threading.Lock()

    def put(self, path: Path, key: str, sha256: str) -> None:
        """Send a file; its object appears whole or not at all, and replaces an older one.

        Raises:
            Changed: the file has another hash; nothing was stored.
            OSError: it cannot be read, or is gone.
            StorageUnavailable: the store could not take it.
        """
        with path.open("rb") as file:
            part = file.read(PART_BYTES)
            if len(part) < PART_BYTES:
                _check(path, hashlib.sha256(part).hexdigest(), sha256)
                self._call("put_object", Key=key, Body=part)
            else:
                self._put_parts(path, file, part, key, sha256)

    def _put_parts(self, path: Path, file: BinaryIO, part: bytes, key: str, sha256: str) -> None:
        upload = self._call("create_multipart_upload", Key=key)["UploadId"]
        try:
            parts: list[dict[str, Any]] = []
            digest = hashlib.sha256()
            while part:
                digest.update(part)
                number = len(parts) + 1
                sent = self._call("upload_part", Key=key, UploadId=upload, Body=part, PartNumber=number)
                parts.append({"ETag": sent["ETag"], "PartNumber": number})
                part = file.read(PART_BYTES)
            _check(path, digest.hexdigest(), sha256)
            self._call("complete_multipart_upload", Key=key, UploadId=upload, MultipartUpload={"Parts": parts})
        except BaseException:
            with suppress(StorageUnavailable):  # then the sweep does it (`abandon_parts`)
                self._call("abort_multipart_upload", Key=key, UploadId=upload)
            raise

    def open(self, key: str, start: int = 0, stop: int | None = None) -> Reading:
        """An object, or its bytes from `start` to before `stop`, to be read in blocks; close it in the end.

        Raises:
            FileNotFoundError: there is no such object.
            StorageUnavailable: the store cannot answer.
        """
        return Reading(self, key, start, stop)

    def has(self, key: str, seconds: float | None = None) -> bool:
        """Whether there is such an object. Raises StorageUnavailable, after so many seconds at the latest."""
        try:
            self._call("head_object", missing=True, timeout=seconds, Key=key)
        except FileNotFoundError:
            return False
        return True

    def list(self, prefix: str) -> Iterator[Object]:
        """Every object whose key begins so. Raises StorageUnavailable."""
        for page in self._pages("list_objects_v2", prefix, "ContinuationToken", "NextContinuationToken"):
            for found in page.get("Contents", ()):
                key = found["Key"].removeprefix(self._prefix)
                yield Object(key, found["Size"], found["LastModified"].timestamp())

    def folders(self, prefix: str) -> Iterator[str]:
        """The names that stand between `prefix` and the next slash, each once. Raises StorageUnavailable."""
        pages = self._pages("list_objects_v2", prefix, "ContinuationToken", "NextContinuationToken", Delimiter="/")
        for page in pages:
            for found in page.get("CommonPrefixes", ()):
                yield found["Prefix"].removeprefix(self._prefix + prefix).rstrip("/")

    def delete(self, keys: Iterable[str], seconds: float | None = None) -> None:
        """Delete objects; one that is not there is no mistake. Raises StorageUnavailable, for each object after so many
        seconds at the latest.

        One by one: not every server takes the checksum of a request to delete many, and some do not know it at all.
        """
        for key in keys:
            self._call("delete_object", timeout=seconds, Key=key)

    def abandon_parts(self, before: float) -> int:
        """Give up uploads that began before then (seconds since 1970); returns how many. Raises StorageUnavailable."""
        abandoned = 0
        for page in self._pages("list_multipart_uploads", "", "KeyMarker", "NextKeyMarker"):
            for upload in page.get("Uploads", ()):
                if upload["Initiated"].timestamp() < before:
                    key = upload["Key"].removeprefix(self._prefix)
                    self._call("abort_multipart_upload", Key=key, UploadId=upload["UploadId"])
                    abandoned += 1
        return abandoned

    def check(self, seconds: float) -> None:
        """A question that costs the store little. Raises StorageUnavailable when there is no answer in time."""
        self._call("list_objects_v2", timeout=seconds, Prefix=self._prefix, MaxKeys=1)

    def _pages(self, method: str, prefix: str, ask: str, marker: str, **also: Any) -> Iterator[Mapping[str, Any]]:
        more: dict[str, Any] = {}
        while True:
            page = self._call(method, Prefix=self._prefix + prefix, **also, **more)
            yield page
            if not page.get("IsTruncated"):
                return
            more = {ask: page[marker]}

    def _call(
        self, method: str, *, missing: bool = False, timeout: float | None = None, **arguments: Any
    ) -> Mapping[str, Any]:
        """One request, tried a few times. Where something may be `missing`, FileNotFoundError says that it is."""
        from fsspec.asyn import sync

        if "Key" in arguments:
            arguments["Key"] = self._prefix + arguments["Key"]
        with _translated(missing=missing):
            system = self._system()
            answer: Mapping[str, Any] = sync(
                system.loop, system._call_s3, method, Bucket=self.bucket, **arguments, timeout=timeout
            )
        return answer

    def _system(self) -> S3FileSystem:
        with self._lock:
            if self._made is None or self._made[0] != os.getpid():
                self._made = (os.getpid(), self._make())
            return self._made[1]

    def _make(self) -> S3FileSystem:
        from s3fs.core import S3FileSystem

        access, secret = self._keys or (None, None)
        made = S3FileSystem(
            key=access,
            secret=secret,
            endpoint_url=self._endpoint_url,
            client_kwargs={"region_name": self._region} if self._region else {},
            config_kwargs={
                "connect_timeout": CONNECT_SECONDS,
                "read_timeout": READ_SECONDS,
                "max_pool_connections": CONNECTIONS,
                "retries": {"total_max_attempts": TRIES, "mode": "standard"},
                # Not every server knows the checksums that AWS asks for by itself; ours are in the database.
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
            },
            skip_instance_cache=True,
            use_listings_cache=False,
        )
        made.retries = 1  # botocore tries again already
        made.connect()  # half a second of reading what services there are, and no request: it counts for no timeout
        return made


class Reading:
    """An object that is being read: one request, a block at a time. It goes on where it stood when that breaks off."""

    def __init__(self, store: S3, key: str, start: int, stop: int | None) -> None:
        self._store, self._key, self._at, self._stop = store, key, start, stop
        self._etag: str | None = None
        self._left_to_reopen = REOPENED
        self._body: Any = None
        self._open()
        self.bytes: int = self._left
        """How many there are to be read in all."""

    def _open(self) -> None:
        end = "" if self._stop is None else self._stop - 1
        only: dict[str, Any] = {"Range": f"bytes={self._at}-{end}"} if self._at or self._stop is not None else {}
        same: dict[str, Any] = {"IfMatch": self._etag} if self._etag else {}
        answer = self._store._call("get_object", missing=True, Key=self._key, **only, **same)
        self._body, self._etag, self._left = answer["Body"], answer["ETag"], int(answer["ContentLength"])

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end.

        Raises:
            FileNotFoundError: it was deleted meanwhile.
            StorageUnavailable: the store has gone away meanwhile.
        """
        from fsspec.asyn import sync

        while self._left:
            try:
                if self._body is None:
                    self._open()
                with _translated():
                    block: bytes = sync(self._store._system().loop, self._body.read, min(size, self._left))
                    if not block:
                        raise ConnectionError("it ended too soon")
            except StorageUnavailable:
                self.close()
                if not self._left_to_reopen:
                    raise
                self._left_to_reopen -= 1
                continue
            self._at, self._left = self._at + len(block), self._left - len(block)
            return block
        return b""

    def close(self) -> None:
        """Let the connection go."""
        if (body := self._body) is not None:
            self._body = None
            loop = self._store._system().loop
            loop.call_soon_threadsafe(body.close)


def from_settings(settings: Settings) -> S3 | None:
    """The store that the settings name, if any."""
    if settings.blobs_url is None:
        return None
    return S3(
        settings.blobs_url,
        endpoint_url=settings.s3_endpoint_url,
        region=settings.s3_region,
        keys=settings.s3_keys,
    )


def _check(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise Changed(f"{path.name} has another hash")


@contextmanager
def _translated(*, missing: bool = False) -> Iterator[None]:
    """StorageUnavailable for whatever kept the store from answering. The client of a service learns no more than the
    kind of it; the log has the cause."""
    from aiohttp import ClientError as Broken
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (OSError, BotoCoreError, ClientError, Broken) as error:
        refusal = error if isinstance(error, ClientError) else error.__cause__
        code = refusal.response.get("Error", {}).get("Code") if isinstance(refusal, ClientError) else None
        if missing and isinstance(error, FileNotFoundError) and code != "NoSuchBucket":
            raise
        raise StorageUnavailable(
            f"The object store cannot answer now ({code or type(error).__name__}); try again in a few seconds."
        ) from error
