"""Logs: one event a line, as JSON, or as text on a terminal.

`docs/logs.md` lists the events. Job tokens are redacted, and control characters are escaped.
"""

import logging
import sys
from typing import TYPE_CHECKING

from projector.events import redaction
from projector.log_repeats import RepeatFilter

if TYPE_CHECKING:
    from structlog.types import EventDict, Processor, WrappedLogger


def escape_control_chars(text: str) -> str:
    """Escape characters that could move a terminal's cursor, colour or hide text."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def configure(level: str) -> None:
    """Write the logs of structlog and of the standard library to stderr in one format.

    Repeated messages of other libraries are counted, except at the level `debug`.
    """
    import structlog  # noqa: PLC0415  commands that log nothing do without

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
    # As Python's logging HOWTO has it. No line names its caller, and the search for that takes a
    # third of a line's time: the ingest writes a line for each request.
    logging._srcfile = None
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                # Plain tracebacks: local variables may hold tokens.
                structlog.processors.format_exc_info,
                *_rendering(on_terminal=sys.stderr.isatty()),
            ],
        )
    )
    for former in logging.getLogger().handlers:
        _close_filters(former)
    if level.lower() != "debug":
        handler.addFilter(RepeatFilter(_report_repeats))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("projector").setLevel(level.upper())
    logging.getLogger("api").setLevel(level.upper())


def _close_filters(handler: logging.Handler) -> None:
    for each in handler.filters:
        if isinstance(each, RepeatFilter):
            each.close()


def _report_repeats(seconds: float, lines: int, messages: str) -> None:
    import structlog  # noqa: PLC0415  commands that log nothing do without

    log = structlog.get_logger()
    log.warning("other libraries repeat themselves", seconds=seconds, lines=lines,
                messages=messages)  # fmt: skip


def _rendering(*, on_terminal: bool) -> "list[Processor]":
    import structlog  # noqa: PLC0415  commands that log nothing do without

    if on_terminal:
        return [_without_tokens, _for_terminals, structlog.dev.ConsoleRenderer()]
    return [_without_tokens, structlog.processors.JSONRenderer()]


def _without_tokens(_logger: "WrappedLogger", _method: str, event: "EventDict") -> "EventDict":
    """Redact tokens: messages of libraries and exceptions may quote their arguments."""
    return {
        name: redaction.redact_text(value if isinstance(value, str) else repr(value))
        if isinstance(value, str | bytes | BaseException)
        else value
        for name, value in event.items()
    }


def _for_terminals(_logger: "WrappedLogger", _method: str, event: "EventDict") -> "EventDict":
    return {
        name: _lines(value) if isinstance(value, str) else value for name, value in event.items()
    }


def _lines(text: str) -> str:
    return "\n".join(escape_control_chars(line) for line in text.split("\n"))
