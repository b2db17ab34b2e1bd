"""Requirements of the topics in Kafka that the bridge sends to."""

from projector.config.env import variable_name
from projector.config.settings import Settings
from projector.errors import MissingTopicsError, OperatorError
from projector.gitlab.setup.findings import ENVIRONMENT, SHELL, Finding, Remedy
from projector.kafka import topics

SOURCE = "gitlab"


def check_sources(settings: Settings) -> list[Finding]:
    """Hint at it when workers do not wait for the bridge's heartbeats."""
    if SOURCE in settings.source_names:
        return []
    sources = ",".join([*settings.source_names, SOURCE])
    return [
        Finding(
            "Workers do not wait for the bridge's heartbeats, so answers of a bridge that has "
            "stopped count as fresh. Set this for all commands.",
            (Remedy(ENVIRONMENT, f"{variable_name('sources')}={sources}"),),
            is_hint=True,
        )
    ]


async def check_topics(settings: Settings) -> list[Finding]:
    """Find topics that are missing or unusable, and those that endanger answers.

    Raises `KafkaError` if Kafka cannot be reached.
    """
    # The topic of heartbeats is needed, whether or not this environment names its sources.
    if not settings.sources:
        settings = settings.model_copy(update={"sources": SOURCE})
    try:
        await topics.check_topics(settings)
        return [Finding(f"{risk}.", is_hint=True) for risk in await topics.find_risks(settings)]
    except MissingTopicsError as error:
        return [Finding(f"{error}.", (Remedy(SHELL, "projector topics"),))]
    except OperatorError as error:
        return [Finding(f"{error}.")]
