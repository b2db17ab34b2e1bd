"""`projector topics`: the topics in Kafka, created and checked."""

import typer

from projector.cli.terminal import load_settings, run_command, warn
from projector.config.env import variable_name
from projector.config.settings import Settings
from projector.events.model import Topic
from projector.kafka.topics import create_topics, find_risks
from projector.operators.diagnosis.words import many


def topics() -> None:
    """Create and check the topics."""
    settings = load_settings()
    found, risks = run_command(settings, _create(settings))
    for name, count in found.items():
        typer.echo(f"{settings.topic(name)}: {many(count, 'partition')}")
    for risk in risks:
        warn(risk)
    count = found[Topic.MEMBERSHIP]
    remedy = (
        f"For another number, set another {variable_name('topic_prefix')}, and feed all events to "
        "the new topics"
    )
    if "partitions" in settings.model_fields_set and settings.partitions != count:
        warn(
            f"{variable_name('partitions')} is {settings.partitions} and changes nothing: the "
            f"existing topics have {count} partitions. {remedy}"
        )
    elif "partitions" not in settings.model_fields_set:
        warn(f"{count} partitions are for good, and bound the number of workers. {remedy}")


async def _create(settings: Settings) -> tuple[dict[str, int], list[str]]:
    return await create_topics(settings), await find_risks(settings)
