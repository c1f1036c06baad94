"""Log lines: for a person on a terminal, as JSON elsewhere; every library's records look the same.

What is bound (`bind`, `about`: the id of a request, a job, an attempt) stands in every line of that thread, whoever
wrote it. No line holds a password, and none can be forged: whatever a client sent stays within its line.
"""

from __future__ import annotations

import logging
import re
import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

if TYPE_CHECKING:
    from services.settings import Settings

HIDDEN = "***"
SECRETS = (
    (re.compile(r"(://[^\s:/@\"']{0,100}:)[^\s\"']{1,300}@"), rf"\1{HIDDEN}@"),
    (re.compile(r"\b(Bearer|Basic)\s+(?=\S*[\d.=_-])[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (re.compile(r"\b(ll_[0-9a-z]{26}_)[0-9a-f]{1,64}"), rf"\1{HIDDEN}"),
    (
        re.compile(
            r"((?:password|passwd|secret|api_key)\w{0,30}\\?[\"']?\s{0,3}[=:]\s{0,3}\\?[\"']?)[^\s\"'\\,;&)}]+",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
)
"""Where secrets stand in addresses, headers and the messages of drivers, and what is written instead. Each begins with
letters of its own and has bounds, so that a hostile text costs no more than its length."""
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def configure(settings: Settings) -> None:
    """Send the records of this process to stderr, in `settings.log_format`; once, at the edge of a process."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    handler = logging.StreamHandler()
    handler.setFormatter(_formatter(as_json))
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(settings.log_level.upper())
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)  # a line for each plug-in says nothing


def bind(**known: Any) -> None:
    """Let every line of this thread carry these, and nothing that was bound before, until `unbind`."""
    unbind()
    structlog.contextvars.bind_contextvars(**known)


def unbind() -> None:
    structlog.contextvars.clear_contextvars()


def about(**known: Any) -> AbstractContextManager[None]:
    """Within the context every line of this thread carries these, but for those that are None."""
    return structlog.contextvars.bound_contextvars(**{key: value for key, value in known.items() if value is not None})


def redacted(text: str) -> str:
    """The text with every secret that it is known by its place struck out."""
    for pattern, instead in SECRETS:
        text = pattern.sub(instead, text)
    return text


def _formatter(as_json: bool) -> logging.Formatter:
    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    ends: list[Processor] = [structlog.processors.format_exc_info]  # not structlog's own form: it shows variables
    if as_json:
        ends += [structlog.processors.JSONRenderer()]
    else:
        plain = structlog.dev.plain_traceback
        ends += [_escape, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=common, processors=[remove, *ends, _redact])


def _escape(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Keep each text within its line, and a terminal from obeying it; indent a traceback. (JSON escapes by itself.)"""
    fields = {key: _one_line(value) if isinstance(value, str) else value for key, value in event.items()}
    if isinstance(traceback := event.get("exception"), str):
        fields["exception"] = "\n".join(f"    {_one_line(line)}" for line in traceback.split("\n"))
    return fields


def _one_line(text: str) -> str:
    return CONTROLS.sub(lambda found: repr(found.group())[1:-1], text)


def _redact(_logger: WrappedLogger, _method: str, line: Any) -> Any:
    return redacted(line)
