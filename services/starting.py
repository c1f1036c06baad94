"""Ends a process that cannot start (settings, database, port) with a sentence instead of a traceback."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from services.errors import LooplineError
from services.wording import setting_sentences

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
CLOSED = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}
)


def cannot_write(error: OSError, way_out: str = "set LOOPLINE_DATA_DIR to another folder") -> str | None:
    """The sentence about a folder that is full, or in which this process may not write; None for any other error."""
    where = error.filename or "the data folder"
    if error.errno in FULL:
        return f"Cannot write to {where}: {error.strerror}. Make room there, or {way_out}."
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return f"Cannot make a folder of {where}: it is a file, or lies below one. Move it, or {way_out}."
    if error.errno in CLOSED:
        return f"Cannot write to {where}: {error.strerror}. Let this user write there, or {way_out}."
    return None


@contextmanager
def exit_on_error(who: str) -> Iterator[None]:
    """Within the context a wrong setting, a database of another version and a folder that cannot be written end the
    process with exit status 1 and a sentence."""
    try:
        yield
    except ValidationError as error:
        sys.exit(f"{who} cannot start:\n" + "\n".join(setting_sentences(error)))
    except LooplineError as error:
        sys.exit(f"{who} cannot start: {error.message}")
    except OSError as error:
        if (sentence := cannot_write(error)) is None:
            raise
        sys.exit(f"{who} cannot go on. {sentence}")
