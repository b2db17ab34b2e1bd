"""Feeders: the teams that may send events, their tokens' digests and their rights. No I/O."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from projector.events.heartbeats import SourceName
from projector.events.model import (
    EVENT_TYPES,
    HEARTBEAT,
    PATTERNS,
    AgentConfigured,
    AgentRemoved,
    AgentSet,
    Digest,
    Event,
    Id,
    InstanceAgentRemoved,
    InstanceAgentSet,
    RootNamespace,
    SharedAgentRemoved,
    SharedAgentSet,
    Text,
)
from projector.feed.yaml_nodes import NodeReader, UnreadableYaml, compose

# Bounds the time until a changed file counts.
MAX_FEEDERS: Final = 1000
ALL: Final = "*"
_EMPTY: Final = hashlib.sha256(b"").hexdigest()
_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z"
_WORDS: Final = PATTERNS | {
    _NAME: "of 1 to 63 of A-Z, a-z, 0-9, . _ and -, a letter or digit first"
}
_QUOTED: Final = re.compile(r"'[^']*'")
_AGENTS: Final = (
    AgentSet, AgentRemoved, AgentConfigured, SharedAgentSet, SharedAgentRemoved,
    InstanceAgentSet, InstanceAgentRemoved,
)  # fmt: skip


class WrongFeedersError(ValueError):
    """A file of feeders that cannot be used; the message names the entry and never a token."""


class Feeder(Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of the file: a team's name, the digest of its token, and its rights."""

    name: Annotated[str, Meta(pattern=_NAME)]
    token_sha256: Digest
    types: list[Text]
    partitionkeys: list[RootNamespace | Id] | Literal["*"]
    sources: list[Text] | Literal["*"]
    # By default every agent where every namespace may be written, else none.
    agents: list[Id] | Literal["*"] | None = None
    heartbeats: list[SourceName] = []

    def refusal(self, event: Event, source: str | None) -> str | None:
        """Return why this feeder may not send the event of this CloudEvents source, or None."""
        if not any(fnmatchcase(event.type, glob) for glob in self.types):
            return f"this token may not send {event.type}"
        if reason := self._refused_source(source):
            return reason
        if self.partitionkeys != ALL:
            if event.kind.broadcast:
                return (
                    f"{event.type} holds for every namespace: it needs a token whose "
                    '`partitionkeys` is "*"'
                )
            if event.root not in map(str, self.partitionkeys):
                return f"this token may not send events of the partitionkey {event.root}"
        if isinstance(event.data, _AGENTS) and not self._may_name(event.data.id):
            return f"this token may not send events about agent {event.data.id}"
        return None

    def heartbeat_refusal(self, name: str, source: str | None) -> str | None:
        """Return why this feeder may not send heartbeats of the source `name`, or None."""
        if name not in self.heartbeats:
            return f"this token may not send {HEARTBEAT} of {name}"
        return self._refused_source(source)

    def _refused_source(self, source: str | None) -> str | None:
        if self.sources == ALL:
            return None
        if source is None:
            return "the event has no `source` that can be read, and this token is bound to some"
        if any(fnmatchcase(source, glob) for glob in self.sources):
            return None
        return "this token may not send events of this `source`"

    def _may_name(self, agent: int) -> bool:
        if self.agents is None:
            return self.partitionkeys == ALL
        return self.agents == ALL or agent in self.agents


def find_feeder(feeders: Mapping[str, Feeder], token: bytes) -> Feeder | None:
    """Return the feeder of a token.

    The time may depend on the token's digest. That reveals nothing: a client cannot choose digests.
    """
    return feeders.get(hashlib.sha256(token).hexdigest())


def parse_feeders(content: bytes) -> dict[str, Feeder]:
    """Parse the file, YAML or JSON, into feeders by digest; raises `WrongFeedersError`."""
    try:
        node = compose(content)
        entries = [] if node is None else NodeReader().value(node, 0)
    except UnreadableYaml as error:
        raise WrongFeedersError(f"line {error.fault.line}: {error.fault.reason}") from None
    if not isinstance(entries, list) or not entries:
        raise WrongFeedersError("must be a list with at least one entry; an entry begins `- name:`")
    if len(entries) > MAX_FEEDERS:
        raise WrongFeedersError(f"has {len(entries)} entries; {MAX_FEEDERS} is the most")
    feeders = [_feeder(number, entry) for number, entry in enumerate(entries, start=1)]
    _refuse_doubles(feeders)
    return {feeder.token_sha256.lower(): feeder for feeder in feeders}


def _feeder(number: int, entry: Any) -> Feeder:
    name = entry.get("name") if isinstance(entry, Mapping) else None
    where = f"entry {number}" + (f" ({name[:63]!r})" if isinstance(name, str) else "")
    try:
        feeder = msgspec.convert(entry, Feeder)
    except msgspec.ValidationError as error:
        raise WrongFeedersError(f"{where}: {_reason(str(error))}") from None
    if feeder.token_sha256.lower() == _EMPTY:
        raise WrongFeedersError(f"{where}: `token_sha256` is the digest of an empty text")
    for glob in feeder.types:
        if not any(fnmatchcase(known, glob) for known in EVENT_TYPES):
            raise WrongFeedersError(
                f"{where}: `types` has {glob[:63]!r}, which no type matches; known are "
                f"{', '.join(EVENT_TYPES)}; {HEARTBEAT} has `heartbeats` of its own"
            )
    return feeder


def _reason(message: str) -> str:
    """Word an error of msgspec, without the values that it quotes."""
    for pattern, words in _WORDS.items():
        message = message.replace(f"matching regex {pattern!r}", words)
    message = _QUOTED.sub("another text", message).replace("`$.", "`")
    hint = (
        "; write `token_sha256`, its SHA-256 in hex" if "unknown field `token`" in message else ""
    )
    return message + hint


def _refuse_doubles(feeders: Sequence[Feeder]) -> None:
    seen: dict[str, str] = {}
    for feeder in feeders:
        for unique in (f"name {feeder.name}", f"digest {feeder.token_sha256.lower()}"):
            if unique in seen:
                what = "name" if unique.startswith("name") else "`token_sha256`"
                raise WrongFeedersError(
                    f"{feeder.name!r} and {seen[unique]!r} have the same {what}; give each its own"
                )
            seen[unique] = feeder.name
