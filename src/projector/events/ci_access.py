"""The entries of `ci_access` in an agent's `config.yaml`, and why an entry does not count.

GitLab's app/services/clusters/agents/authorizations/ci_access/refresh_service.rb decides which
entries count. KAS' pkg/agentcfg/agentcfg.proto decides which entries its client can read. KAS
refuses a whole answer for one entry that it cannot read, so such entries are left out and reported.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
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
    val: Annotated[list[_Text], Meta(min_length=1)]


class Impersonate(Struct):
    """The identity that an agent impersonates for jobs."""

    username: _Text
    groups: list[_Text] | None = None
    uid: str | None = None
    extra: list[Extra] | None = None


# The fields of an entry that KAS reads from a file. It refuses a file with any other.
FIELDS: Final = (
    "id",
    "default_namespace",
    "access_as",
    "environments",
    "protected_branches_only",
    "resource_management",
)
# The identities of KAS with the shape of each. `access_as` must name exactly one.
IDENTITIES: Final[dict[str, Any]] = {
    "agent": dict[str, Any],
    "ci_job": dict[str, Any],
    "impersonate": Impersonate,
}
IMPERSONATED: Final = Impersonate.__struct_fields__
EXTRAS: Final = Extra.__struct_fields__
_SEPARATORS: Final = "-_. "
_NO_SEPARATORS: Final = str.maketrans("", "", _SEPARATORS)
# Short names differ by few letters without being slips: `ci_user` is not `ci_job`.
_LENGTHS_FOR_A_SLIP: Final = (8, 12)
# Longer names are not slips. Names come from events, and the cache keeps them: at most 64 KB.
_MAX_SLIP_LENGTH: Final = 64


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
    """Return why KAS cannot read the configuration, or reads less than is meant; else None."""
    if misspelt := _misspelt(configuration, FIELDS):
        return misspelt
    if not isinstance(configuration.get("default_namespace"), str | None):
        return "`default_namespace` must be text"
    access = configuration.get("access_as")
    return None if access is None else _unreadable_identity(access)


def _unreadable_identity(access: Any) -> str | None:
    if not isinstance(access, dict):
        return "`access_as` must be an object"
    if misspelt := _misspelt(access, IDENTITIES):
        return f"`access_as`: {misspelt}"
    named = [name for name in IDENTITIES if access.get(name) is not None]
    if len(named) != 1:
        return f"`access_as` must name exactly one of {', '.join(IDENTITIES)}"
    identity = access[named[0]]
    try:
        msgspec.convert(identity, IDENTITIES[named[0]])
    except msgspec.ValidationError as error:
        return f"`access_as.{named[0]}`: {error}"
    misspelt = _misspelt_impersonation(identity) if named[0] == "impersonate" else None
    return misspelt and f"`access_as.impersonate`: {misspelt}"


def _misspelt_impersonation(identity: Entry) -> str | None:
    extras = ((extra, EXTRAS) for extra in identity.get("extra") or ())
    reasons = (_misspelt(*part) for part in ((identity, IMPERSONATED), *extras))
    return next(filter(None, reasons), None)


def _misspelt(message: Mapping[str, Any], known: Collection[str]) -> str | None:
    for name in message:
        is_slip = name not in known and len(name) <= _MAX_SLIP_LENGTH
        if is_slip and (meant := intended_field(name, tuple(known))):
            return f"`{name}` is not read; write `{meant}`"
    return None


@lru_cache(maxsize=1024)
def intended_field(name: str, known: tuple[str, ...]) -> str | None:
    """Return the field that an unknown name spells in another way, or None.

    KAS drops such a name from GitLab's answer. A misspelt restriction would then restrict nothing.
    """
    letters = name.lower().translate(_NO_SEPARATORS)
    near = (field for field in known if _spells(letters, field.replace("_", "")))
    return next(near, None)


def spellings(field: str) -> str:
    """Return the pattern of camel case, dashes and capitals: `accessAs` for `access_as`."""
    return f"[{_SEPARATORS}]*".join(field.split("_"))


def _spells(name: str, field: str) -> bool:
    """Whether few letters are wrong, missing or too many: two of twelve, one of eight."""
    return _is_near(name, field, sum(len(field) >= length for length in _LENGTHS_FOR_A_SLIP))


def _is_near(name: str, field: str, slips: int) -> bool:
    if abs(len(name) - len(field)) > slips:
        return False
    if not slips:
        return name == field
    pairs = enumerate(zip(name, field, strict=False))
    at = next((i for i, (one, other) in pairs if one != other), None)
    if at is None:
        return True
    name, field = name[at:], field[at:]
    rests = (name[1:], field[1:]), (name[1:], field), (name, field[1:])
    return any(_is_near(*rest, slips - 1) for rest in rests)
