"""Logs: every event is documented, and no token or secret is in one."""

import ast
import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import structlog

from projector import log as logs

REPOSITORY = Path(__file__).parents[2]
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
# Fields that may hold a token, a digest, or a part of an event or request.
DENIED = {
    "token", "digest", "token_sha256", "body", "value", "data", "key", "headers", "header", "query",
    "query_string", "url", "redis_url", "password", "credential", "authorization", "record", "view",
    "traceparent", "tracestate", "exc_info", "stack_info",
}  # fmt: skip
TOKEN = "glcbt-64_abcdefghijklmnopqrst"


class Call(NamedTuple):
    """A call of a logger in the source."""

    place: str
    level: str
    event: ast.expr
    fields: tuple[str | None, ...]


def calls() -> Iterator[Call]:
    for path in sorted((REPOSITORY / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(ast.Attribute(logger, level), [event, *_], fields):
                    if level in LEVELS and re.match(r"_?log|.*get_logger", ast.unparse(logger)):
                        yield Call(
                            f"{path.name}:{node.lineno}", level, event,
                            tuple(field.arg for field in fields),
                        )  # fmt: skip


CALLS = list(calls())


def documented() -> dict[str, str]:
    """The level of each event, by the table for operators."""
    text = (REPOSITORY / "docs" / "logs.md").read_text()
    table = text[text.index("| event | level |") :]
    return dict(re.findall(r"^\| `([^`]+)` \| (\w+) \|", table, re.MULTILINE))


def test_calls_are_found_at_all() -> None:
    assert len(CALLS) > 20


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.place)
def test_an_event_is_one_of_the_table_for_operators(call: Call) -> None:
    """A constant, so that it can be searched for; what varies is in fields."""
    assert isinstance(call.event, ast.Constant)
    level = "error" if call.level == "exception" else call.level
    assert documented()[str(call.event.value)] == level


def test_the_table_names_no_event_that_nobody_logs() -> None:
    said = {call.event.value for call in CALLS if isinstance(call.event, ast.Constant)}
    assert set(documented()) == said


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.place)
def test_no_field_is_one_that_may_hold_a_secret(call: Call) -> None:
    assert not DENIED & set(call.fields)


# what is written


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Configures logging for a stream, and undoes that."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    # `projector status` silences it in the same process.
    logging.getLogger("aiokafka").setLevel(logging.NOTSET)

    def configure(*, terminal: bool = False, level: str = "info") -> io.StringIO:
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda: terminal)
        monkeypatch.setattr(sys, "stderr", stream)
        logs.configure(level)
        return stream

    yield configure
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("projector", "api"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    structlog.reset_defaults()


def fail() -> None:
    local = f"local {TOKEN}"
    raise ValueError(f"cannot read {TOKEN} \x1b[2J of {len(local)}")


def speak() -> None:
    log = structlog.get_logger("projector.test")
    log.warning("bad event", partition=3, reason=f"says {TOKEN} \x1b[2J")
    logging.getLogger("aiokafka").error("refused by %s", TOKEN)
    try:
        fail()
    except ValueError:
        log.exception("broken")
        logging.getLogger("faust").exception("broken too")


def test_a_line_is_json_and_holds_no_token_whoever_says_it(configured: Any) -> None:
    stream = configured()
    speak()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == [
        "bad event", "refused by [redacted]", "broken", "broken too",
    ]  # fmt: skip
    assert lines[0] | {"timestamp": ""} == {
        "event": "bad event", "level": "warning", "logger": "projector.test", "partition": 3,
        "reason": "says [redacted] \x1b[2J", "timestamp": "",
    }  # fmt: skip
    assert "cannot read [redacted]" in lines[2]["exception"]
    assert TOKEN not in stream.getvalue()
    assert "local glcbt" not in stream.getvalue()


def test_on_a_terminal_nothing_moves_the_cursor_and_no_variable_is_shown(configured: Any) -> None:
    stream = configured(terminal=True)
    speak()
    assert "\x1b[2J" not in stream.getvalue()
    assert "\\x1b[2J" in stream.getvalue()
    assert TOKEN not in stream.getvalue()
    assert "local = " not in stream.getvalue()


def test_what_an_owner_logs_says_under_which_claim(configured: Any) -> None:
    stream = configured()
    with structlog.contextvars.bound_contextvars(epoch=7):
        structlog.get_logger().warning("refused")
    assert json.loads(stream.getvalue())["epoch"] == 7
