"""`projector feed`: events from a file, from a pipe, or for an agent's `config.yaml`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import typer

from projector.cli.terminal import (
    FINDING,
    WRONG,
    fail,
    load_settings,
    open_input,
    progress_bar,
    refuse_lines,
    run_command,
    warn_about_lines,
    with_redis,
)
from projector.config.settings import Settings
from projector.feed import agent_config_file, event_file, producer
from projector.operators.diagnosis.words import many

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from projector.feed.applied import Positions

MAX_PARTITIONS_SHOWN: Final = 20


def feed(  # noqa: PLR0913  one for each option that is not about the agent
    file: str | None,
    agent_config: str | None,
    about: dict[str, Any],
    *,
    allow_unknown: bool,
    strict: bool,
    wait_s: float | None,
) -> None:
    """Send the events of FILE, or of the agent's file that `about` is about, once all are good.

    With `wait_s` wait until answers contain these.
    """
    path = _one_source(file, agent_config, about | {"--allow-unknown": allow_unknown or None})
    settings = load_settings()
    with (
        open_input(path)
        if agent_config is None
        else _agent_events(path, about, allow_unknown=allow_unknown, strict=strict)
    ) as source:
        count, bad, doubtful = event_file.check_lines(source)
        if bad or (strict and doubtful):
            source.seek(0)
            refuse_lines(
                path,
                sorted(bad + doubtful if strict else bad),
                f"nothing was sent{event_file.layout_hint(source)}",
            )
        warn_about_lines(path, doubtful)
        if not count:
            # In a pipe, the command that should have written events has perhaps failed.
            fail(WRONG, f"{path}: there is no event in it; nothing was sent")
        source.seek(0)
        with progress_bar(transient=False) as progress:
            task = progress.add_task("sending", total=count)
            positions = run_command(
                settings, producer.send_events(source, settings, lambda: progress.advance(task))
            )
    typer.echo(f"{many(count, 'event')} acknowledged by Kafka")
    if wait_s is not None:
        _wait(settings, positions, wait_s)


def _wait(settings: Settings, positions: "Positions", wait_s: float) -> None:
    """Wait until answers contain the events; end the command with the reasons if time runs out."""
    from projector.feed import applied
    from projector.kafka.topic_ids import read_topic_ids

    async def delays(redis: "Redis") -> dict[applied.Delay, list[int]]:
        ids = await read_topic_ids(settings)
        if await applied.wait_until_applied(redis, positions, ids, wait_s):
            return {}
        return await applied.find_delays(redis, positions, ids)

    if found := run_command(settings, with_redis(settings, delays)):
        fail(
            FINDING,
            *(
                f"{why.before} {_named(where)}{why.after}: {why.advice}"
                for why, where in found.items()
            ),
            f"answers lack some of the events after {wait_s:g} s; Kafka has all of them, so do not "
            "send them again",
        )
    typer.echo("answers contain them")


def _named(partitions: list[int]) -> str:
    shown = ", ".join(map(str, partitions[:MAX_PARTITIONS_SHOWN]))
    more = f", … ({len(partitions)} in all)" if len(partitions) > MAX_PARTITIONS_SHOWN else ""
    return f"partition{'' if len(partitions) == 1 else 's'} {shown}{more}"


def _one_source(file: str | None, agent_config: str | None, about: dict[str, Any]) -> str:
    """Return FILE or the agent's file; end the command unless exactly one is given, completely."""
    given = [option for option, value in about.items() if value is not None]
    missing = [option for option in about if option not in (*given, "--allow-unknown")]
    if file is not None and agent_config is not None:
        fail(WRONG, "give FILE or --agent-config, not both")
    if agent_config is None and given:
        fail(WRONG, f"{', '.join(given)}: only with --agent-config")
    if agent_config is not None and missing:
        fail(WRONG, f"--agent-config also needs {', '.join(missing)}")
    if file is None and agent_config is None:
        fail(WRONG, "give FILE, - for standard input, or --agent-config; --help shows how")
    return str(agent_config if file is None else file)


@contextmanager
def _agent_events(
    path: str, about: dict[str, Any], *, allow_unknown: bool, strict: bool
) -> Iterator[BinaryIO]:
    """Open the events that an agent's file leads to, one a line."""
    agent_id, name, project, partitionkey = about.values()
    agent = agent_config_file.ConfiguredAgent(agent_id, name, project, str(partitionkey))
    with open_input(path) as source:
        content = source.read(agent_config_file.MAX_BYTES + 1)
    try:
        access = agent_config_file.read_agent_config(content, allow_unknown=allow_unknown)
    except agent_config_file.BadAgentFile as error:
        refuse_lines(path, error.faults)
    if strict and access.notes:
        refuse_lines(path, access.notes)
    warn_about_lines(path, access.notes)
    events, reasons = agent_config_file.agent_event_file(agent, access)
    if reasons:
        fail(WRONG, *(f"{path}: {reason}" for reason in reasons), "nothing was sent")
    yield events
