"""Settings of GitLab and PostgreSQL that may change while the bridge streams."""

import asyncio
import time
from typing import Final

from projector.gitlab.mapping.state import Mark
from projector.gitlab.memory import Memory
from projector.gitlab.own_thread import OwnThread
from projector.gitlab.source import MAIN
from projector.gitlab.stream.look import Looker

# Between two readings of PostgreSQL's catalogs: grants and the publication may be changed.
CHECK_S: Final = 3600.0


class LiveSettings:
    """The settings that no stream shows, and that must be asked for."""

    def __init__(self, looker: OwnThread[Looker], memory: Memory) -> None:
        self._looker = looker
        self._memory = memory
        # An answer that is older than another must not be stored after it.
        self._lock = asyncio.Lock()
        self._organization_agents: bool | None = None
        self._has_read = False
        self._checked_at = 0.0

    async def require_followed(self) -> None:
        """Refuse a table of a GitLab upgrade that is not granted or not published."""
        await self._looker.run(Looker.require_followed)
        self._checked_at = time.monotonic()

    async def follow(self) -> None:
        """Store if agents may be used outside their top-level group; now and then check tables."""
        async with self._lock:
            if time.monotonic() - self._checked_at > CHECK_S:
                await self.require_followed()
            allowed = await self._looker.run(Looker.organization_agents)
            if self._has_read and allowed == self._organization_agents:
                return
            position = await self._memory.state.run(lambda state: state.position(MAIN))
            mark = Mark(MAIN, position.lsn if position else 0, None)
            await self._memory.change(lambda state: state.set_organization_agents(allowed, mark))
            self._organization_agents, self._has_read = allowed, True
