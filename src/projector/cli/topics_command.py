"""`projector topics`: the topics in Kafka, created and checked."""

import typer

from projector.cli.terminal import load_settings, run_command, warn
from projector.config.env import variable_name
from projector.config.settings import Settings
from projector.events.model import Topic
from projector.kafka.topics import create_topics, find_risks


def topics() -> None:
    """Create the topics that are missing, check those that exist, list their partitions.

    Warns of topics that may lose events or make answers wrong: min.insync.replicas=1 with three
    copies or more, or their producers' time.

    Exits with 0 when all are as they must be; with 2 when one is unusable; with 3 when Kafka
    cannot be reached.

    \b
    PROJECTOR_PARTITIONS=64 projector topics
    """
    settings = load_settings()
    found, risks = run_command(settings, _create(settings))
    for name, count in found.items():
        typer.echo(f"{settings.topic(name)}: {count} partition{'' if count == 1 else 's'}")
    for risk in risks:
        warn(risk)
    if "partitions" in settings.model_fields_set and settings.partitions != found[Topic.MEMBERSHIP]:
        warn(
            f"{variable_name('partitions')} is {settings.partitions} and changes nothing: the "
            f"existing topics have {found[Topic.MEMBERSHIP]} partitions. For another number, set "
            f"another {variable_name('topic_prefix')}, and feed all events to the new topics"
        )


async def _create(settings: Settings) -> tuple[dict[str, int], list[str]]:
    return await create_topics(settings), await find_risks(settings)
