-- The right answer for every live job, by GitLab's rules as docs/gitlab.md has them, computed anew
-- from GitLab's own tables. It shares no code with the product and reads nothing that it writes.

CREATE FUNCTION pg_temp.counts(day date) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT day IS NULL OR day > (now() AT TIME ZONE 'UTC')::date
$$;

-- A known key in another spelling. `enviroments` is the only slip that the company makes.
CREATE FUNCTION pg_temp.is_misspelt(key text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
  SELECT key = 'enviroments' OR key NOT IN ('id', 'default_namespace', 'access_as', 'environments',
      'protected_branches_only', 'resource_management', 'agent', 'ci_job', 'impersonate')
    AND lower(regexp_replace(key, '[_ -]', '', 'g')) IN ('id', 'defaultnamespace', 'accessas',
      'environments', 'protectedbranchesonly', 'resourcemanagement')
$$;

CREATE FUNCTION pg_temp.is_identity(access jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
  SELECT jsonb_typeof(access) = 'object'
    AND (access ? 'agent')::int + (access ? 'ci_job')::int + (access ? 'impersonate')::int = 1
    AND (NOT access ? 'impersonate' OR coalesce(access #>> '{impersonate,username}', '') <> '')
$$;

CREATE FUNCTION pg_temp.is_readable(config jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
  SELECT NOT EXISTS (SELECT FROM jsonb_object_keys(config) key WHERE pg_temp.is_misspelt(key))
    AND (config -> 'access_as' IS NULL OR config -> 'access_as' = 'null'
      OR pg_temp.is_identity(config -> 'access_as'))
$$;

-- Only `*` is special, and the whole name must match.
CREATE FUNCTION pg_temp.matches(pattern text, name text)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
  SELECT name LIKE replace(regexp_replace(pattern, '([\\%_])', '\\\1', 'g'), '*', '%')
$$;

CREATE FUNCTION pg_temp.lets_in(config jsonb, protected boolean, environment text)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
  SELECT (protected OR coalesce(config -> 'protected_branches_only', 'null') IN ('null', 'false'))
    AND CASE
      WHEN coalesce(config -> 'environments', 'null') IN ('null', '[]') THEN true
      WHEN jsonb_typeof(config -> 'environments') <> 'array' THEN false
      ELSE EXISTS (SELECT FROM jsonb_array_elements(config -> 'environments') entry
        WHERE jsonb_typeof(entry) = 'string' AND pg_temp.matches(entry #>> '{}', environment))
    END
$$;

CREATE TEMP VIEW answers AS
WITH
-- The namespaces above each project, the nearest first, by `parent_id` alone.
above AS MATERIALIZED (
  WITH RECURSIVE up (project_id, id, type, parent_id, distance) AS (
    SELECT p.id, n.id, n.type, n.parent_id, 1
    FROM projects p JOIN namespaces n ON n.id = p.namespace_id
    UNION ALL
    SELECT project_id, n.id, n.type, n.parent_id, distance + 1
    FROM up JOIN namespaces n ON n.id = up.parent_id)
  SELECT * FROM up),

homes AS MATERIALIZED (
  SELECT project_id, root.id AS root, coalesce(groups.ids, '{}') AS groups
  FROM above root
  LEFT JOIN LATERAL (SELECT array_agg(id ORDER BY distance) AS ids FROM above
    WHERE project_id = root.project_id AND type = 'Group') groups ON true
  WHERE parent_id IS NULL),

-- Memberships in groups and projects that count at all.
counting_members AS MATERIALIZED (
  SELECT user_id, source_type, source_id, access_level FROM members
  WHERE user_id IS NOT NULL AND requested_at IS NULL AND state = 0 AND access_level > 5
    AND pg_temp.counts(expires_at)),

-- Each user's levels in groups: as a member, as a member of a group that is invited, inherited.
levels_in_groups AS MATERIALIZED (
  WITH RECURSIVE level_in (user_id, group_id, level) AS (
    (SELECT user_id, source_id, access_level FROM counting_members WHERE source_type = 'Namespace'
    UNION
    SELECT m.user_id, l.shared_group_id, least(m.access_level, l.group_access)
    FROM group_group_links l
    JOIN counting_members m ON m.source_type = 'Namespace' AND m.source_id = l.shared_with_group_id
    WHERE l.group_access > 5 AND pg_temp.counts(l.expires_at))
    UNION
    SELECT user_id, n.id, level FROM level_in JOIN namespaces n ON n.parent_id = group_id
    WHERE n.type = 'Group')
  SELECT user_id, group_id, max(level) AS level FROM level_in
  JOIN namespaces n ON n.id = group_id AND n.type = 'Group' GROUP BY user_id, group_id),

levels_in_projects AS MATERIALIZED (
  SELECT user_id, project_id, max(level) AS level FROM (
    SELECT user_id, source_id AS project_id, access_level AS level FROM counting_members
    WHERE source_type = 'Project'
    UNION ALL
    SELECT n.owner_id, p.id, 50 FROM projects p JOIN namespaces n ON n.id = p.namespace_id
    WHERE n.type = 'User'
    UNION ALL
    SELECT g.user_id, p.id, g.level
    FROM levels_in_groups g JOIN projects p ON p.namespace_id = g.group_id
    UNION ALL
    SELECT g.user_id, p.id, least(g.level, l.group_access)
    FROM levels_in_groups g JOIN project_group_links l USING (group_id)
    JOIN projects p ON p.id = l.project_id
    JOIN namespaces n ON n.id = p.namespace_id AND n.share_with_group_lock IS FALSE
    WHERE pg_temp.counts(l.expires_at)
  ) ways GROUP BY user_id, project_id),

settings AS MATERIALIZED (
  SELECT coalesce(
    (cluster_agents ->> 'organization_cluster_agent_authorization_enabled')::boolean, false)
    AS across_roots
  FROM application_settings ORDER BY id DESC LIMIT 1),

-- All authorizations of an agent for a project: 1 to the project, 2 its own, 3 to a group, 4 all.
-- Ours: a configuration project that is about to be deleted grants nothing, but to the instance.
authorizations AS MATERIALIZED (
  WITH agents AS (
    SELECT a.id, a.project_id, h.root FROM cluster_agents a JOIN homes h USING (project_id)
    JOIN projects p ON p.id = a.project_id AND p.pending_delete IS NOT TRUE)
  SELECT h.project_id, a.id AS agent_id, a.project_id AS config_project_id, kind, distance, config
  FROM homes h CROSS JOIN settings s JOIN (
    SELECT project_id AS target, agent_id, 1 AS kind, 0 AS distance, config
    FROM agent_project_authorizations
    UNION ALL
    SELECT above.project_id, agent_id, 3, distance, config
    FROM agent_group_authorizations JOIN above ON above.id = group_id AND above.type = 'Group'
  ) granted ON target = h.project_id
  JOIN agents a ON a.id = agent_id AND (a.root = h.root OR s.across_roots)
  WHERE pg_temp.is_readable(config)
  UNION ALL
  SELECT project_id, id, project_id, 2, 0, '{}' FROM agents
  UNION ALL
  SELECT h.project_id, a.id, a.project_id, 4, 0, config
  FROM agent_organization_authorizations o JOIN cluster_agents a ON a.id = o.agent_id
  JOIN settings s ON s.across_roots CROSS JOIN homes h WHERE pg_temp.is_readable(config)),

winners AS MATERIALIZED (
  SELECT DISTINCT ON (project_id, agent_id) * FROM authorizations
  ORDER BY project_id, agent_id, kind, distance),

live_jobs AS MATERIALIZED (
  SELECT b.id, b.commit_id, b.project_id, b.user_id, coalesce(b.protected, false) AS protected,
    e.name, e.slug, (ARRAY['production', 'staging', 'testing', 'development', 'other'])[e.tier + 1]
    AS tier
  FROM p_ci_builds b
  LEFT JOIN LATERAL (SELECT coalesce(
    (SELECT expanded_environment_name FROM job_environments WHERE ci_job_id = b.id LIMIT 1),
    (SELECT expanded_environment_name FROM p_ci_builds_metadata WHERE build_id = b.id LIMIT 1))
    AS name) wanted ON true
  LEFT JOIN environments e ON e.project_id = b.project_id AND e.name = wanted.name
  WHERE b.status IN ('running', 'canceling') AND b.type = 'Ci::Build')

SELECT j.id, u.state, CASE
    WHEN u.id IS NULL OR h.root IS NULL OR p.pending_delete THEN 401
    WHEN u.state <> 'active' THEN 403
    ELSE 200 END AS status,
  jsonb_build_object(
    'allowed_agents', coalesce(agents.list, '[]'),
    'job', jsonb_build_object('id', j.id),
    'pipeline', jsonb_build_object('id', j.commit_id),
    'project', jsonb_build_object('id', j.project_id, 'groups', (
      SELECT coalesce(jsonb_agg(jsonb_build_object('id', id) ORDER BY place), '[]')
      FROM unnest(h.groups) WITH ORDINALITY AS g (id, place))),
    'user', jsonb_build_object('id', u.id, 'username', u.username, 'roles_in_project', (
      SELECT coalesce(jsonb_agg(name ORDER BY lowest), '[]')
      FROM (VALUES ('guest', 10), ('planner', 15), ('reporter', 20), ('developer', 30),
        ('maintainer', 40), ('owner', 50)) AS roles (name, lowest) WHERE lowest <= l.level))
  ) || CASE WHEN j.slug IS NULL THEN '{}' ELSE jsonb_build_object(
    'environment', jsonb_build_object('slug', j.slug, 'tier', j.tier)) END AS body
FROM live_jobs j
LEFT JOIN projects p ON p.id = j.project_id
LEFT JOIN homes h ON h.project_id = p.id
LEFT JOIN users u ON u.id = j.user_id
LEFT JOIN levels_in_projects l ON l.user_id = u.id AND l.project_id = p.id
LEFT JOIN LATERAL (
  SELECT jsonb_agg(jsonb_build_object('id', agent_id, 'config_project',
    jsonb_build_object('id', config_project_id), 'configuration', config - 'id')
    ORDER BY kind, agent_id) AS list
  FROM winners w WHERE w.project_id = j.project_id AND l.level >= 30
    AND pg_temp.lets_in(config, j.protected, j.name)) agents ON true;
