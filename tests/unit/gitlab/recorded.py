"""What PostgreSQL 15 sent, as tests/integration/gitlab/recording.py recorded it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from projector.gitlab.mapping.tables import Change
from projector.gitlab.postgres.pgoutput import Delete, Insert, Relation, Truncate, Update, decode
from projector.gitlab.postgres.relations import Relations

_FILE: Final = Path(__file__).parents[2] / "data" / "pgoutput-15.json"
STEPS: Final = {
    name: [bytes.fromhex(message) for message in messages]
    for name, messages in json.loads(_FILE.read_text()).items()
}
MESSAGES: Final = [message for messages in STEPS.values() for message in messages]


def changes(messages: list[bytes], relations: Relations | None = None) -> Iterator[Change]:
    """Yield the changes of a part of the stream."""
    relations = relations or Relations()
    for message in map(decode, messages):
        if isinstance(message, Relation):
            relations.describe(message)
        elif isinstance(message, Insert | Update | Delete | Truncate):
            yield from relations.changes(message)


def changes_of(step: str, *, tokens: bool = False) -> list[Change]:
    """Return the changes of one step; those before it have described the tables."""
    names = list(STEPS)
    relations = Relations(tokens=tokens)
    for name in names[: names.index(step)]:
        list(changes(STEPS[name], relations))
    return list(changes(STEPS[step], relations))
