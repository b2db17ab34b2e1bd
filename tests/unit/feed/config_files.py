"""Configuration files of agents, read as `projector feed --agent-config` reads them."""

from typing import Any

import pytest

from projector.feed.agent_config_file import BadAgentFile, SharedAccess, read_agent_config


def shared(source: str, *, allow_unknown: bool = False) -> SharedAccess:
    return read_agent_config(source.encode(), allow_unknown=allow_unknown)


def entry(source: str) -> Any:
    """Return the entry with these fields, which may be unknown ones."""
    indented = "".join(f"\n      {line}" for line in source.splitlines())
    source = f"ci_access:\n  projects:\n    - id: a{indented}"
    [only] = shared(source, allow_unknown=True).projects
    return only


def faults(source: str | bytes) -> list[tuple[int, str]]:
    with pytest.raises(BadAgentFile) as caught:
        read_agent_config(source if isinstance(source, bytes) else source.encode())
    return [(line, reason) for line, reason in caught.value.faults]
