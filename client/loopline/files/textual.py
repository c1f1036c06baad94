"""Text of any encoding and any line ends, as blocks of whole lines in UTF-8 that end with a newline."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from loopline.files.limits import Limits
from loopline.files.problems import FileInvalid, refuse
from loopline.files.source import Source

MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins like the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
MOST_MARKS = 4_000_000
"""Rows whose line is remembered one by one, in files whose rows are not lines."""
SAVE_AS_UTF8 = 'Save the file as UTF-8 ("CSV UTF-8" in Excel).'


@dataclass(frozen=True)
class Block:
    """Whole lines, each with a newline, a carriage return nowhere."""

    data: bytes
    line: int
    """The number of its first line; the first of a file is 1."""


@dataclass
class Lines:
    """Which line of the file a row is."""

    starts: list[tuple[int, int]] = field(default_factory=list)
    """First row and first line of each block of rows."""
    within: dict[int, NDArray[np.int32]] = field(default_factory=dict)
    """By the first row of a block: how many lines below the block's first line each row begins."""
    _marks: int = 0

    def add(self, row: int, line: int, offsets: NDArray[np.int32] | None) -> None:
        self.starts.append((row, line))
        if offsets is not None and self._marks < MOST_MARKS:
            self._marks += len(offsets)
            self.within[row] = offsets

    def name(self, row: int) -> str:
        return f"line {self.number(row):,}"

    def number(self, row: int) -> int:
        """After very many rows that are not lines it is a line not far above the row."""
        index = int(np.searchsorted([start for start, _ in self.starts], row, side="right")) - 1
        start, line = self.starts[max(index, 0)]
        offsets = self.within.get(start)
        return line + (row - start if offsets is None or row - start >= len(offsets) else int(offsets[row - start]))


@dataclass
class Text:
    """The lines of a source. `notes` is complete when `blocks` is exhausted."""

    source: Source
    limits: Limits
    notes: list[str] = field(default_factory=list)
    _encoding: str = "utf-8"
    _other: int = 0
    """The first line with letters beyond ASCII in UTF-8, or 0."""

    def blocks(self) -> Iterator[Block]:
        """Blocks of about 2 MiB. Raises FileInvalid for what is no text, and for a line over the limit."""
        line, rest = 1, b""
        for piece in self._unified(self._utf8(self.source.pieces(self.limits))):
            end = piece.rfind(b"\n") + 1
            if end:
                data = rest + piece[:end]
                yield self._checked(Block(data, line))
                line += count_byte(data)
                rest = b""
            rest += piece[end:]
            self._check_length(rest, line)
        if rest:
            yield self._checked(Block(rest + b"\n", line))

    def _utf8(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The same text without a byte-order mark; what is UTF-16 or UTF-32 becomes UTF-8."""
        decoder, lines = None, 1
        for number, raw in enumerate(pieces):
            piece = raw
            if number == 0:
                mark, encoding = _mark(raw)
                piece = raw[len(mark) :]
                if encoding != "utf-8":
                    decoder = codecs.getincrementaldecoder(encoding)()
                    self.notes.append(f"The file is {encoding.upper()[:6]} text.")
            if decoder is not None:
                try:
                    piece = decoder.decode(piece).encode()
                except UnicodeError as error:
                    raise refuse(
                        f"line {lines:,} or later", f"the text is not valid {self.notes[-1][12:18]}. {SAVE_AS_UTF8}"
                    ) from error
                lines += count_byte(piece)
            yield piece
        if decoder is not None and decoder.getstate()[0]:
            raise refuse(f"line {lines:,}", "the file is cut off within a character. Copy or export it again.")

    def _unified(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """All line ends become newlines: those of Windows, and those of old Macs."""
        held = b""
        for raw in pieces:
            piece = held + raw
            held = b""
            if b"\r" in piece:
                if piece.endswith(b"\r"):
                    piece, held = piece[:-1], b"\r"
                piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            yield piece
        if held:
            yield b"\n"

    def _check_length(self, rest: bytes, line: int) -> None:
        if len(rest) > self.limits.max_cell_bytes:
            raise self.too_long(line)

    def too_long(self, line: int) -> FileInvalid:
        return refuse(
            f"line {line:,}",
            f"the line has more than {self.limits.max_cell_bytes:,} bytes, which is the limit. If line ends are"
            " missing, export the file again; if a row has so many values, write a row for each step instead.",
        )

    def _checked(self, block: Block) -> Block:
        position, size = 0, len(block.data)
        while position < size:  # each step jumps to the last line that ends within the limit
            end = block.data.rfind(b"\n", position, position + self.limits.max_cell_bytes + 1)
            if end < 0:
                raise self.too_long(_line_of(block, position))
            position = end + 1
        if b"\0" in block.data:
            line = _line_of(block, block.data.index(b"\0"))
            raise refuse(
                f"line {line:,}",
                "there is a NUL byte, so this is no text, or it was damaged. Export the file again as UTF-8 text.",
            )
        if block.data.isascii():
            return block
        if b"\n\xef\xbb\xbf" in block.data:  # exports that were put one behind the other
            block = Block(block.data.replace(b"\n\xef\xbb\xbf", b"\n"), block.line)
        return self._decoded(block)

    def _decoded(self, block: Block) -> Block:
        if self._encoding == "utf-8":
            try:
                block.data.decode()
            except UnicodeDecodeError as error:
                self._give_up_utf8(block, error)
            else:
                self._other = self._other or _first_beyond_ascii(block)
                return block
        try:
            return Block(block.data.decode("cp1252").encode(), block.line)
        except UnicodeDecodeError as error:
            raise refuse(
                f"line {_line_of(block, error.start):,}",
                f"the byte 0x{block.data[error.start]:02X} is a letter neither in UTF-8 nor in Windows-1252."
                f" {SAVE_AS_UTF8}",
            ) from error

    def _give_up_utf8(self, block: Block, error: UnicodeDecodeError) -> None:
        line = _line_of(block, error.start)
        read = block.data.decode(errors="replace")
        wrong = read.count("\ufffd")
        right = len(read) - len(read.encode("ascii", "ignore")) - wrong
        if self._other or right >= wrong:
            raise refuse(
                f"line {line:,}",
                f"the byte 0x{block.data[error.start]:02X} is not UTF-8, but other letters of the file are."
                f" {SAVE_AS_UTF8}",
            )
        self._encoding = "cp1252"
        self.notes.append(
            f"The file is not UTF-8 (line {line:,}), so it was read as Windows-1252, the encoding of Western Europe."
            " If words look wrong, save it as UTF-8."
        )


def count_byte(data: bytes, letter: int = 10) -> int:
    """How often a letter, by default the end of a line, is in the data; faster than `bytes.count` where it is often."""
    return int(np.count_nonzero(np.frombuffer(data, np.uint8) == letter))


def _mark(head: bytes) -> tuple[bytes, str]:
    for mark, encoding in MARKS:
        if head.startswith(mark):
            return mark, encoding
    sample = head[:4096]
    if len(sample) >= 4 and len(sample) % 2 == 0:  # UTF-16 without a mark: every other byte of Latin text is 0
        low, high = sample[::2].count(0), sample[1::2].count(0)
        half = len(sample) // 2
        if high > 0.7 * half and low == 0:
            return b"", "utf-16-le"
        if low > 0.7 * half and high == 0:
            return b"", "utf-16-be"
    return b"", "utf-8"


def _line_of(block: Block, position: int) -> int:
    return block.line + count_byte(block.data[:position])


def _first_beyond_ascii(block: Block) -> int:
    for number, line in enumerate(block.data.split(b"\n")):
        if not line.isascii():
            return block.line + number
    return 0
