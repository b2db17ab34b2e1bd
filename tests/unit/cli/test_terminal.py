"""All commands alike: exit codes, one sentence for an error, no control characters."""

import asyncio
import subprocess
import sys
from typing import Any

import fakeredis
import pytest
from redis.exceptions import AuthenticationError, ConnectionError

from projector.cli import main
from projector.cli.terminal import WRONG
from projector.clients import redis_access, redis_client
from tests import builders
from tests.unit.cli.runner import run
from tests.unit.operators.worlds import FOREVER, World


@pytest.mark.parametrize(
    "command",
    [
        ["feed", "-"], ["topics"], ["worker"], ["api"], ["dev"], ["dead-letters", "list"],
        ["dead-letters", "show", "1"], ["dead-letters", "replay", "1"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_wrong_setting_stops_every_command(
    monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("PROJECTOR_PARTITIONS", "0")
    monkeypatch.setenv("PROJECTOR_MAX_STALENESS", "nan")
    result = run(*command)
    assert result.exit_code == WRONG
    said = result.stderr.splitlines()
    assert len(said) == 2
    assert all(line.startswith("wrong setting: PROJECTOR_") for line in said)


@pytest.mark.usefixtures("company")
@pytest.mark.parametrize(
    "arguments",
    [
        ("explain", "12"), ("explain", "0"), ("explain", str(2**63)), ("explain", "9", "-1"),
        ("explain", "nine"), ("inspect", "partition", "2"), ("inspect", "partition", "-1"),
        ("inspect", "token", "--sha256", "12"), ("inspect", "job", str(2**63)),
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_is_not_there_or_no_id_exits_with_2_and_a_sentence(arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (ConnectionError("gone"), 3, "cannot be reached: gone"),
        (AuthenticationError("WRONGPASS"), 2, redis_access.redis_reason(AuthenticationError())),
    ],
    ids=["outage", "refused"],
)
@pytest.mark.parametrize("arguments", [("explain", "9"), ("inspect", "job", "9")], ids=" ".join)
def test_an_outage_names_redis_and_not_kafka(
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    error: Exception,
    code: int,
    says: str,
) -> None:
    class Away(fakeredis.FakeAsyncRedis):
        async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
            raise error

    monkeypatch.setattr(redis_client, "create_redis", lambda settings: Away())
    result = run(*arguments)
    assert result.exit_code == code
    assert result.stderr == f"Redis at redis://127.0.0.1:6379/0 {says}\n"


async def _poison(server: fakeredis.FakeServer) -> None:
    world = World(server)
    await world.claim()
    evil = "\x1b[2Jevil\u202e\x07\x7f"
    await world.apply(
        builders.group(3, path=evil),
        builders.project(7, 3, path=evil),
        builders.event("agent.set", {"id": 5, "name": evil, "project_id": 7}),
        builders.configured(5, projects=[{"id": 7, evil: evil}]),
        builders.event("member.set", {"user_id": 1, "group_id": 3, "role": "owner", "via": evil}),
        builders.started(9, 7, expires_at=FOREVER),
    )


@pytest.mark.parametrize("flag", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize(
    "arguments",
    [("explain", "9", "5"), ("inspect", "job", "9"), ("inspect", "agent", "5"),
     ("inspect", "partition", "0"), ("inspect", "partition", "1")],
    ids=" ".join,
)  # fmt: skip
def test_nothing_that_others_wrote_reaches_the_terminal_as_it_is(
    server: fakeredis.FakeServer, arguments: list[str], flag: list[str]
) -> None:
    asyncio.run(_poison(server))
    result = run(*arguments, *flag)
    assert all(line.isprintable() for line in result.stdout.splitlines())


@pytest.mark.parametrize(
    "script",
    ["work()", "terminal.run_command(Settings(), work_async())"],
    ids=["direct", "while connected"],
)
def test_a_command_whose_output_is_closed_ends_silently(script: str) -> None:
    """Of `projector status | head -1` the second line failed, as an outage of Kafka."""
    program = f"""
import sys, typer
from projector.cli import main, terminal
from projector.config.settings import Settings

def work():
    sys.stdin.read()
    for _ in range(3):
        typer.echo("line")

async def work_async():
    work()

@main.app.command("write")
def write():
    {script}

main.main()
"""
    argv = [sys.executable, "-c", program, "write"]
    done = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert done.stdout is not None
    done.stdout.close()
    done.stdout = None
    _, errors = done.communicate("", timeout=60)
    assert (done.returncode, errors) == (main.OUTPUT_CLOSED, "")
