"""Log lines: for a person on a terminal, as JSON elsewhere; every library's records look the same."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import structlog
from structlog.typing import Processor

if TYPE_CHECKING:
    from services.settings import Settings


def configure(settings: Settings) -> None:
    """Send the records of this process to stderr, in `settings.log_format`; once, at the edge of a process."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    handler = logging.StreamHandler()
    handler.setFormatter(_formatter(as_json))
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(settings.log_level.upper())
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)  # a line for each plug-in says nothing


def _formatter(as_json: bool) -> logging.Formatter:
    common: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if as_json:
        ends: list[Processor] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        ends = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=common, processors=[remove, *ends])
