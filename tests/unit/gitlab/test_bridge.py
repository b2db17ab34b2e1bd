"""The end of the bridge's process."""

import asyncio
from typing import Any, NoReturn

import pytest
from structlog.testing import capture_logs

from projector.errors import LostTopicsError
from projector.gitlab import bridge


async def test_the_reason_of_an_end_is_logged_before_the_process_may_be_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logged: list[Any] = []

    async def fail() -> NoReturn:
        raise LostTopicsError("the topic has only 3 records")

    with capture_logs() as logs:
        monkeypatch.setattr(bridge, "_exit_within", lambda *_: logged.extend(logs))
        with pytest.raises(LostTopicsError):
            await bridge._until_one_fails([fail(), asyncio.Event().wait()])
    assert [(entry["log_level"], entry["reason"]) for entry in logged] == [
        ("error", "the topic has only 3 records")
    ]
