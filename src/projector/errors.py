"""What a person has to mend before a command can go on."""


class SetupError(Exception):
    """Settings, topics or servers are not as they must be; the message says what to do."""


class NotReadyError(SetupError):
    """Something that somebody may be about to set up: servers wait for it, commands say so."""


class SettingsError(SetupError):
    """A setting is wrong; the message names every wrong variable and says why."""


class RebuildLossError(SetupError):
    """Kafka no longer has all that the facts were made of."""


class UnknownJobError(SetupError):
    """Nothing in Redis says anything about the job, or the token."""


class TooManyFactsError(SetupError):
    """A partition holds more facts than the caller wants to read."""


class LetterError(SetupError):
    """There is no such letter."""


class SnapshotError(SetupError):
    """The partition's facts cannot be read as they are."""


class NotCopartitionedError(Exception):
    """An assignment gave this worker a partition of one topic but not of the others."""


class WebPortError(SetupError):
    """The worker's own web page cannot have the port that is set."""


class RebuildFailedError(SetupError):
    """The rebuilt facts could not be put in place."""


class NoSuchPartitionError(SetupError):
    """A partition was named that the projection does not have."""


class UnsupportedAiokafkaError(RuntimeError):
    """aiokafka is not built as `install` needs it."""


class MissingTopicsError(NotReadyError):
    """Topics do not exist yet."""


class UnusableTopicsError(SetupError):
    """Topics exist, but the projection would be wrong on them."""


class HistoryLostError(Exception):
    """Kafka no longer has what the facts need: no waiting helps, and no answer may be given."""


class DevError(SetupError):
    """The development environment cannot run."""


class RefusedError(Exception):
    """Redis holds a newer claim, or no longer what this owner wrote last."""


class IncompleteCheckpointError(Exception):
    """The facts in Redis are not as many as were written."""


class OtherRulesError(SetupError):
    """The workers compute views by other settings than this command."""


class EvictionError(SetupError):
    """Redis is set up to forget what it was told."""


class AccessError(SetupError):
    """A server was reached, and refuses this product, or is not to be trusted."""
