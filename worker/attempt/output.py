"""What a trainer prints, kept within bounds: it may print a gigabyte, in any bytes, faster than anybody writes down."""

from __future__ import annotations

MAX_LINES = 200
"""As many lines are handed on at a time, the newest; the rest is counted."""
MAX_BYTES = 512 << 10
"""As much is kept until it is taken."""
TAIL_BYTES = 16 << 10


class Output:
    """The printed lines since they were last taken, and the last words of all."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._tail = bytearray()
        self._dropped = 0
        self.has_lines = False
        """Whether a whole line waits to be taken."""

    def feed(self, chunk: bytes) -> None:
        """Take in what was printed; costs no more than finding the line ends."""
        self.has_lines = self.has_lines or b"\n" in chunk
        self._kept += chunk
        if len(self._kept) > MAX_BYTES:
            excess = len(self._kept) - MAX_BYTES // 2  # more than need be, so that not every chunk pays for it
            self._dropped += self._kept.count(b"\n", 0, excess)
            del self._kept[:excess]
        self._tail += chunk[-TAIL_BYTES:]
        del self._tail[:-TAIL_BYTES]

    def take(self, *, all: bool = False) -> list[str]:
        """The newest lines, after a note of how many there were before them; `all` with the last, unfinished one."""
        end = len(self._kept) if all else self._kept.rfind(b"\n") + 1
        whole = self._kept[:end].removesuffix(b"\n").rsplit(b"\n", MAX_LINES) if end else []
        del self._kept[:end]
        self.has_lines = False
        if len(whole) > MAX_LINES:
            self._dropped += whole.pop(0).count(b"\n") + 1
        lines = [_readable(line) for line in whole]
        if dropped := self._dropped:
            lines.insert(0, f"… {dropped:,} line{' was' if dropped == 1 else 's were'} dropped")
        self._dropped = 0
        return lines

    def last_words(self, lines: int = 20) -> str:
        """The last lines of all that was printed, taken or not."""
        return "\n".join(self._tail.decode(errors="replace").splitlines()[-lines:]).replace("\x00", "\ufffd").strip()


def _readable(line: bytearray) -> str:
    """Text, without NUL; of a progress bar, which writes over itself, what is seen last."""
    return line.replace(b"\x00", b"").rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace")
