"""What a person has to mend before a command can go on."""


class OperatorError(Exception):
    """Settings, topics or servers are not as they must be; the message says what to do."""


class NotReadyError(OperatorError):
    """Something that somebody may be about to set up: servers wait for it, commands say so."""


class SettingsError(OperatorError):
    """A setting is wrong; the message names every wrong variable and says why."""


class RebuildLossError(OperatorError):
    """Kafka no longer has all that the facts were made of."""


class UnknownJobError(OperatorError):
    """Nothing in Redis says anything about the job, or the token."""


class TooManyFactsError(OperatorError):
    """A partition holds more facts than the caller wants to read."""


class LetterError(OperatorError):
    """There is no such letter."""


class SnapshotError(OperatorError):
    """The partition's facts cannot be read as they are."""


class NotCopartitionedError(Exception):
    """An assignment gave this worker a partition of one topic but not of the others."""


class WebPortError(OperatorError):
    """The worker's own web page cannot have the port that is set."""


class RebuildFailedError(OperatorError):
    """The rebuilt facts could not be put in place."""


class NoSuchPartitionError(OperatorError):
    """A partition was named that the projection does not have."""


class UnsupportedAiokafkaError(RuntimeError):
    """aiokafka is not built as `install` needs it."""


class MissingTopicsError(NotReadyError):
    """Topics do not exist yet."""


class UnusableTopicsError(OperatorError):
    """Topics exist, but the projection would be wrong on them."""


class HistoryLostError(Exception):
    """Kafka no longer has what the facts need: no waiting helps, and no answer may be given."""


class DevError(OperatorError):
    """The development environment cannot run."""


class WriteRefusedError(Exception):
    """Redis holds a newer claim, or no longer what this owner wrote last."""


class IncompleteCheckpointError(Exception):
    """The facts in Redis are not as many as were written."""


class DifferentRulesError(OperatorError):
    """The workers compute views by other settings than this command."""


class PartitionCountError(OperatorError):
    """Redis holds something else than a number of partitions under the key of that number."""


class EvictionError(OperatorError):
    """Redis is set up to forget what it was told."""


class AccessError(OperatorError):
    """A server was reached, and refuses this product, or is not to be trusted."""
