"""The question for ended builds, on PostgreSQL."""

from projector.gitlab.prune import read_ended
from tests.integration.gitlab.gitlab_database import GitlabDatabase

UNFINISHED = ("created", "pending", "running", "canceling", "skipped", "manual", "scheduled")
ENDED = ("success", "failed", "canceled", None)


def test_only_builds_that_have_ended_are_found(gitlab_database: GitlabDatabase) -> None:
    with gitlab_database.connect() as gitlab:
        builds = [
            row[0]
            for kind, statuses in (
                ("Ci::Build", UNFINISHED), ("Ci::Build", ENDED), ("Ci::Bridge", ["running"])
            )
            for status in statuses
            for row in gitlab.execute(
                "INSERT INTO p_ci_builds (partition_id, status, type, commit_id, project_id)"
                " VALUES (100, %s, %s, 1, 1) RETURNING id", [status, kind],
            )
        ]  # fmt: skip
    gone = max(builds) + 1
    ended = read_ended(gitlab_database.bridge_dsn, [*builds, gone])
    assert sorted(ended) == builds[len(UNFINISHED) :]
