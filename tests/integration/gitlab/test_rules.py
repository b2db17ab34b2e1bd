"""From GitLab's rows to answers in one process, judged by the oracle of GitLab's rules."""

import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from projector.domain.projection import Policy, Projection
from projector.events.model import EVENT_TYPES, KafkaRecord
from projector.gitlab.mapping.envelope import encode
from projector.gitlab.mapping.state import Mark, Position, State
from projector.gitlab.mapping.tables import TABLES
from projector.gitlab.postgres import database
from projector.gitlab.postgres.pieces import Piece
from projector.gitlab.postgres.snapshot import slot_snapshot
from tests.integration.gitlab import follower
from tests.integration.gitlab.company.company import Company
from tests.integration.gitlab.gitlab_database import OWNER, GitlabDatabase
from tests.integration.gitlab.oracle import UNKNOWN, Oracle

POLL = Mark("main", 0, None)
POLICY = Policy(partitions=1, minimum_level=30, tombstone_retention_ms=7 * 24 * 3600 * 1000)
ROUNDS = 15
CHANGES = 20
# So that large transactions come in pieces.
LIMIT = 7


class Core:
    """A bridge's state, and a worker's core that applies its events at once."""

    def __init__(self, folder: Path, *, by_counter: bool) -> None:
        self.state = State(folder / "state.db", by_counter=by_counter)
        self.projection = Projection(0, POLICY)
        self._sent = 0

    def deliver(self) -> None:
        now_ms = int(time.time() * 1000)
        for row in self.state.unsent(self._sent, 10**6):
            topic, self._sent = EVENT_TYPES[row.type].topic, row.number
            record = KafkaRecord(topic, 0, row.number, now_ms, None, encode(row, now_ms))
            fault = self.projection.apply(record)
            assert fault is None or "does not count" in fault, fault

    def answers(self) -> dict[int, Any]:
        return {
            view.job: UNKNOWN if view.status == 401 else (view.status, orjson.loads(view.body))
            for view in self.projection.all_views(int(time.time() * 1000))
        }


class Poll(Core):
    """All tables are read in each round."""

    def __init__(self, gitlab: GitlabDatabase, folder: Path) -> None:
        super().__init__(folder, by_counter=True)
        self._dsn = gitlab.bridge_dsn

    async def catch_up(self) -> None:
        with database.reading(self._dsn) as connection:
            for table in TABLES.values():
                rows = database.copy_table(connection, table, table.read_by_poll())
                self.state.replace(table.name, rows)
        self.state.finish(POLL)


class Stream(Core):
    """A snapshot, and then what the slot brings; now and then several commits are one batch."""

    def __init__(self, gitlab: GitlabDatabase, folder: Path) -> None:
        super().__init__(folder, by_counter=False)
        self._gitlab = gitlab
        self._applied = 0

    async def start(self) -> None:
        dsn, slot = self._gitlab.bridge_dsn, follower.slot_of(self._gitlab)
        async with slot_snapshot(dsn, slot, follower.PUBLICATION) as found:
            self.state.start_snapshot({"main": Position(found.lsn, 0, "1", 1)})
            with database.reading(dsn, found.name) as connection:
                for table in TABLES.values():
                    rows = database.copy_table(connection, table, table.read_by_snapshot())
                    self.state.load(table.name, rows)
            self.state.finish_snapshot()
        self.follower = await follower.follow(self._gitlab, found.lsn, LIMIT)

    async def catch_up(self) -> None:
        await follower.caught_up(self.follower, self._gitlab)
        pieces = self.follower.pieces[self._applied :]
        self._applied += len(pieces)
        commits = [number for number, piece in enumerate(pieces) if piece.commit]
        for number, piece in enumerate(pieces):
            if piece.changes or piece.commit:
                self.state.apply(piece.changes)
            self._finish(piece, last=number in commits[-1:])

    def _finish(self, piece: Piece, *, last: bool) -> None:
        if piece.commit and (last or piece.commit.end_lsn % 3):
            self.state.finish(Mark("main", piece.commit.end_lsn, piece.commit.time_ms))


@asynccontextmanager
async def opened(source: str, gitlab: GitlabDatabase, folder: Path) -> AsyncIterator[Poll | Stream]:
    if source == "poll":
        poll = Poll(gitlab, folder)
        with closing(poll.state):
            yield poll
    else:
        stream = Stream(gitlab, folder)
        with closing(stream.state):
            await stream.start()
            try:
                yield stream
            finally:
                await stream.follower.close()


@pytest.mark.parametrize("source", ["poll", "stream"])
@pytest.mark.parametrize("seed", range(2))
async def test_a_random_company_gets_gitlabs_answers(
    gitlab_database: GitlabDatabase, tmp_path: Path, source: str, seed: int
) -> None:
    dsn = gitlab_database.server.socket_dsn(gitlab_database.name, OWNER)
    oracle, seen = Oracle(dsn), Counter[object]()
    with closing(Company(seed, dsn)) as company:
        company.found()
        async with opened(source, gitlab_database, tmp_path) as core:
            for round_ in range(ROUNDS):
                company.set_cross_root_grants(cross_root := round_ % 6 != 0)
                core.state.set_organization_agents(cross_root, POLL)
                company.change(CHANGES)
                await core.catch_up()
                core.deliver()
                right, answers = oracle.answers(), core.answers()
                for job in company.homes:
                    wanted, found = right.get(job, UNKNOWN), answers.get(job, UNKNOWN)
                    allowed = (wanted, UNKNOWN) if job in company.strayed else (wanted,)
                    assert found in allowed, f"round {round_}:\n  {found}\nbut right is\n  {wanted}"
                    seen[wanted.status] += 1
                    seen["agents"] += wanted.status == 200 and bool(wanted.body["allowed_agents"])
    assert min(seen[200], seen[401], seen[403], seen["agents"]) > 3, seen
