"""SELECT of due jobs; see `due`."""

from typing import Final

# No job's end is known: the worker then ends its tokens 60 days after the start.
_FAR: Final = "9999-12-31T23:59:59Z"
# GitLab's longest timeout of a job is a month; a job that is stuck is ended an hour later.
_LONGEST_TIMEOUT: Final = 31 * 24 * 3600
_STUCK: Final = 3600

_TIER: Final = (
    "CASE e.tier WHEN 0 THEN 'production' WHEN 1 THEN 'staging' WHEN 2 THEN 'testing'"
    " WHEN 3 THEN 'development' ELSE 'other' END"
)


def _environment_name(table: str, build: str) -> str:
    return (
        f"(SELECT x.expanded_environment_name FROM {table} x WHERE x.{build} = b.id"
        " AND x.expanded_environment_name IS NOT NULL ORDER BY x.id LIMIT 1)"
    )


# The row that GitLab's `actual_persisted_environment` finds.
_ENVIRONMENT: Final = (
    "(SELECT min(x.id) FROM environments x WHERE x.project_id = b.project_id AND x.name ="
    f" coalesce({_environment_name('job_environments', 'ci_job_id')},"
    f" {_environment_name('p_ci_builds_metadata', 'build_id')}))"
)
_EXPIRES_AT: Final = (
    "coalesce(strftime('%Y-%m-%dT%H:%M:%SZ', substr(b.started_at, 1, 19), '+' ||"
    f" (max(coalesce(b.timeout, {_LONGEST_TIMEOUT}), 60) + {_STUCK}) || ' seconds'), '{_FAR}')"
)
# A project that is about to be deleted starts no job; `project.removed` refuses those that run.
JOB: Final = f"""
SELECT b.id, 0, '', n.root, json_object(
    'id', b.id, 'token_sha256', b.token_sha256, 'project_id', b.project_id,
    'pipeline_id', b.commit_id, 'user', json_object('id', u.id, 'username', u.username),
    'ref_protected', json(CASE WHEN b.protected THEN 'true' ELSE 'false' END),
    'environment', json(CASE WHEN e.id IS NULL THEN 'null'
        ELSE json_object('name', e.name, 'slug', e.slug, 'tier', {_TIER}) END),
    'expires_at', {_EXPIRES_AT})
FROM dirty d CROSS JOIN p_ci_builds b ON b.id = d.a CROSS JOIN projects p ON p.id = b.project_id
CROSS JOIN namespaces n ON n.id = p.namespace_id CROSS JOIN users u ON u.id = b.user_id
LEFT JOIN environments e ON e.id = {_ENVIRONMENT}
WHERE d.kind = 'job' AND n.root IS NOT NULL
AND b.status IN ('running', 'canceling') AND b.type = 'Ci::Build'
AND (NOT coalesce(p.pending_delete, 0)
    OR EXISTS (SELECT 1 FROM told t WHERE t.kind = 'job' AND t.a = b.id))
"""
