"""GitLab's rows as events, and the events as answers: both by the oracle of its rules."""

import time
from collections import Counter
from contextlib import closing

import pytest

from projector.gitlab import database
from projector.gitlab.mirror import Mirror
from projector.gitlab.tables import TABLES
from tests.integration.gitlab.company.company import Company
from tests.integration.gitlab.gitlab_database import OWNER, GitlabDatabase
from tests.integration.gitlab.oracle import UNKNOWN, Oracle
from tests.oracle import Oracle as EventOracle
from tests.unit.gitlab.gitlab_world import GitLab

FORBIDDEN = 403


class Reader:
    """A mirror in memory that reads all tables anew, and answers from the events it has sent."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.told = GitLab()
        self.mirror = Mirror(self.told.db)
        self.answers = EventOracle({}, sent_at=int(time.time() * 1000))

    def read(self, *, cross_root: bool) -> None:
        with database.reading(self.dsn) as connection:
            for table in TABLES.values():
                rows = database.copy_table(connection, table, table.read_by_poll())
                self.mirror.replace(table.name, rows)
        self.told.setting(int(cross_root))
        for event in self.told.compare():
            key = {"partitionkey": event.root, "type": event.type}
            self.answers.take({**key, "sequence": str(self.told.sequence), "data": event.data})
        assert self.told.refused == []

    def found(self) -> dict[str, object]:
        return self.answers.views(int(time.time() * 1000))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_random_company_gets_gitlabs_answers(gitlab_database: GitlabDatabase, seed: int) -> None:
    dsn = gitlab_database.server.socket_dsn(gitlab_database.name, OWNER)
    oracle, seen = Oracle(dsn), Counter[object]()
    with (
        closing(Company(seed, dsn)) as company,
        closing(Pipe(gitlab_database.bridge_dsn, tmp_path)) as pipe,
    ):
        company.found()
        for round_ in range(12):
            company.set_cross_root_grants(cross_root := round_ % 6 != 0)
            company.change(25)
            reader.read(cross_root=cross_root)
            views = reader.found()
            for job, right in oracle.answers().items():
                found = views.get(str(job), 401)
                seen[right.status] += 1
                seen["agents"] += right.status == 200 and bool(right.body["allowed_agents"])
                want = (200, right.body) if right.status == 200 else right.status
                allowed = (want, 401) if job in company.strayed else (want,)
                assert found in allowed, (
                    f"job {job} in round {round_}: {found}, but right is {right}"
                )
            ended = company.homes.keys() - oracle.answers().keys()
            assert {views.get(str(job), UNKNOWN.status) for job in ended} <= {UNKNOWN.status}
    assert min(seen[200], seen["agents"], seen[FORBIDDEN]) > 5, seen
