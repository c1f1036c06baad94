"""`.npy`, one array of numbers, and `.npz`, some of them in a zip."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopline.files.limits import Limits
from loopline.files.problems import refuse
from loopline.files.source import FREE_BYTES, Source, too_large

# What a damaged header makes numpy, ast and tokenize raise.
_BROKEN = (
    ValueError,
    OSError,
    EOFError,
    SyntaxError,
    TypeError,
    OverflowError,
    MemoryError,
    RecursionError,
    TokenError,
)
_BROKEN_ZIP = (
    *(error for error in _BROKEN if error is not MemoryError),
    zipfile.BadZipFile,
    zlib.error,
    RuntimeError,  # zipfile: the file is encrypted
    NotImplementedError,
)
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
SHAPES = "(samples, length, features), or (samples, length) for one feature"


def read(path: Path, limits: Limits = Limits()) -> NDArray[Any]:  # noqa: B008 (it is frozen)
    """(samples, length, features), mapped from the file and not read. Raises FileInvalid."""
    source = Source.of(path)
    if source.head(6) != b"\x93NUMPY":
        raise refuse("", "this is not an .npy array. Save it with np.save.")
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except _BROKEN as error:
        if "Object arrays" in str(error) or "Python objects" in str(error):
            raise refuse(
                "", "the array has Python objects, which are never read. Save it as numbers: x.astype(float)."
            ) from error
        raise refuse(
            "", f"this is not an .npy array, or it is damaged ({str(error)[:120]}). Save it with np.save."
        ) from error
    if array.dtype.kind not in "fiub":
        raise refuse("", f"the array has the type {str(array.dtype)[:60]}. Save it as numbers: x.astype(np.float32).")
    if array.ndim not in (2, 3):
        raise refuse("", f"the array has the shape {array.shape}. Give it {SHAPES}.")
    if not array.size:
        raise refuse("", f"the array is empty: its shape is {array.shape}.")
    if array.nbytes > min(limits.max_bytes, source.size):
        raise too_large(source.name, limits)
    return array if array.ndim == 3 else array[:, :, np.newaxis]


def read_npz(path: Path, names: Sequence[str], limits: Limits = Limits()) -> dict[str, NDArray[Any]]:  # noqa: B008
    """Those arrays of an `.npz` that have one of the names and are there.

    Before any is read, the sizes that the zip declares are compared with the limits, and the size that the header of
    each of these arrays implies with the zip: an array takes no more memory than that.

    Raises FileInvalid, MemoryError.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            total = sum(info.file_size for info in infos)
            if total > limits.max_bytes:
                raise too_large("", limits)
            if total > max(FREE_BYTES, path.stat().st_size * limits.max_ratio):
                raise too_large("", limits, ratio=True)
            wanted = {name: info for name in names for info in infos if info.filename == f"{name}.npy"}
            return {name: _member(archive, info) for name, info in wanted.items()}
    except _BROKEN_ZIP as error:
        raise refuse("", f"the arrays cannot be read ({str(error)[:120]}). Save them with np.savez.") from error


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    """Raises one of _BROKEN_ZIP."""
    with archive.open(info) as stream:
        read_header = _HEADERS.get(np.lib.format.read_magic(stream))
        if read_header is None:
            raise ValueError("an array has the header of an unknown version")
        shape, _, dtype = read_header(stream)
        if not dtype.hasobject and stream.tell() + math.prod(shape) * dtype.itemsize != info.file_size:
            raise ValueError("an array has another size than its header says")
    with archive.open(info) as stream:
        array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array
