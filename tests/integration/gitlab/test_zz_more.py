"""From GitLab's rows to answers in one process, judged by the oracle of GitLab's rules."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from projector.domain.projection import Policy, Projection
from projector.domain.views import View
from projector.events.model import EVENT_TYPES, KafkaRecord
from projector.gitlab import database
from projector.gitlab.envelope import encode
from projector.gitlab.state import Mark, State
from projector.gitlab.tables import TABLES
from tests.integration.gitlab.company.company import Company
from tests.integration.gitlab.gitlab_database import OWNER, GitlabDatabase
from tests.integration.gitlab.oracle import UNKNOWN, Oracle

POLL = Mark("main", 0, None)
POLICY = Policy(partitions=1, minimum_level=30, tombstone_retention_ms=7 * 24 * 3600 * 1000)


class Pipe:
    """A polling bridge, and a worker's core that applies its events at once."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self.dsn = dsn
        self.state = State(folder / "state.db", by_counter=True)
        self.projection = Projection(0, POLICY)
        self.sent = 0

    def close(self) -> None:
        self.state.close()

    def read(self, *, cross_root: bool) -> None:
        """Read all tables anew, and apply what has changed."""
        self.state.set_organization_agents(cross_root, POLL)
        with database.reading(self.dsn) as connection:
            for table in TABLES.values():
                rows = database.copy_table(connection, table, table.read_by_poll())
                self.state.replace(table.name, rows)
        self.state.finish(POLL)
        now_ms = int(time.time() * 1000)
        for row in self.state.unsent(self.sent, 10**6):
            topic, self.sent = EVENT_TYPES[row.type].topic, row.number
            record = KafkaRecord(topic, 0, row.number, now_ms, None, encode(row, now_ms))
            fault = self.projection.apply(record)
            assert fault is None or "does not count" in fault, fault

    def answers(self) -> Callable[[int], Any]:
        views: dict[str, View] = {
            v.id: v for v in self.projection.all_views(int(time.time() * 1000))
        }

        def answer(job: int) -> Any:
            view = views.get(str(job))
            if view is None or view.status == 401:
                return UNKNOWN
            return view.status, orjson.loads(view.body)

        return answer


@pytest.mark.parametrize("seed", range(100, 112))
def test_a_random_company_gets_gitlabs_answers(
    gitlab_database: GitlabDatabase, tmp_path: Path, seed: int
) -> None:
    dsn = gitlab_database.server.socket_dsn(gitlab_database.name, OWNER)
    seen = Counter[object]()
    with (
        closing(Company(seed, dsn)) as company,
        closing(Oracle(dsn)) as oracle,
        closing(Pipe(gitlab_database.bridge_dsn, tmp_path)) as pipe,
    ):
        company.found()
        for round_ in range(25):
            company.set_cross_root_grants(cross_root := round_ % 6 != 0)
            company.change(20)
            pipe.read(cross_root=cross_root)
            right, answer = oracle.answers(), pipe.answers()
            for job in company.homes:
                wanted = right.get(job, UNKNOWN)
                allowed = (wanted, UNKNOWN) if job in company.strayed else (wanted,)
                assert answer(job) in allowed, (
                    f"job {job} in round {round_}:\n  {answer(job)}\nbut right is\n  {wanted}"
                )
                seen[wanted.status] += 1
                seen["agents"] += wanted.status == 200 and bool(wanted.body["allowed_agents"])
    assert min(seen[200], seen[401], seen[403], seen["agents"]) > 3, seen
