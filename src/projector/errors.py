"""Exceptions of this product, as one tree.

ProjectorError
    OperatorError                 an operator must act: commands and workers exit with status 2
        SettingsError             environment variables
        NotReadyError             may still appear: servers wait for it
            MissingTopicsError
            StandbyError          GitLab's database
        UnusableTopicsError       topics in Kafka
        ChangedPartitionsError
        AccessError               credentials, rights and certificates
        EvictionError             the configuration and the contents of Redis
        PartitionCountError
        DifferentRulesError
        SnapshotError
        UnknownJobError           what a command or a page asks for
        NoSuchPartitionError
        TooManyFactsError
        LetterError
        RebuildLossError          `projector rebuild`
        RebuildFailedError
        WebPortError              ports and servers of a process
        StateError                the state file of `projector gitlab`
        GitlabTablesError         GitLab's database
        SlotError
        TokenKeyError             the key of GitLab's encrypted tokens
        DevError
        LostTopicsError           `projector gitlab`
        UnpreparedError
    TemporaryError                an outage: workers retry, commands exit with status 3
        RangeError
        NoAgreementError
        UnansweredError
        SlotBusyError
        OpenTransactionsError
    HistoryLostError              inside a process; an owner handles the first three
    WriteRefusedError
    IncompleteCheckpointError
    NotCopartitionedError
    UnsupportedAiokafkaError
    MalformedMessageError
    SnapshotNeededError           the bridge copies all tables of GitLab's database anew

The message of an `OperatorError` is shown as it is: what is wrong, then what to do.

Exceptions with data of their own are beside that data: `BadEvent` in events/model, `BadAgentFile`
in feed/agent_config_file, `UnreadableYaml` in feed/yaml_nodes, `AccessRefusedError` in
api/ops/auth, `RedisRefusedError` in api/ops/data, `OverloadedError` in api/read_batcher,
`UnprovenError` in api/proofs, `RefusedTokenError` in api/tokens/signed_tokens,
`UnverifiableTokenError` in api/tokens/signed_tokens, `ClockError` in clients/trusted_clock,
`StateInUseError` in gitlab/mapping/state_file, `RefusedRequestError` in ingest/refusals,
`WrongFeedersError` in ingest/feeders, `OutboxFullError` in gitlab/stream/batches,
`RepublishedError` in gitlab/stream/source, and `UnreachableError` in gitlab/setup/check.
clients/retry lists the exceptions of clients that count as outages.
"""


class ProjectorError(Exception):
    """An error of this product."""


class OperatorError(ProjectorError):
    """Settings, topics or servers are not as they must be; the message says what to do.

    The text is the reason and the advice; the `reason` alone is kept too.
    """

    def __init__(self, reason: str = "", advice: str = "") -> None:
        super().__init__("; ".join(filter(None, [reason, advice])))
        self.reason = reason


class SettingsError(OperatorError):
    """Environment variables are wrong; the message has a line for each."""


class NotReadyError(OperatorError):
    """A precondition is missing that may still appear. Servers wait for it; commands fail."""


class MissingTopicsError(NotReadyError):
    """Topics do not exist yet; the reason names them."""


class StandbyError(NotReadyError):
    """GitLab's database is a standby at present."""


class UnusableTopicsError(OperatorError):
    """Topics exist, but the projection would be wrong on them."""


class ChangedPartitionsError(OperatorError):
    """The topics have another number of partitions than the views were written for."""


class AccessError(OperatorError):
    """A server refuses this client, or shows a certificate that is not trusted."""


class EvictionError(OperatorError):
    """Redis may evict keys."""


class PartitionCountError(OperatorError):
    """The key of the number of partitions does not hold a number of partitions."""


class DifferentRulesError(OperatorError):
    """The workers compute views with other settings than this command."""


class SnapshotError(OperatorError):
    """The facts of a partition cannot be read as they are."""


class UnknownJobError(OperatorError):
    """Redis has neither a fact nor a record of the job or token."""


class NoSuchPartitionError(OperatorError):
    """The named partition does not exist, or no worker has claimed it yet."""

    def __init__(self, partition: int, count: int) -> None:
        super().__init__(f"there is no partition {partition}; there are {count}, 0 to {count - 1}")


class TooManyFactsError(OperatorError):
    """A partition holds more facts than the caller wants to read."""


class LetterError(OperatorError):
    """The named dead letter does not exist."""


class RebuildLossError(OperatorError):
    """Kafka no longer has all events that the facts were computed from."""


class RebuildFailedError(OperatorError):
    """The rebuilt facts could not replace those in Redis."""


class WebPortError(OperatorError):
    """The worker's web page cannot listen on the port of the settings."""


class StateError(OperatorError):
    """The bridge cannot use its state file."""


class GitlabTablesError(OperatorError):
    """GitLab's database lacks what the bridge reads, or does not let it."""


class SlotError(OperatorError):
    """The replication slot or the publication is not as it must be."""


class TokenKeyError(OperatorError):
    """The key of GitLab's encrypted tokens cannot be used."""


class DevError(OperatorError):
    """The development environment cannot run."""


class LostTopicsError(OperatorError):
    """Topics no longer have what Kafka had acknowledged to the GitLab bridge."""


class UnpreparedError(OperatorError):
    """GitLab's database is not set up as the bridge needs it."""


class TemporaryError(ProjectorError):
    """Kafka answers, but not with what was asked for; trying again may help."""


class RangeError(TemporaryError):
    """A range of a topic could not be read."""


class NoAgreementError(TemporaryError):
    """Too few replicas of a partition name the same leader."""


class UnansweredError(TemporaryError):
    """Kafka does not return dead letters that it has."""


class SlotBusyError(TemporaryError):
    """Another connection reads the replication slot."""


class OpenTransactionsError(TemporaryError):
    """Transactions in GitLab's database stay open, and a new slot waits for them."""


class HistoryLostError(ProjectorError):
    """Kafka no longer has events that the facts need: retrying cannot help, lookups get 503."""


class WriteRefusedError(ProjectorError):
    """Redis holds a newer claim, or no longer what this owner wrote last."""


class IncompleteCheckpointError(ProjectorError):
    """Redis holds fewer or more facts than the checkpoint counts."""


class NotCopartitionedError(ProjectorError):
    """An assignment gave this worker a partition of one topic but not of the others."""


class UnsupportedAiokafkaError(ProjectorError):
    """aiokafka's fetcher has changed, so that records it cannot parse would stop a partition."""


class MalformedMessageError(ProjectorError):
    """PostgreSQL sent what its replication protocol does not have."""


class SnapshotNeededError(ProjectorError):
    """The stream alone can no longer make the mirror what GitLab's database is."""


def advise_extra(extra: str) -> str:
    """Return how to install an extra, without a name that a package registry must know."""
    return (
        f"install the extra `{extra}`: `pip install '.[{extra}]'` in the product's source, or "
        f"`pip install 'FILE[{extra}]'` with the product's wheel as FILE"
    )
