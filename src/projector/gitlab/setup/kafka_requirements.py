"""Requirements of the topics in Kafka that the bridge sends to."""

from projector.config.settings import Settings
from projector.errors import MissingTopicsError, OperatorError
from projector.gitlab.setup.findings import SHELL, Finding, Remedy
from projector.kafka import topics

SOURCE = "gitlab"


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
