"""Configuration files of agents, read as `projector feed --agent-config` reads them."""

from typing import Any

import pytest

from projector.feed.agent_config_file import BadAgentFile, SharedAccess, read_agent_config


def shared(source: str) -> SharedAccess:
    return read_agent_config(source.encode())


def entry(source: str) -> Any:
    """Return the entry with these fields."""
    indented = "".join(f"\n      {line}" for line in source.splitlines())
    [only] = shared(f"ci_access:\n  projects:\n    - id: a{indented}").projects
    return only


def faults(source: str | bytes) -> list[tuple[int, str]]:
    with pytest.raises(BadAgentFile) as caught:
        read_agent_config(source if isinstance(source, bytes) else source.encode())
    return [(line, reason) for line, reason in caught.value.faults]
