"""Turns what Python programs hold into files that can be uploaded: tables, arrays and folders."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loopline.errors import BadRequest

NEEDS = 'Uploading a table from memory needs pyarrow: pip install "loopline[files]".'


def as_file(data: Any, folder: Path) -> Path:
    """A file in the folder with the content of a table (pandas, polars, pyarrow), of a numpy array, of a mapping of
    arrays (x, y, lengths, split), or of a folder of files.

    Raises BadRequest when it is none of these.
    """
    if isinstance(data, Path):
        return _zipped(data, folder / f"{data.name}.zip")
    if isinstance(data, Mapping):
        return _arrays(data, folder / "data.npz")
    if type(data).__module__.partition(".")[0] == "numpy" and hasattr(data, "dtype"):
        import numpy as np

        np.save(folder / "data.npy", data, allow_pickle=False)
        return folder / "data.npy"
    return _table(data, folder / "data.parquet")


def _table(data: Any, path: Path) -> Path:
    """Pandas, polars and pyarrow all show their columns as an Arrow stream (the Arrow PyCapsule interface)."""
    if not hasattr(data, "__arrow_c_stream__"):
        raise BadRequest(
            f"Cannot upload a {type(data).__name__}: give a path, a table of pandas, polars or pyarrow, a numpy array, "
            "or a mapping with the arrays x and y."
        )
    try:
        import pyarrow as pa

        from loopline.files import frames
    except ImportError:
        raise BadRequest(NEEDS) from None
    try:
        frames.write(pa.table(data), path)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise BadRequest(
            f"This table cannot be read ({str(error)[:200]}): give columns of numbers or words."
        ) from error
    return path


def _arrays(data: Mapping[str, Any], path: Path) -> Path:
    import numpy as np

    arrays = {name: np.asarray(values) for name, values in data.items()}
    objects = [name for name, values in arrays.items() if values.dtype.hasobject]
    if objects:
        raise BadRequest(f"{', '.join(objects)} cannot be uploaded: give arrays of numbers or of words.")
    np.savez(path, **arrays)  # type: ignore[arg-type]  # its own options are of other kinds
    return path


def _zipped(folder: Path, path: Path) -> Path:
    """The files of a folder, in their order by name. Links and hidden files stay behind."""
    found = [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.is_symlink()]
    shown = [file for file in found if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
    if not shown:
        raise BadRequest(f"The folder {folder} holds no files.")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for file in shown:
            archive.write(file, file.relative_to(folder).as_posix())
    return path
