"""Backlogs of GitLab's changes through the bridge, against its parts.

The bridge is paused while the changes are made, so that the clock runs for its work alone.
"""

import time
from typing import Final

from tests.integration.deployment import Deployment

from benchmarks import gitlab_sent, gitlab_server, producing
from benchmarks.gitlab_server import GitLab, paused, start_bridge
from benchmarks.processes import CpuClock, Servers, once
from benchmarks.rounds import Report, Round, Sample
from benchmarks.sizes import Sizes
from projector.events.model import Topic

PARTITIONS: Final = 4
COPY: Final = "copy"
# Of members of projects: nobody else's access follows from theirs, so each change is one event.
CHANGED: Final = "SELECT id FROM members WHERE source_type = 'Project' ORDER BY id LIMIT"
COMMITS: Final = f"""
CREATE PROCEDURE one_by_one(number integer, level integer) LANGUAGE plpgsql AS $$
DECLARE member bigint;
BEGIN
  FOR member IN {CHANGED} number LOOP
    UPDATE members SET access_level = level WHERE id = member;
    COMMIT;
  END LOOP;
END $$"""
# None is that of the rows as they were made, so that each round changes all.
LEVELS: Final = (20, 40, 10, 50)


def measure(servers: Servers, sizes: Sizes, report: Report) -> None:
    """Measure many small transactions, and one large one."""
    with (
        gitlab_server.running(sizes.gitlab_rows) as gitlab,
        servers.deployment(PARTITIONS) as deployment,
    ):
        gitlab.execute(COMMITS)
        gitlab.execute("SET synchronous_commit = off")
        rig = Rig(servers, gitlab, deployment)
        report.figures["gitlab_commits"] = rig.rounds(
            sizes.gitlab_rounds, sizes.gitlab_commits, "CALL one_by_one({number}, {level})"
        )
        report.figures["gitlab_changes"] = rig.rounds(
            sizes.gitlab_rounds, sizes.gitlab_changes,
            f"UPDATE members SET access_level = {{level}} WHERE id IN ({CHANGED} {{number}})",
        )  # fmt: skip


class Rig:
    """A bridge that has sent its snapshot, and a slot for pg_recvlogical."""

    def __init__(self, servers: Servers, gitlab: GitLab, deployment: Deployment) -> None:
        self._kafka = servers.kafka
        self._gitlab = gitlab
        self._topic = deployment.prefix + Topic.MEMBERSHIP
        self._copy = deployment.prefix + COPY
        self._turn = 0
        gitlab.slot(COPY)
        self._bridge = start_bridge(deployment, gitlab, "backlog")
        gitlab.until_slot("backlog", self._bridge)
        gitlab_sent.until_vouched(self._kafka, deployment.prefix, PARTITIONS)
        producing.create_topic(deployment, COPY, PARTITIONS)

    def rounds(self, rounds: int, number: int, sql: str) -> list[Round]:
        """Measure so many rounds of a change of `number` rows."""
        return [self._round(number, sql) for _ in range(rounds)]

    def _round(self, number: int, sql: str) -> Round:
        level = LEVELS[self._turn % len(LEVELS)]
        self._turn += 1
        starts = gitlab_sent.ends(self._kafka, self._topic, PARTITIONS)
        with CpuClock(self._bridge.process.pid) as cpu:
            with paused(self._bridge):
                self._gitlab.execute(sql.format(number=number, level=level))
                end = self._gitlab.position()
            began = time.monotonic()
            ended = gitlab_sent.until_ends(
                self._kafka, self._topic, PARTITIONS, sum(starts) + number
            )
        product = Sample(number / (ended - began), cpu.seconds / number * 1e6)
        return Round(product, self._limit(number, end, starts))

    def _limit(self, number: int, end: str, starts: list[int]) -> Sample:
        seconds, cpu, drained, events = once(
            "drain_and_produce", self._gitlab.dsn, COPY, end, self._kafka, self._topic, self._copy,
            *starts,
        )  # fmt: skip
        more = {"pg_recvlogical": drained, "events": events}
        return Sample(number / seconds, cpu / number * 1e6, more)
