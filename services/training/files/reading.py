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
from services.training.files.sequences import arrays


def read(
    path: Path,
    limits: Limits,
    schema: Mapping[str, Any] | None = None,
    check: Callable[[Sequences], object] = lambda found: None,
) -> Arrays:
    """The arrays in a file. `schema` has the fields of a `loopline.files.schema.Schema` that are not to be inferred.
    `check` is called with sequences before they are padded, and may raise.

    Raises DatasetInvalid, OSError.
    """
    if store.is_stored(path):
        try:
            stored = store.read(path)
        except FileInvalid as error:
            raise DatasetInvalid(str(error), [Problem("/data/dataset", str(error))]) from error
        check(stored)
        return arrays(stored)
    if is_npz(path):
        return npz.read(path, limits)
    from services.training.files import tables

    with tempfile.TemporaryDirectory(prefix="loopline-") as work:
        found = tables.read(path, Path(work), schema or {}, limits.max_bytes).sequences
        assert found is not None, "tables.read() raises otherwise"  # noqa: S101
        check(found)
        return arrays(found)


def is_npz(path: Path) -> bool:
    """Whether a file is a zip of arrays."""
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        return any(name.endswith(".npy") for name in archive.namelist())
    return False
