-- A GitLab-shaped database: the tables that the bridge reads, and some that it does not. Names,
-- types, keys and most columns are those of GitLab's db/structure.sql (18.x). Run it as the owner.

CREATE SCHEMA gitlab_partitions_dynamic;

CREATE TABLE application_settings (
  id bigserial PRIMARY KEY,
  signup_enabled boolean,
  cluster_agents jsonb DEFAULT '{}' NOT NULL,  -- organization_cluster_agent_authorization_enabled
  updated_at timestamp without time zone
);
INSERT INTO application_settings DEFAULT VALUES;

CREATE TABLE users (
  email varchar DEFAULT '' NOT NULL,
  encrypted_password varchar DEFAULT '' NOT NULL,
  current_sign_in_at timestamp without time zone,
  created_at timestamp without time zone DEFAULT now(),
  updated_at timestamp without time zone DEFAULT now(),
  name varchar DEFAULT '' NOT NULL,
  username varchar,
  state varchar,
  user_type smallint DEFAULT 0 NOT NULL,
  last_activity_on date,
  id bigserial PRIMARY KEY
);
CREATE UNIQUE INDEX ON users (email);
CREATE INDEX ON users (username);

CREATE TABLE namespaces (
  id bigserial PRIMARY KEY,
  name varchar NOT NULL,
  path varchar NOT NULL,
  owner_id bigint,
  created_at timestamp without time zone DEFAULT now(),
  updated_at timestamp without time zone DEFAULT now(),
  type varchar DEFAULT 'User' NOT NULL,
  description varchar DEFAULT '' NOT NULL,
  membership_lock boolean DEFAULT false,
  share_with_group_lock boolean DEFAULT false,
  visibility_level integer DEFAULT 20 NOT NULL,
  parent_id bigint,
  description_html text,
  traversal_ids bigint[] DEFAULT '{}' NOT NULL,
  organization_id bigint DEFAULT 1 NOT NULL,
  CONSTRAINT fk_7f813d8c90 FOREIGN KEY (parent_id) REFERENCES namespaces (id) ON DELETE RESTRICT
);
CREATE INDEX ON namespaces (parent_id, id);
CREATE INDEX ON namespaces (owner_id);
CREATE INDEX ON namespaces (type, id);
CREATE INDEX ON namespaces USING gin (traversal_ids);

CREATE TABLE projects (
  id bigserial PRIMARY KEY,
  name varchar,
  path varchar,
  description text,
  created_at timestamp without time zone DEFAULT now(),
  updated_at timestamp without time zone DEFAULT now(),
  creator_id bigint,
  namespace_id bigint NOT NULL,
  last_activity_at timestamp without time zone,
  visibility_level integer DEFAULT 0 NOT NULL,
  archived boolean DEFAULT false NOT NULL,
  pending_delete boolean DEFAULT false,
  description_html text,
  organization_id bigint DEFAULT 1 NOT NULL,
  project_namespace_id bigint REFERENCES namespaces (id) ON DELETE CASCADE
);
CREATE INDEX ON projects (namespace_id);
CREATE UNIQUE INDEX ON projects (project_namespace_id);

CREATE TABLE routes (
  source_type varchar NOT NULL,
  path varchar NOT NULL,
  created_at timestamp without time zone DEFAULT now(),
  updated_at timestamp without time zone DEFAULT now(),
  name varchar,
  namespace_id bigint,
  id bigserial PRIMARY KEY,
  source_id bigint NOT NULL
);
CREATE UNIQUE INDEX ON routes (path);
CREATE UNIQUE INDEX ON routes (source_type, source_id);
CREATE INDEX ON routes (path varchar_pattern_ops);

CREATE TABLE members (
  id bigserial PRIMARY KEY,
  access_level integer NOT NULL,
  source_id bigint NOT NULL,
  source_type varchar NOT NULL,
  user_id bigint REFERENCES users (id) ON DELETE CASCADE,
  notification_level integer DEFAULT 3 NOT NULL,
  type varchar NOT NULL,
  created_at timestamp without time zone DEFAULT now(),
  updated_at timestamp without time zone DEFAULT now(),
  created_by_id bigint,
  invite_email varchar,
  invite_token varchar,
  invite_accepted_at timestamp without time zone,
  requested_at timestamp without time zone,
  expires_at date,
  ldap boolean DEFAULT false NOT NULL,
  override boolean DEFAULT false NOT NULL,
  state smallint DEFAULT 0,
  member_namespace_id bigint,
  member_role_id bigint,
  request_accepted_at timestamp with time zone
);
CREATE INDEX ON members (source_id, source_type);
CREATE INDEX ON members (user_id, source_id, source_type);

CREATE TABLE group_group_links (
  id bigserial PRIMARY KEY,
  created_at timestamp with time zone DEFAULT now() NOT NULL,
  updated_at timestamp with time zone DEFAULT now() NOT NULL,
  shared_group_id bigint NOT NULL REFERENCES namespaces (id) ON DELETE CASCADE,
  shared_with_group_id bigint NOT NULL REFERENCES namespaces (id) ON DELETE CASCADE,
  expires_at date,
  group_access smallint DEFAULT 30 NOT NULL,
  member_role_id bigint
);
CREATE UNIQUE INDEX ON group_group_links (shared_group_id, shared_with_group_id);
CREATE INDEX ON group_group_links (shared_with_group_id);

CREATE TABLE project_group_links (
  id bigserial PRIMARY KEY,
  created_at timestamp without time zone DEFAULT now(),
  updated_at timestamp without time zone DEFAULT now(),
  project_id bigint NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
  group_id bigint NOT NULL,
  group_access integer DEFAULT 30 NOT NULL,
  expires_at date,
  member_role_id bigint
);
CREATE INDEX ON project_group_links (group_id, project_id);
CREATE INDEX ON project_group_links (project_id);

CREATE TABLE cluster_agents (
  id bigserial PRIMARY KEY,
  created_at timestamp with time zone DEFAULT now() NOT NULL,
  updated_at timestamp with time zone DEFAULT now() NOT NULL,
  project_id bigint NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
  name text NOT NULL CHECK (char_length(name) <= 255),
  created_by_user_id bigint REFERENCES users (id) ON DELETE SET NULL,
  has_vulnerabilities boolean DEFAULT false NOT NULL,
  connection_mode smallint DEFAULT 0 NOT NULL,
  is_receptive boolean DEFAULT false NOT NULL
);
CREATE UNIQUE INDEX ON cluster_agents (project_id, name);

CREATE TABLE agent_project_authorizations (
  id bigserial PRIMARY KEY,
  project_id bigint NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
  agent_id bigint NOT NULL REFERENCES cluster_agents (id) ON DELETE CASCADE,
  config jsonb NOT NULL
);
CREATE UNIQUE INDEX ON agent_project_authorizations (agent_id, project_id);
CREATE INDEX ON agent_project_authorizations (project_id);

CREATE TABLE agent_group_authorizations (
  id bigserial PRIMARY KEY,
  group_id bigint NOT NULL REFERENCES namespaces (id) ON DELETE CASCADE,
  agent_id bigint NOT NULL REFERENCES cluster_agents (id) ON DELETE CASCADE,
  config jsonb NOT NULL
);
CREATE UNIQUE INDEX ON agent_group_authorizations (agent_id, group_id);
CREATE INDEX ON agent_group_authorizations (group_id);

CREATE TABLE agent_organization_authorizations (
  id bigserial PRIMARY KEY,
  organization_id bigint NOT NULL,
  agent_id bigint NOT NULL REFERENCES cluster_agents (id) ON DELETE CASCADE,
  config jsonb NOT NULL
);
CREATE UNIQUE INDEX ON agent_organization_authorizations (agent_id);

CREATE TABLE environments (
  id bigserial PRIMARY KEY,
  project_id bigint NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
  name varchar NOT NULL,
  created_at timestamp without time zone DEFAULT now(),
  updated_at timestamp without time zone DEFAULT now(),
  external_url varchar,
  environment_type varchar,
  state varchar DEFAULT 'available' NOT NULL,
  slug varchar NOT NULL,
  auto_stop_at timestamp with time zone,
  tier smallint,
  description text
);
CREATE UNIQUE INDEX ON environments (project_id, name);
CREATE UNIQUE INDEX ON environments (project_id, slug);

CREATE TABLE job_environments (
  id bigserial PRIMARY KEY,
  project_id bigint NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
  environment_id bigint NOT NULL REFERENCES environments (id) ON DELETE CASCADE,
  ci_pipeline_id bigint NOT NULL,
  ci_job_id bigint NOT NULL,
  deployment_id bigint,
  expanded_environment_name text NOT NULL,
  options jsonb DEFAULT '{}' NOT NULL
);
CREATE INDEX ON job_environments (ci_job_id);
CREATE INDEX ON job_environments (environment_id);

CREATE SEQUENCE ci_builds_id_seq;
CREATE TABLE p_ci_builds (
  status varchar,
  finished_at timestamp without time zone,
  created_at timestamp without time zone DEFAULT now(),
  updated_at timestamp without time zone DEFAULT now(),
  started_at timestamp without time zone,
  coverage double precision,
  name varchar,
  options text,
  allow_failure boolean DEFAULT false NOT NULL,
  stage_idx integer,
  tag boolean,
  ref varchar,
  type varchar,
  description varchar,
  erased_at timestamp without time zone,
  environment varchar,
  "when" varchar,
  yaml_variables text,
  queued_at timestamp without time zone,
  lock_version integer DEFAULT 0,
  retried boolean,
  protected boolean,
  failure_reason integer,
  scheduled_at timestamp with time zone,
  token_encrypted varchar,
  resource_group_id bigint,
  processed boolean,
  scheduling_type smallint,
  id bigint DEFAULT nextval('ci_builds_id_seq') NOT NULL,
  stage_id bigint,
  partition_id bigint NOT NULL,
  auto_canceled_by_id bigint,
  commit_id bigint,
  project_id bigint,
  runner_id bigint,
  user_id bigint,
  timeout integer,
  timeout_source smallint,
  scoped_user_id bigint,
  PRIMARY KEY (id, partition_id)
) PARTITION BY LIST (partition_id);
ALTER SEQUENCE ci_builds_id_seq OWNED BY p_ci_builds.id;
CREATE UNIQUE INDEX ON p_ci_builds (token_encrypted, partition_id)
  WHERE token_encrypted IS NOT NULL;
CREATE INDEX ON p_ci_builds (project_id, status);
CREATE INDEX ON p_ci_builds (status, type, runner_id);
CREATE TABLE ci_builds PARTITION OF p_ci_builds FOR VALUES IN (100);
CREATE TABLE gitlab_partitions_dynamic.ci_builds_101 PARTITION OF p_ci_builds FOR VALUES IN (101);

CREATE SEQUENCE ci_builds_metadata_id_seq;
CREATE TABLE p_ci_builds_metadata (
  project_id bigint NOT NULL,
  timeout integer,
  timeout_source integer DEFAULT 1 NOT NULL,
  interruptible boolean,
  config_options jsonb,
  config_variables jsonb,
  has_exposed_artifacts boolean,
  environment_auto_stop_in varchar(255),
  expanded_environment_name varchar(255),
  build_id bigint NOT NULL,
  id bigint DEFAULT nextval('ci_builds_metadata_id_seq') NOT NULL,
  partition_id bigint NOT NULL,
  debug_trace_enabled boolean DEFAULT false NOT NULL,
  exit_code smallint,
  PRIMARY KEY (id, partition_id),
  FOREIGN KEY (build_id, partition_id) REFERENCES p_ci_builds (id, partition_id)
    ON UPDATE CASCADE ON DELETE CASCADE
) PARTITION BY LIST (partition_id);
ALTER SEQUENCE ci_builds_metadata_id_seq OWNED BY p_ci_builds_metadata.id;
CREATE UNIQUE INDEX ON p_ci_builds_metadata (build_id, partition_id);
CREATE TABLE ci_builds_metadata PARTITION OF p_ci_builds_metadata FOR VALUES IN (100);
CREATE TABLE gitlab_partitions_dynamic.ci_builds_metadata_101
  PARTITION OF p_ci_builds_metadata FOR VALUES IN (101);

-- Tables that the bridge must neither read nor disturb.
CREATE TABLE issues (id bigserial PRIMARY KEY, title varchar, description text);
CREATE TABLE audit_lines (line text);  -- without a key: nothing may publish it
