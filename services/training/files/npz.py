"""Data sets as `.npz` files: read with care, written canonically, drawn at random.

    x        numbers, (samples, length, features), or (samples, length) for one feature
    y        integers or strings (samples,): classes; integers or strings (samples, length), or (samples, length, 1):
             tags, a class for each step; 0 and 1 (samples, k): multilabel; floats (samples,) or (samples, k): values
    lengths  integers (samples,), optional: the valid steps of each row; what follows them is padding
    split    0, 1, 2 or "train", "validation", "test" (samples,), optional

`archive.py` describes and loads the arrays; here they are held to the limits and their contents are checked.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from loopline.files import rounding
from loopline.files.sequences import Column
from loopline.preprocessing.tokens import counts
from numpy.typing import NDArray

from services.training.files import grouping, scan, series
from services.training.files.archive import (
    BROKEN,
    MEMBERS,
    Findings,
    Member,
    checked_start,
    damaged,
    load,
    members,
    opened,
)
from services.training.files.arrays import Arrays as Arrays
from services.training.files.grouping import Groups
from services.training.files.steps import FileSteps, OpenFile, blocks_of
from services.training.files.summary import Columns, DatasetSummary, Grouping, TextSummary
from services.training.tasks import known

SPLITS = ("train", "validation", "test")  # a row's split is an index into this
SPREAD_LEAST, SPREAD_SAMPLES, SPREAD_STEPS = 20, 500, 1000
"""Of how many sequences, and of how many steps of each, it is measured how much more some vary than others."""

_RATIO_FROM = 16 << 20  # smaller members may be compressed as far as deflate goes: they cost little


@dataclass(frozen=True)
class Limits:
    """The most that `read` takes; checked before anything is allocated."""

    max_bytes: int = 1 << 30  # all arrays together once read, or as stored where that is more
    max_samples: int = 10_000_000
    max_length: int = 100_000
    max_features: int = 10_000  # also the most targets in a row of y
    max_classes: int = 10_000
    max_ratio: int = 300  # expanded to compressed bytes, for arrays above 16 MiB
    plain_labels: bool = True  # False takes labels with something hidden in them, as uploads could have


_DEFAULT = Limits()
NO_ROWS: NDArray[np.int64] = np.empty(0, np.int64)


def read(
    file: Path | BinaryIO,
    limits: Limits = _DEFAULT,
    *,
    admit: Callable[[int], object] | None = None,
    in_file_from: int | None = None,
) -> Arrays:
    """Read and check an `.npz` from a path or a seekable binary file.

    Takes the memory of the result and a few MiB. `admit` is called with the most bytes that the arrays can take, after
    the headers were found valid and before anything is allocated. An `x` of `in_file_from` bytes or more stays in the
    file at this path, if it is float32 and not compressed.

    Raises:
        DatasetInvalid: with every problem at once, each with its array and the first ten rows concerned, from 0 on.
        OSError: the file itself cannot be read.
    """
    findings = Findings()
    found: dict[str, NDArray[Any] | FileSteps] = {}
    with opened(file) as archive:
        wanted = _within(members(archive, findings), limits, findings)
        path = file if isinstance(file, Path) else None
        in_file = [member for member in wanted if path and _stays_in_file(member, in_file_from)]
        if wanted and admit:
            admit(sum(member.cost for member in wanted if member not in in_file))
        for member in wanted:
            try:
                if path and member in in_file:
                    found[member.name] = _steps(path, archive, member)
                else:
                    found[member.name] = _loaded(archive, member)
            except BROKEN as error:
                findings.add(member.name, damaged(member.name, error))
    arrays = _checked(found, limits, findings)
    if arrays is None or findings.problems:
        raise findings.error()
    return arrays


def _stays_in_file(member: Member, from_bytes: int | None) -> bool:
    """Whether an array is read when it is needed: it is x, large, and in the file as it would be in memory."""
    if member.name != "x" or from_bytes is None or member.cost < from_bytes:
        return False
    is_plain = member.info.compress_type == zipfile.ZIP_STORED and not member.fortran_order
    return is_plain and member.dtype.str == "<f4" and 0 not in member.shape


def _steps(path: Path, archive: zipfile.ZipFile, member: Member) -> FileSteps:
    """x in its file, as if each sequence were as long as the longest. Raises one of BROKEN where its bytes or checksum
    are wrong."""
    samples, longest, features = (*member.shape, 1)[:3]
    starts = np.arange(samples, dtype=np.int64) * longest
    lengths = np.full(samples, longest, np.int64)
    return FileSteps(OpenFile(path), checked_start(archive, member), member.dtype, features, starts, lengths, longest)


def _loaded(archive: zipfile.ZipFile, member: Member) -> NDArray[Any]:
    """An array; `x` in float64 where float32 cannot hold the differences of a feature."""
    if member.name != "x" or member.dtype.str[1:] in rounding.EXACT:
        return load(archive, member)
    sample = rounding.Sample(member.shape, member.dtype, fortran_order=member.fortran_order)
    array = load(archive, member, sample=sample)
    if not rounding.lost(sample.values):
        return array
    del array  # before there is another, twice as large
    return load(archive, member, target=np.float64)


def write(path: Path | BinaryIO, arrays: Arrays, *, compress: bool = False) -> None:
    """Write a data set; equal arrays give equal bytes, so that their hash can name them."""
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in MEMBERS:
            values = getattr(arrays, name)
            if values is None:
                continue
            info = zipfile.ZipInfo(f"{name}.npy")  # dated 1980, not now
            info.compress_type = method
            info.external_attr = 0o644 << 16
            with archive.open(info, "w", force_zip64=values.nbytes >= 1 << 31) as stream:
                np.lib.format.write_array(stream, np.ascontiguousarray(values), version=(1, 0), allow_pickle=False)


def synthetic(samples: int, length: int, features: int, classes: int, seed: int) -> Arrays:
    """Draw the tutorial's data: standard normal x, and labels that have nothing to do with it.

    Every label from 0 to `classes` - 1 occurs, where there are samples enough. The same arguments give the same
    arrays (numpy's PCG64).
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    x = rng.standard_normal((samples, length, features), dtype=np.float32)
    y = rng.integers(classes, size=samples, dtype=np.int64)
    rows = rng.permutation(samples)[:classes]
    y[rows] = np.arange(rows.size)
    return Arrays(x=x, lengths=np.full(samples, length, dtype=np.int64), y=y)


def summarise(arrays: Arrays) -> DatasetSummary:
    """Count what a data set holds."""
    y, split = arrays.y, arrays.split
    task = known.of_y(y)
    described = task.described(y, arrays.lengths)
    given = None
    if split is not None:
        rows = np.bincount(split, minlength=len(SPLITS)).tolist()
        given = {name: count for name, count in zip(SPLITS, rows, strict=True) if count}
    samples, _, features = arrays.x.shape
    lengths, size, texts = arrays.lengths, 4 * arrays.x.size, None
    if arrays.texts is not None:
        lengths, texts = _of_texts(arrays.texts)
        features, size = 1, sum(len(text.encode()) for text in arrays.texts)
    return DatasetSummary(
        samples=samples,
        features=features,
        max_length=int(lengths.max()),
        min_length=int(lengths.min()),
        target=task.name,
        classes=described.classes,
        class_counts=described.class_counts,
        target_dim=described.width,
        given_split=given,
        bytes=size,
        inputs=None if arrays.features is None or texts else _counted(arrays.x, arrays.features),
        static=None if arrays.static is None else _counted(arrays.static, arrays.static_columns),
        series=series.summarised(arrays),
        texts=texts,
        groups=[
            _grouped(grouping.by(arrays, column), names=names) for column, names in grouping.columns(arrays).items()
        ],
        times=None if arrays.ends is None else len(np.unique(arrays.ends)),
        spread=None if texts else _spread(arrays),
    )


MOST_SIZES = 1000
"""Of groups by a column, for which a summary has the size of each."""


def _grouped(groups: Groups, *, names: bool) -> Grouping:
    count = len(groups.names)
    sizes = np.bincount(groups.of, minlength=count).tolist() if count <= MOST_SIZES else None
    return Grouping(column=groups.column, groups=count, names=names, sizes=sizes)


def _spread(arrays: Arrays) -> float | None:
    """See `DatasetSummary.spread`. It looks at `SPREAD_SAMPLES` sequences at equal distances in their order, and of
    each at the first `SPREAD_STEPS` steps."""
    columns = arrays.features or ()
    numbers = [place for place, column in enumerate(columns) if column.kind != "category"]
    rows = (
        np.arange(len(arrays.lengths)) if arrays.split is None else np.flatnonzero(arrays.split != SPLITS.index("test"))
    )
    if len(rows) < SPREAD_LEAST or (columns and not numbers):
        return None
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), SPREAD_SAMPLES)).astype(np.int64)]
    lengths = np.minimum(arrays.lengths[rows], SPREAD_STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # sequences without a single value
        found = [
            np.nanstd(_first(arrays.x, row, length), axis=0, dtype=np.float64)
            for row, length in zip(rows, lengths, strict=True)
        ]
        low, high = np.nanquantile(found, (0.1, 0.9), axis=0)[:, numbers or slice(None)]
    ratios = high[low > 0] / low[low > 0]
    return float(np.median(ratios)) if len(ratios) and np.isfinite(ratios).all() else None


def _first(x: NDArray[Any] | FileSteps, row: np.int64, steps: np.int64) -> NDArray[Any]:
    """The first steps of a sequence: (steps, features)."""
    if isinstance(x, FileSteps):
        one = replace(x.chosen(np.array([row])), lengths=np.array([steps]))
        found: NDArray[Any] = one.padded(np.array([0]), int(steps))[0]
    else:
        found = x[row, :steps]
    return found


def _of_texts(texts: NDArray[np.object_]) -> tuple[NDArray[np.int64], TextSummary]:
    """The characters of each text, and how long the texts are in words. An empty text counts as one of each."""
    characters, words = np.maximum(np.array([counts(text) for text in texts], np.int64), 1).T
    return characters, TextSummary(
        characters=int(characters.sum()),
        words=int(words.sum()),
        longest_in_words=int(words.max()),
        shortest_in_words=int(words.min()),
        median_in_words=int(np.median(words)),
    )


def _counted(values: NDArray[Any] | FileSteps, columns: tuple[Column, ...]) -> Columns:
    """What the columns of values (..., columns) are."""
    missing = np.zeros(len(columns), np.bool_)
    for _, block in blocks_of(values):
        missing |= np.isnan(block).reshape(-1, len(columns)).any(axis=0)
    words = [len(column.categories or ()) for column in columns if column.kind == "category"]
    return Columns(numbers=len(columns) - len(words), categories=words, gaps=int(missing.sum()))


def _within(described: list[Member], limits: Limits, findings: Findings) -> list[Member]:
    """The arrays to load: none of them where one is over a limit."""
    before = len(findings.problems)
    total = sum(member.cost for member in described)
    if total > limits.max_bytes:
        findings.add(
            "",
            f"the arrays take {total:,} bytes, and at most {limits.max_bytes:,} are allowed: save x as float32,"
            " use shorter windows, or take a sample of the rows",
        )
    steps = next((member.shape[1] for member in described if member.name == "x"), None)
    for member in described:
        _check_shape(member, steps, limits, findings)
        stored, expanded = member.info.compress_size, member.info.file_size
        if expanded > _RATIO_FROM and expanded > stored * limits.max_ratio:
            findings.add(
                member.name,
                f"{member.name} expands {expanded // max(stored, 1):,} times, and {limits.max_ratio} are allowed: "
                "save it uncompressed, with np.savez",
            )
    return [] if len(findings.problems) > before else described


def _check_shape(member: Member, steps: int | None, limits: Limits, findings: Findings) -> None:
    by_step = len(member.shape) == 3 or member.shape[1:] == (steps,)
    most = {
        "x": (
            ("samples", limits.max_samples),
            ("time steps", limits.max_length),
            ("features", limits.max_features),
        ),
        "y": (
            ("samples", limits.max_samples),
            ("time steps", limits.max_length) if by_step else ("targets", limits.max_features),
            ("classes a step", 1),
        ),
    }.get(member.name, (("samples", limits.max_samples),))
    for size, (what, limit) in zip(member.shape, most, strict=False):
        if size > limit:
            findings.add(member.name, f"{member.name} has {size:,} {what}, and at most {limit:,} are allowed")
        elif size == 0 and what != "samples":
            findings.add(member.name, f"{member.name} has no {what}: its shape is {member.shape}")


def _checked(read: dict[str, NDArray[Any] | FileSteps], limits: Limits, findings: Findings) -> Arrays | None:
    """Check the contents, put them into their final form and note what is wrong; None where x or y is missing."""
    x = read.get("x")
    found = {name: array for name, array in read.items() if isinstance(array, np.ndarray)}
    y = found.get("y")
    if isinstance(x, np.ndarray) and x.ndim == 2:
        x = x[:, :, np.newaxis]
    _check_row_counts(read, findings)
    lengths = _lengths(found.get("lengths"), x, findings)
    if isinstance(x, FileSteps) and lengths is not None:
        x = replace(x, lengths=np.clip(lengths, 1, x.longest))
    if x is not None:
        _check_x(x, lengths, findings)
    split = _split(found.get("split"), findings)
    if y is not None:
        steps = None if x is None else x.shape[1]
        y = known.of_y(y, steps).checked(y, lengths, steps, split, limits, findings)
    if x is None or y is None or lengths is None:
        return None
    return Arrays(x=x, lengths=lengths, y=y, split=split)


def _check_row_counts(found: dict[str, NDArray[Any] | FileSteps], findings: Findings) -> None:
    counts = {name: len(found[name]) for name in MEMBERS if name in found}
    first, rows = next(iter(counts.items()), ("", 0))
    if counts and not any(counts.values()):
        findings.add("", "the data set is empty: save at least two rows of each class")
    for name, count in counts.items():
        if count != rows:
            swapped = name == "y" and first == "x" and count == found["x"].shape[1]
            so = "; if x is (steps, samples, features), save x.transpose(1, 0, 2)" if swapped else ""
            findings.add(
                name, f"{name} has {count:,} rows but {first} has {rows:,}: save one for each row of {first}{so}"
            )


def _lengths(
    lengths: NDArray[Any] | None, x: NDArray[Any] | FileSteps | None, findings: Findings
) -> NDArray[np.int64] | None:
    """The valid steps of each row; None where they do not fit x."""
    if lengths is None:
        return None if x is None else np.full(len(x), x.shape[1], dtype=np.int64)
    if (lengths < 1).any():
        rows = scan.marked(lengths < 1)
        findings.add("lengths", f"zero-length sequences: {rows}; leave these rows out, or give the steps they have")
    if x is None:
        return None
    if (lengths > x.shape[1]).any():
        rows = scan.marked(lengths > x.shape[1])
        swapped = int(lengths.max()) == x.shape[2]
        so = "; if x is (samples, features, steps), save x.transpose(0, 2, 1)" if swapped else ""
        findings.add("lengths", f"lengths beyond the {x.shape[1]:,} time steps of x: {rows}; lower them, or pad x{so}")
    return lengths if len(lengths) == len(x) else None


def _check_x(x: NDArray[Any] | FileSteps, lengths: NDArray[np.int64] | None, findings: Findings) -> None:
    """Zero the padding, then look for numbers that are not finite."""
    if lengths is not None and isinstance(x, np.ndarray):
        _zero_padding(x, lengths)
    rows = np.sort(np.concatenate([NO_ROWS, *(some[scan.not_finite(block)] for some, block in blocks_of(x))]))
    if rows.size:
        way_out = "fill these steps, or leave the rows out"
        if lengths is None or (lengths == x.shape[1]).all():
            way_out += "; where they are padding, say so with `lengths`"
        findings.add(
            "x", f"{scan.holding(rows)} NaN or infinity within their length (or numbers beyond float32): {way_out}"
        )


def _zero_padding(x: NDArray[Any], lengths: NDArray[np.int64]) -> None:
    steps = x.shape[1]
    for start, stop in scan.blocks(x):
        some = lengths[start:stop]
        if (some < steps).any():
            x[start:stop][np.arange(steps) >= some[:, np.newaxis]] = 0


def _split(split: NDArray[Any] | None, findings: Findings) -> NDArray[np.int8] | None:
    """The split of each row, and -1 where it cannot be read."""
    if split is None:
        return None
    indices = np.full(len(split), -1, dtype=np.int8)
    for index, name in enumerate(SPLITS):
        indices[split == (name if split.dtype.kind == "U" else index)] = index
    if (indices < 0).any():
        findings.add(
            "split",
            f"{scan.holding(np.flatnonzero(indices < 0))} {scan.some(split[indices < 0])}: give 0, 1 and 2, or the "
            "words train, validation and test",
        )
    elif len(split) and not (indices == 0).any():
        findings.add("split", "no row is for training: give some rows the split 0, or leave split out")
    return indices
