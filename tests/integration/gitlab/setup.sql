-- An administrator's part, as `docs/gitlab-setup.md` has it: run once, by the owner of the tables.
-- The role is made before, since it belongs to the server and not to one database.

GRANT SELECT (id, username, state) ON users TO projector;
GRANT SELECT (id, type, parent_id, owner_id, share_with_group_lock) ON namespaces TO projector;
GRANT SELECT (id, namespace_id, pending_delete) ON projects TO projector;
GRANT SELECT (id, source_id, source_type, path) ON routes TO projector;
GRANT SELECT (id, access_level, source_id, source_type, user_id, requested_at, expires_at, state)
  ON members TO projector;
GRANT SELECT (id, shared_group_id, shared_with_group_id, group_access, expires_at)
  ON group_group_links TO projector;
GRANT SELECT (id, project_id, group_id, group_access, expires_at) ON project_group_links
  TO projector;
GRANT SELECT (id, project_id, name) ON cluster_agents TO projector;
GRANT SELECT (id, project_id, agent_id, config) ON agent_project_authorizations TO projector;
GRANT SELECT (id, group_id, agent_id, config) ON agent_group_authorizations TO projector;
GRANT SELECT (id, agent_id, config) ON agent_organization_authorizations TO projector;
GRANT SELECT (id, project_id, name, slug, tier) ON environments TO projector;
GRANT SELECT (id, status, type, project_id, commit_id, user_id, protected, timeout, started_at)
  ON p_ci_builds TO projector;
GRANT SELECT (id, build_id, expanded_environment_name) ON p_ci_builds_metadata TO projector;
GRANT SELECT (id, ci_job_id, expanded_environment_name) ON job_environments TO projector;
GRANT SELECT (id, cluster_agents) ON application_settings TO projector;

CREATE PUBLICATION projector FOR TABLE
  users, namespaces, projects, routes, members, group_group_links, project_group_links,
  cluster_agents, agent_project_authorizations, agent_group_authorizations,
  agent_organization_authorizations, environments, job_environments, p_ci_builds,
  p_ci_builds_metadata
  WITH (publish_via_partition_root = true);
