"""Usage of `projector feed`, `topics` and `schemas`."""

from pathlib import Path
from typing import Annotated, Final

import typer

from projector.events.model import MAX_ID

# Seconds: a day.
MAX_WAIT_S: Final = 86_400


def feed(  # noqa: PLR0913  one for each option
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE",
            help="File with one CloudEvent (JSON) a line; - for stdin.",
            show_default=False,
        ),
    ] = None,
    *,
    agent_config: Annotated[
        str | None,
        typer.Option(
            metavar="YAML",
            help="Instead of FILE: an agent's .gitlab/agents/<name>/config.yaml; - for stdin.",
        ),
    ] = None,
    agent: Annotated[
        int | None, typer.Option(metavar="ID", help="The agent's id.", min=1, max=MAX_ID)
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="The agent's name.")] = None,
    project: Annotated[
        int | None,
        typer.Option(metavar="ID", help="The project that holds the YAML.", min=1, max=MAX_ID),
    ] = None,
    partitionkey: Annotated[
        int | None,
        typer.Option(
            metavar="ID", help="The top-level group, or user namespace.", min=1, max=MAX_ID
        ),
    ] = None,
    allow_unknown: Annotated[
        bool,
        typer.Option(
            "--allow-unknown",
            help="With --agent-config: send fields that a newer KAS may read.",
            show_default=False,
        ),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Send nothing if there is a warning.", show_default=False),
    ] = False,
    wait: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0,
            max=MAX_WAIT_S,
            help="Then wait, at most so long, until answers contain the events.",
        ),
    ] = None,
) -> None:
    """Check every line of FILE, then send all events and wait until Kafka has them.

    A bad line is named by its number and the reason, never by its content, and nothing is sent.
    An event that a worker applies without its wrong part, such as one entry of an agent's
    configuration, is sent with a warning. With --agent-config, give --agent, --name, --project and
    --partitionkey too: the events that the agent's file means are sent.

    With --wait the answers contain all of it at the command's end: the agent that an event revokes
    is gone. A dead letter changes no answer, and is not waited for.

    Exits with 0 when Kafka has acknowledged everything, and with --wait the answers contain it;
    with 1 when that time runs out (do not send the events again); with 2 when any line is bad or
    there is none (then nothing was sent); with 3 when Kafka or Redis cannot be reached.

    \b
    projector feed examples/events.ndjson --wait 10
    my-export | projector feed -
    projector feed --agent-config examples/agent-config.yaml --agent 5 \\
        --name production --project 123213 --partitionkey 3
    """
    from projector.cli import feed_command

    about = {
        "--agent": agent, "--name": name, "--project": project, "--partitionkey": partitionkey,
    }  # fmt: skip
    feed_command.feed(
        file, agent_config, about, allow_unknown=allow_unknown, strict=strict, wait_s=wait
    )


def topics() -> None:
    """Create the topics that are missing, check those that exist, list their partitions.

    The number of partitions is for good: set PROJECTOR_PARTITIONS before the first run. It bounds
    the number of workers, and what one worker holds in memory.

    Warns of topics that may lose events or make answers wrong: min.insync.replicas=1 with three
    copies or more, or their producers' time.

    Exits with 0 when all are as they must be; with 2 when one is unusable; with 3 when Kafka
    cannot be reached.

    \b
    PROJECTOR_PARTITIONS=64 projector topics
    """
    from projector.cli import topics_command

    topics_command.topics()


def schemas(
    directory: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIRECTORY", help="Where to write asyncapi.yaml and schemas/.",
            show_default=False,
        ),
    ] = None,
) -> None:  # fmt: skip
    """Print the contract for events as AsyncAPI 3.0, or write it with its JSON Schemas.

    Needs neither Kafka nor settings. With DIRECTORY it writes DIRECTORY/asyncapi.yaml and
    DIRECTORY/schemas/TYPE.json, a JSON Schema (2020-12) of every type of event and of heartbeats.

    Exits with 0; with 2 when a file cannot be written.

    \b
    projector schemas > asyncapi.yaml
    projector schemas contract
    """
    from projector.cli import schemas_command

    schemas_command.schemas(directory)
