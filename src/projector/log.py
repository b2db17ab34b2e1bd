"""Logs: one event a line, JSON unless a person reads it on a terminal.

`docs/logs.md` lists the events. Job tokens and what moves a terminal's cursor are in none.
"""

import logging
import sys

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

from projector.events import redaction


def escape_control_chars(text: str) -> str:
    """One line of text without anything that moves a cursor, colours, rings or hides."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def configure(level: str) -> None:
    """Send structlog's and the standard library's logs to stderr in one format."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                # Plain: tracebacks with local variables would show tokens among them.
                structlog.processors.format_exc_info,
                *_rendering(on_terminal=sys.stderr.isatty()),
            ],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("projector").setLevel(level.upper())
    logging.getLogger("api").setLevel(level.upper())


def _rendering(*, on_terminal: bool) -> list[Processor]:
    if on_terminal:
        return [_without_tokens, _for_terminals, structlog.dev.ConsoleRenderer()]
    return [_without_tokens, structlog.processors.JSONRenderer()]


def _without_tokens(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """What other libraries and exceptions say may quote what they were given."""
    return {
        name: redaction.redact_text(value if isinstance(value, str) else repr(value))
        if isinstance(value, str | bytes | BaseException)
        else value
        for name, value in event.items()
    }


def _for_terminals(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {
        name: _lines(value) if isinstance(value, str) else value for name, value in event.items()
    }


def _lines(text: str) -> str:
    return "\n".join(escape_control_chars(line) for line in text.split("\n"))
