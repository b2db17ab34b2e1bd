"""CloudEvents attributes in the headers of a record, as Kafka's binary mode has them.

Names of headers and media types are compared without case.
"""

from typing import Final

from projector.events.model import BadEvent
from projector.events.redaction import Headers

# Of the attributes that the product reads, the ones with a meaning for it.
NAMES: Final = ("specversion", "id", "source", "type", "partitionkey", "time", "sequence")
_CLOUDEVENT: Final = b"application/cloudevents"
_ATTRIBUTE_OF: Final = {f"ce_{name}": name for name in NAMES}


def is_binary(headers: Headers) -> bool:
    """Whether the headers hold the attributes: `ce_specversion` does, and no media type denies it.

    A media type of CloudEvents means that the value is the whole event.
    """
    found = False
    for name, content in headers:
        if content and (name == "content-type" or name.lower() == "content-type"):
            if _is_cloudevent(content):
                return False
        elif name == "ce_specversion" or name.lower() == "ce_specversion":
            found = True
    return found


def _is_cloudevent(content: bytes) -> bool:
    return content.startswith(_CLOUDEVENT) or content.strip().lower().startswith(_CLOUDEVENT)


def read_attributes(headers: Headers) -> dict[str, str]:
    """Return the attributes by their names; raises `BadEvent` if two headers differ about one."""
    attributes: dict[str, str] = {}
    for name, content in headers:
        attribute = _ATTRIBUTE_OF.get(name) or _ATTRIBUTE_OF.get(name.lower())
        if attribute is None:
            continue
        try:
            text = content.decode() if content else ""
        except UnicodeDecodeError:
            raise BadEvent(f"the header {name} is not UTF-8") from None
        if attributes.setdefault(attribute, text) != text:
            raise BadEvent(f"the header {name} is there more than once, with different contents")
    return attributes


def all_attributes(headers: Headers) -> list[tuple[str, str]]:
    """Return every attribute of every header, readable or not, in the order of the headers."""
    return [
        (_ATTRIBUTE_OF[name.lower()], (content or b"").decode(errors="replace"))
        for name, content in headers
        if name.lower() in _ATTRIBUTE_OF
    ]
