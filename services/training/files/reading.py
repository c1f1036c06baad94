"""Reads the data that a job is trained on: a stored data set, or any file that could become one."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from loopline.files import store
from loopline.files.problems import FileInvalid
from loopline.files.sequences import Sequences

from services.errors import DatasetInvalid, Problem
from services.training.files import npz
from services.training.files.npz import Arrays, Limits
from services.training.files.sequences import arrays, stay_in_file


def read(
    path: Path,
    limits: Limits,
    schema: Mapping[str, Any] | None = None,
    check: Callable[[Sequences], object] = lambda found: None,
    in_file_from: int | None = None,
) -> Arrays:
    """The arrays in a file. `schema` has the fields of a `loopline.files.schema.Schema` that are not to be inferred.
    `check` is called with sequences before they are padded, and may raise. Steps of a stored data set, or of an
    `.npz` that is not compressed, stay in the file if they take `in_file_from` bytes or more.

    Raises DatasetInvalid, OSError.
    """
    if store.is_stored(path):
        try:
            stored = store.read(path)
        except FileInvalid as error:
            raise DatasetInvalid(str(error), [Problem("/data/dataset", str(error))]) from error
        if not stay_in_file(stored, in_file_from):
            check(stored)
        return arrays(stored, in_file_from)
    if is_npz(path):
        return npz.read(path, limits, in_file_from=in_file_from)
    from services.training.files import tables

    with tempfile.TemporaryDirectory(prefix="loopline-") as work:
        found = tables.read(path, Path(work), schema or {}, limits.max_bytes, named_in_spec=True).sequences
        assert found is not None, "tables.read() raises otherwise"  # noqa: S101
        check(found)
        return arrays(found)


def is_npz(path: Path) -> bool:
    """Whether a file is a zip of arrays."""
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        return any(name.endswith(".npy") for name in archive.namelist())
    return False
