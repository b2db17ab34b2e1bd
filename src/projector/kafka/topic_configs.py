"""The configuration of the topics, as `projector topics` creates them."""

from typing import Final

from projector.events.model import DEAD_LETTERS, SOURCES, Topic

_DAYS_MS: Final = 24 * 3600 * 1000
_MIB: Final = 1024 * 1024

# The broker's clock, not a producer's: with a wrong clock Kafka would delete job-lifecycle early,
# and tokens would have expired when they start.
_EVENTS: Final = {
    "max.message.bytes": str(2 * _MIB),
    "message.timestamp.type": "LogAppendTime",
}
CLEANUP: Final = "delete"
CONFIGS: Final[dict[str, dict[str, str]]] = {
    Topic.MEMBERSHIP: {"retention.ms": "-1", **_EVENTS},
    Topic.AGENT_CONFIG: {"retention.ms": "-1", **_EVENTS},
    Topic.JOB_LIFECYCLE: {"retention.ms": str(60 * _DAYS_MS), **_EVENTS},
    DEAD_LETTERS: {"retention.ms": "-1", "max.message.bytes": str(4 * _MIB)},
    SOURCES: {"retention.ms": str(_DAYS_MS), **_EVENTS},
}
# All others have the same number of partitions.
ONE_PARTITION: Final = (DEAD_LETTERS, SOURCES)
