"""The attributes by which dead letters are grouped.

The usage of a command imports this module, so it imports nothing that takes long.
"""

from enum import StrEnum


class GroupBy(StrEnum):
    """The attribute that the letters of a group have in common."""

    REASON = "reason"
    TYPE = "type"
    SOURCE = "source"
