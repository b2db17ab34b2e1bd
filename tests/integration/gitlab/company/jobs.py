"""Jobs: created, waiting, run, canceled, finished and deleted, with their environments."""

from typing import Any

from tests.integration.gitlab.company.session import Row, Session
from tests.integration.gitlab.company.tree import Act, new_environment

SOMEBODY = """
WITH RECURSIVE below (member, user_id, id) AS (
  SELECT m.id, m.user_id, m.source_id FROM members m JOIN users u ON u.id = m.user_id
    WHERE m.source_type = 'Namespace' AND m.access_level >= 20 AND u.state = 'active'
  UNION ALL
  SELECT member, user_id, n.id FROM below JOIN namespaces n ON n.parent_id = below.id
    AND n.type = 'Group')
SELECT user_id, p.id AS project_id FROM below JOIN projects p ON p.namespace_id = below.id
  WHERE p.pending_delete IS NOT TRUE ORDER BY member, p.id
"""
LIVE = "p_ci_builds WHERE status IN ('running', 'canceling')"
WAITING = (
    "p_ci_builds WHERE status NOT IN ('running', 'canceling', 'success', 'failed', 'canceled')"
)
ENVIRONMENTS = (
    None, None, "production", "production", "review/1", "review/2", "staging", "foo/review/1",
    "late/" + "x" * 200,
)  # fmt: skip
MOST_LIVE = 60


def somebody(it: Session) -> Row:
    """Return a user who may run jobs in a project, or rarely anyone anywhere."""
    if it.chance(0.85) and (found := it.rows(SOMEBODY)):
        return it.choice(*found)
    return {"user_id": it.pick("users"), "project_id": it.pick("projects")}


def new_job(it: Session, status: str = "pending") -> int | None:
    """Make a job that waits, with its token; its metadata now, or once it runs."""
    who = somebody(it)
    if who["project_id"] is None:
        return None
    partition = it.choice(*it.partitions)
    token = it.tokens.new(partition)
    job = it.insert(
        "p_ci_builds", partition_id=partition, status=status, commit_id=it.random.randint(1, 2**40),
        type="Ci::Build" if it.chance(0.95) else "Ci::Bridge",
        protected=it.choice(True, False, None), timeout=it.choice(3600, 3600, 60, None),
        token_encrypted=it.tokens.encrypt(token),
        options=it.text(3000) if it.chance(0.3) else None, name="build", **who,
    )  # fmt: skip
    it.encrypted[job] = token
    if it.chance(0.8):
        write_metadata(it, job)
    return job


def write_metadata(it: Session, job: int) -> None:
    row = it.rows("SELECT project_id, partition_id FROM p_ci_builds WHERE id = %s", job)[0]
    name = it.choice(*ENVIRONMENTS)
    it.update("p_ci_builds", job, environment=name)
    if name and it.chance(0.7):
        ensure_environment(it, row["project_id"], name)
    if write_job_environment(it, job, row["project_id"], name) and it.chance(0.5):
        return  # as since GitLab 18.4
    it.rows(
        "INSERT INTO p_ci_builds_metadata (build_id, project_id, partition_id,"
        " expanded_environment_name) VALUES (%s, %s, %s, %s) ON CONFLICT (build_id, partition_id)"
        " DO UPDATE SET expanded_environment_name = excluded.expanded_environment_name",
        job, row["project_id"], row["partition_id"], name,
    )  # fmt: skip


def write_job_environment(it: Session, job: int, project: int, name: str | None) -> bool:
    """Write a job's environment as GitLab does since 18.3, or leave it to the metadata."""
    it.rows("DELETE FROM job_environments WHERE ci_job_id = %s", job)
    same = "SELECT id FROM environments WHERE project_id = %s AND name = %s"
    environment = it.value(same, project, name)
    if environment is None or it.chance(0.4):
        return False
    it.insert(
        "job_environments", project_id=project, environment_id=environment, ci_job_id=job,
        ci_pipeline_id=1, expanded_environment_name=name,
    )  # fmt: skip
    return True


def ensure_environment(it: Session, project: int, name: str) -> None:
    known = it.value("SELECT 1 FROM projects WHERE id = %s", project)
    same = "SELECT 1 FROM environments WHERE project_id = %s AND (name = %s OR slug = %s)"
    if known and not it.value(same, project, name, name.replace("/", "-")[:24]):
        new_environment(it, project, name)


def run_job(it: Session, job: int | None = None) -> int | None:
    """Let a runner take a job."""
    job = job or it.pick(WAITING)
    if job is not None:
        it.rows("UPDATE p_ci_builds SET status = 'running', started_at = now() WHERE id = %s", job)
        if it.chance(0.2):
            write_metadata(it, job)
    return job


def start_job(it: Session) -> None:
    if it.value(f"SELECT count(*) FROM {LIVE}") < MOST_LIVE:
        run_job(it, new_job(it))


def wait(it: Session) -> None:
    new_job(it, it.choice("created", "manual", "skipped", "scheduled", "waiting_for_resource"))


def start_pipeline(it: Session) -> None:
    """Start several jobs in one transaction."""
    for _ in range(it.random.randint(2, 6)):
        start_job(it)


def cancel_job(it: Session) -> None:
    if job := it.pick(LIVE):
        it.update("p_ci_builds", job, status="canceling")


def finish_job(it: Session) -> None:
    if job := it.pick(LIVE):
        status = it.choice("success", "failed", "canceled")
        it.rows(
            "UPDATE p_ci_builds SET status = %s, finished_at = now() WHERE id = %s", status, job
        )


def short_job(it: Session) -> None:
    """Start a job and end it in the same transaction."""
    if job := run_job(it, new_job(it)):
        it.update("p_ci_builds", job, status="failed")


def delete_job(it: Session) -> None:
    it.delete("p_ci_builds", it.pick("p_ci_builds"))


def erase_job(it: Session) -> None:
    if job := it.pick("p_ci_builds WHERE status = 'failed'"):
        it.update("p_ci_builds", job, erased_at="2026-02-03", token_encrypted=None)


def retry_job(it: Session) -> None:
    if job := it.pick("p_ci_builds WHERE status IN ('failed', 'canceled') AND retried IS NOT TRUE"):
        it.update("p_ci_builds", job, retried=True)
        start_job(it)


def move_partition(it: Session) -> None:
    """Let PostgreSQL move a row, and those that refer to it, to another partition."""
    if job := it.pick(LIVE):
        it.update("p_ci_builds", job, partition_id=it.choice(*it.partitions))


def touch_job(it: Session) -> None:
    if job := it.pick(LIVE):
        it.rows(
            "UPDATE p_ci_builds SET updated_at = now(), lock_version = lock_version + 1"
            " WHERE id = %s", job,
        )  # fmt: skip


def change_environment(it: Session) -> None:
    """Change, remove or create an environment, also one that jobs run in."""
    kind = it.choice("tier", "state", "remove", "create", "create")
    if kind == "create":
        rows: list[dict[str, Any]] = it.rows(
            "SELECT project_id, expanded_environment_name AS name FROM p_ci_builds_metadata"
            " WHERE expanded_environment_name IS NOT NULL ORDER BY id"
        )
        for row in it.sample(rows, 1):
            ensure_environment(it, row["project_id"], row["name"])
    elif environment := it.pick("environments"):
        if kind == "remove":
            it.delete("environments", environment)
        elif kind == "tier":
            it.update("environments", environment, tier=it.random.randrange(5))
        else:
            it.update("environments", environment, state="stopped")


WEIGHTS: dict[Act, int] = {
    start_job: 14, start_pipeline: 2, wait: 3, run_job: 4, cancel_job: 3, finish_job: 12,
    short_job: 1, delete_job: 1, erase_job: 1, retry_job: 2, touch_job: 3, move_partition: 1,
    change_environment: 5,
}  # fmt: skip
