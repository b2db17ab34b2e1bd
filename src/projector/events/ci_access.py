"""The entries of `ci_access` in an agent's `config.yaml`, and why an entry does not count.

GitLab's app/services/clusters/agents/authorizations/ci_access/refresh_service.rb decides which
entries count. KAS' pkg/agentcfg/agentcfg.proto decides which entries its client can read. KAS
refuses a whole answer for one entry that it cannot read, so such entries are left out and reported.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta, Struct

from projector.events.model import MAX_ID

Entry = dict[str, Any]

# GitLab's AUTHORIZED_ENTITY_LIMIT: only the first entries of each list count, as written.
MAX_ENTRIES: Final = 500
MAX_REJECTIONS_SHOWN: Final = 5

_Text = Annotated[str, Meta(min_length=1)]


class Extra(Struct):
    """An additional attribute of an impersonated user."""

    key: _Text
    val: Annotated[list[str], Meta(min_length=1)]


class Impersonate(Struct):
    """The identity that an agent impersonates for jobs."""

    username: _Text
    groups: list[str] | None = None
    uid: str | None = None
    extra: list[Extra] | None = None


# The fields that KAS reads. It also reads `accessAs` for `access_as`, but refuses both at once.
FIELDS: Final = ("default_namespace", "access_as")
# The identities of KAS with the shape of each. `access_as` must name exactly one.
IDENTITIES: Final[dict[str, Any]] = {
    "agent": dict[str, Any],
    "ci_job": dict[str, Any],
    "impersonate": Impersonate,
}


class Grant(NamedTuple):
    """An entry that counts. The last one for a project or group, by `position`, is used.

    `target` is the project's or group's numeric id, or its path in lower case.
    """

    position: int
    target: int | str
    configuration: Entry


def read_grants(entries: Iterable[Entry]) -> Iterator[Grant]:
    """Yield a grant for each entry of a list that counts."""
    for position, entry in enumerate(entries):
        if rejection_reason(entry) is None:
            target = entry["id"]
            target = target.lower() if isinstance(target, str) else target
            configuration = {name: value for name, value in entry.items() if name != "id"}
            yield Grant(position, target, configuration)


def rejections(name: str, entries: Iterable[Entry]) -> Iterator[str]:
    """Yield a sentence for each entry of the list `name` that does not count."""
    for position, entry in enumerate(entries):
        if reason := rejection_reason(entry):
            yield f"`{name}[{position}]` does not count: {reason}"


def rejection_reason(entry: Entry) -> str | None:
    """Return why the entry does not count, or None."""
    target = entry.get("id")
    is_id = type(target) is int and 1 <= target <= MAX_ID
    if not is_id and not (isinstance(target, str) and target):
        return "`id` must be a path, or a number from 1"
    return unreadable_reason(entry)


def unreadable_reason(configuration: Entry) -> str | None:
    """Return why KAS cannot read the configuration, or None."""
    if twice := _given_twice(configuration, FIELDS):
        return twice
    namespace, access = (_field(configuration, name) for name in FIELDS)
    if not isinstance(namespace, str | None):
        return "`default_namespace` must be text"
    return None if access is None else _unreadable_identity(access)


def _unreadable_identity(access: Any) -> str | None:
    if not isinstance(access, dict):
        return "`access_as` must be an object"
    if twice := _given_twice(access, IDENTITIES):
        return twice
    named = [name for name in IDENTITIES if _field(access, name) is not None]
    if len(named) != 1:
        return f"`access_as` must name exactly one of {', '.join(IDENTITIES)}"
    try:
        msgspec.convert(_field(access, named[0]), IDENTITIES[named[0]])
    except msgspec.ValidationError as error:
        return f"`access_as.{named[0]}`: {error}"
    return None


def _field(message: Entry, name: str) -> Any:
    return message.get(name, message.get(other_spelling(name)))


def _given_twice(message: Entry, names: Iterable[str]) -> str | None:
    for name in names:
        other = other_spelling(name)
        if other != name and name in message and other in message:
            return f"`{name}` is given twice, also as `{other}`"
    return None


def other_spelling(name: str) -> str:
    """Return the camel-case spelling: `accessAs` for `access_as`."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
