"""Pieces: the answers to some neighbouring sequences of a file, each piece a Parquet file of its own.

    answers-000000000-000000256.parquet   the answers to the first 256 sequences, those from 0 to 255

The supervisor registers pieces like checkpoints. An attempt keeps the unbroken run of pieces from the first sequence on
that are on the disk as they were registered, even if another version has cut them. Then it cuts and computes the rest,
and joins all pieces to one file.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from loopline.prediction.answers import Answer, words
from loopline.prediction.given import MOST_AT_ONCE
from numpy.typing import NDArray

from services.errors import CheckpointCorrupt
from services.training import checkpoint
from services.training.messages import File

Floats = NDArray[np.floating[Any]]
NAME = re.compile(r"answers-(\d{9,12})-(\d{9,12})\.parquet")
FEWEST, MOST, PIECES = MOST_AT_ONCE, 10_000, 20
"""Sequences of a piece, at least and at most, and the number of pieces in between. A model computes the fewest at a
time."""
MOST_PIECES = 1000
"""A file that would have many more gets larger pieces. Each is a row, a file and a transaction."""
NUMBERED = {"tagging": "step", "forecast": "step", "next_step": "rank"}
"""By task, the column that counts the rows of each sequence from 1 on. Other tasks have one row for each sequence."""


@dataclass(frozen=True)
class Piece:
    """The answers to the sequences from `first` to before `end`."""

    first: int
    end: int
    file: File


def name_of(first: int, end: int) -> str:
    return f"answers-{first:09d}-{end:09d}.parquet"


def write(folder: Path, first: int, end: int, answer: Answer) -> Piece:
    """Writes the answers to some sequences. Raises OSError."""
    stream = io.BytesIO()
    pa.parquet.write_table(answer.to_arrow(), stream)
    return Piece(first, end, checkpoint.write_atomically(folder / name_of(first, end), stream.getvalue()))


def read(folder: Path, piece: Piece, task: str) -> pa.Table:
    """The answers of a piece.

    Raises CheckpointCorrupt if the file is gone, is not as it was registered, or answers more or fewer sequences.
    """
    file = piece.file
    try:
        data = (folder / file.name).read_bytes()
    except OSError as error:
        raise CheckpointCorrupt(f"The piece {file.name} cannot be read: {error.strerror}.") from error
    if len(data) != file.bytes or hashlib.sha256(data).hexdigest() != file.sha256:
        raise CheckpointCorrupt(f"The piece {file.name} is damaged: it is not as it was written.")
    table = pa.parquet.read_table(pa.BufferReader(data))
    found, wanted = _sequences(table, task), piece.end - piece.first
    if found != wanted:
        raise CheckpointCorrupt(f"The piece {file.name} answers {found:,} sequences, not {wanted:,}.")
    return table


def _sequences(table: pa.Table, task: str) -> int:
    counter = NUMBERED.get(task)
    return len(table) if counter is None else int(pc.sum(pc.equal(table[counter], 1)).as_py() or 0)


def unbroken(folder: Path, registered: Sequence[File], task: str, sequences: int) -> list[Piece]:
    """The pieces to keep: of those registered (in their order) the first ones, as long as each begins where the one
    before it ends, none reaches beyond the last of the `sequences`, and all are on the disk as registered."""
    found: list[Piece] = []
    end = 0
    for file in registered:
        match = NAME.fullmatch(file.name)
        piece = Piece(int(match[1]), int(match[2]), file) if match else None
        if piece is None or piece.first != end or not end < piece.end <= sequences:
            break
        try:
            read(folder, piece, task)
        except CheckpointCorrupt:
            break
        found.append(piece)
        end = piece.end
    return found


def cut(effort: Floats, memory: Floats, first: int = 0) -> list[int]:
    """The ends of pieces from the sequence `first` on.

    `effort` and `memory`, (sequences,), are the share of a full piece that each sequence is, by its computation and by
    the size of its answer. A piece has at least FEWEST sequences even if their effort is more than 1, but their memory
    is never more than 1 unless it has a single sequence. If all sequences together are more than MOST_PIECES full
    pieces, full pieces are larger. So there are at most a few times MOST_PIECES.
    """
    sequences = len(effort)
    most = max(min(max(sequences // PIECES, FEWEST), MOST), math.ceil(sequences / MOST_PIECES))
    efforts, memories = (np.cumsum(sizes / max(1.0, float(sizes.sum()) / MOST_PIECES)) for sizes in (effort, memory))
    ends: list[int] = []
    while first < sequences:
        by_effort = max(_full(efforts, first), first + FEWEST)
        by_memory = max(_full(memories, first), first + 1)
        first = min(by_effort, by_memory, first + most, sequences)
        ends.append(first)
    return ends


def _full(sums: Floats, first: int) -> int:
    """The end of a piece that is full, if it begins with the sequence `first`."""
    before = float(sums[first - 1]) if first else 0.0
    return int(np.searchsorted(sums, before + 1.0, side="right"))


def together(folder: Path, pieces: Sequence[Piece], wanted: str, task: str, sequences: int) -> tuple[File, int]:
    """Writes the answers of all pieces to one file of the format `wanted`, csv or parquet; and how many rows it has.

    Raises CheckpointCorrupt if a piece is damaged, or if the pieces do not answer all `sequences`, each once; OSError.
    """
    _check_ends(pieces, sequences)
    path = folder / f"answers.{wanted}"
    part, rows = path.with_name(f"{path.name}.part"), 0
    try:
        with part.open("wb") as stream:
            add, end = (_parquet if wanted == "parquet" else _csv)(stream)
            for piece in pieces:
                table = read(folder, piece, task)
                add(table)
                rows += len(table)
            end()
            stream.flush()
            os.fsync(stream.fileno())
        with part.open("rb") as written:
            digest = hashlib.file_digest(written, "sha256").hexdigest()
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return File(path.name, path.stat().st_size, digest), rows


def _check_ends(pieces: Sequence[Piece], sequences: int) -> None:
    firsts, ends = [piece.first for piece in pieces], [piece.end for piece in pieces]
    if [*firsts, sequences] != [0, *ends]:
        raise CheckpointCorrupt(f"The pieces do not answer each of the {sequences:,} sequences once.")


Writer = tuple[Callable[[pa.Table], object], Callable[[], object]]


def _parquet(stream: Any) -> Writer:
    writers: list[pa.parquet.ParquetWriter] = []

    def add(table: pa.Table) -> None:
        if not writers:
            writers.append(pa.parquet.ParquetWriter(stream, table.schema))
        writers[0].write_table(table)

    return add, lambda: [writer.close() for writer in writers]


def _csv(stream: Any) -> Writer:
    text = io.TextIOWrapper(stream, "utf-8", newline="", write_through=True)
    lines = csv.writer(text)
    names: list[str] = []

    def add(table: pa.Table) -> None:
        if not names:
            names.extend(table.column_names)
            lines.writerow(names)
        lines.writerows(zip(*(words(column.to_pylist()) for column in table.columns), strict=True))

    return add, text.detach
