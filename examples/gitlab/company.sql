-- A small company in a GitLab-shaped database. docs/gitlab.md has GitLab's rules.
--
--   acme                      agent 6 "review" may be used by all of acme
--   ├── acme/clusters         the project with the agents' configuration
--   └── acme/platform         agent 5 "production" may be used by this group
--       └── acme/platform/web
--           └── acme/platform/web/shop    the project with the jobs
--
-- Ada is a maintainer of acme, Ben a developer. Jobs 9 and 11 are Ada's, job 10 is Ben's.

INSERT INTO users (id, username, email, state) VALUES
  (1, 'ada', 'ada@example.com', 'active'),
  (2, 'ben', 'ben@example.com', 'active');

INSERT INTO namespaces (id, type, name, path, parent_id, traversal_ids) VALUES
  (1, 'Group', 'Acme', 'acme', NULL, '{1}'),
  (2, 'Group', 'Platform', 'platform', 1, '{1,2}'),
  (3, 'Group', 'Web', 'web', 2, '{1,2,3}');

INSERT INTO projects (id, namespace_id, name, path) VALUES
  (21, 1, 'Clusters', 'clusters'),
  (22, 3, 'Shop', 'shop');

INSERT INTO routes (source_type, source_id, path) VALUES
  ('Namespace', 1, 'acme'),
  ('Namespace', 2, 'acme/platform'),
  ('Namespace', 3, 'acme/platform/web'),
  ('Project', 21, 'acme/clusters'),
  ('Project', 22, 'acme/platform/web/shop');

INSERT INTO members (user_id, source_type, source_id, type, access_level) VALUES
  (1, 'Namespace', 1, 'GroupMember', 40),
  (2, 'Namespace', 1, 'GroupMember', 30);

INSERT INTO cluster_agents (id, project_id, name) VALUES
  (5, 21, 'production'),
  (6, 21, 'review');

INSERT INTO agent_group_authorizations (agent_id, group_id, config) VALUES
  (5, 2, '{"default_namespace": "shop"}'),
  (6, 1, '{"default_namespace": "review"}');

INSERT INTO p_ci_builds
  (id, partition_id, type, status, project_id, commit_id, user_id, protected, timeout, started_at)
VALUES
  (9, 100, 'Ci::Build', 'running', 22, 2309, 1, true, 86400, now() AT TIME ZONE 'UTC'),
  (10, 100, 'Ci::Build', 'running', 22, 2310, 2, true, 86400, now() AT TIME ZONE 'UTC'),
  (11, 100, 'Ci::Build', 'running', 22, 2311, 1, true, 86400, now() AT TIME ZONE 'UTC');
