-- By a superuser, with psql in GitLab's database gitlabhq_production (Omnibus: gitlab-psql). It may be run
-- again. The role gets no password here; set one: \password projector
-- postgresql.conf (Omnibus: gitlab.rb); the first three need a restart:
--   wal_level = logical
--   max_replication_slots, max_wal_senders: two more than are in use
--   max_slot_wal_keep_size = 10GB, or a bridge that stands still would fill GitLab's disk
-- pg_hba.conf, and for this role no line with the keyword `replication`:
--   hostssl gitlabhq_production projector <address of the bridge>/32 scram-sha-256
DO $$ BEGIN
  CREATE ROLE "projector" LOGIN;
EXCEPTION WHEN duplicate_object THEN NULL;
END $$;
ALTER ROLE "projector" LOGIN REPLICATION;
GRANT CONNECT ON DATABASE "gitlabhq_production" TO "projector";
GRANT USAGE ON SCHEMA "public" TO "projector";
GRANT SELECT (id, username, state) ON public.users TO "projector";
GRANT SELECT (id, type, parent_id, owner_id, share_with_group_lock) ON public.namespaces TO "projector";
GRANT SELECT (id, namespace_id, pending_delete) ON public.projects TO "projector";
GRANT SELECT (id, source_id, source_type, path) ON public.routes TO "projector";
GRANT SELECT (id, access_level, source_id, source_type, user_id, requested_at, expires_at, state) ON public.members TO "projector";
GRANT SELECT (id, shared_group_id, shared_with_group_id, group_access, expires_at) ON public.group_group_links TO "projector";
GRANT SELECT (id, project_id, group_id, group_access, expires_at) ON public.project_group_links TO "projector";
GRANT SELECT (id, project_id, name) ON public.cluster_agents TO "projector";
GRANT SELECT (id, project_id, agent_id, config) ON public.agent_project_authorizations TO "projector";
GRANT SELECT (id, group_id, agent_id, config) ON public.agent_group_authorizations TO "projector";
DO $$ BEGIN
  GRANT SELECT (id, agent_id, config) ON public.agent_organization_authorizations TO "projector";
EXCEPTION WHEN undefined_table OR undefined_column THEN NULL;  -- not in every GitLab
END $$;
GRANT SELECT (id, project_id, name, slug, tier) ON public.environments TO "projector";
GRANT SELECT (id, status, type, project_id, commit_id, user_id, protected, timeout, started_at) ON public.p_ci_builds TO "projector";
DO $$ BEGIN
  GRANT SELECT (id, ci_job_id, expanded_environment_name) ON public.job_environments TO "projector";
EXCEPTION WHEN undefined_table OR undefined_column THEN NULL;  -- not in every GitLab
END $$;
DO $$ BEGIN
  GRANT SELECT (id, build_id, expanded_environment_name) ON public.p_ci_builds_metadata TO "projector";
EXCEPTION WHEN undefined_table OR undefined_column THEN NULL;  -- not in every GitLab
END $$;
DO $$ BEGIN
  GRANT SELECT (id, cluster_agents) ON public.application_settings TO "projector";
EXCEPTION WHEN undefined_table OR undefined_column THEN NULL;  -- not in every GitLab
END $$;
-- Not before every table has a replica identity: GitLab's own UPDATE and DELETE would fail.
DO $$ DECLARE
  wanted CONSTANT text[] := ARRAY['public.users', 'public.namespaces', 'public.projects', 'public.routes', 'public.members', 'public.group_group_links', 'public.project_group_links', 'public.cluster_agents', 'public.agent_project_authorizations', 'public.agent_group_authorizations', 'public.agent_organization_authorizations', 'public.environments', 'public.p_ci_builds', 'public.job_environments', 'public.p_ci_builds_metadata'];
  lacking text;
  listed text;
BEGIN
  SELECT string_agg(c.oid::regclass::text, ', ') INTO lacking
  FROM unnest(wanted) AS name
    JOIN pg_class root ON root.oid = to_regclass(name)
    JOIN pg_class c ON c.relkind = 'r' AND (c.oid = root.oid
      OR c.oid IN (SELECT relid FROM pg_partition_tree(root.oid) WHERE isleaf))
  WHERE c.relreplident <> 'f' AND NOT EXISTS (
    SELECT FROM pg_index i
    WHERE i.indrelid = c.oid AND i.indisvalid AND i.indisunique AND i.indimmediate
      AND i.indpred IS NULL
      AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END);
  IF lacking IS NOT NULL THEN
    RAISE EXCEPTION 'no publication, since these have no replica identity: %', lacking
      USING HINT = '`projector gitlab check` prints what mends it';
  END IF;
  SELECT string_agg(name, ', ' ORDER BY place) INTO listed
  FROM unnest(wanted) WITH ORDINALITY AS t (name, place) WHERE to_regclass(name) IS NOT NULL;
  IF EXISTS (SELECT FROM pg_publication WHERE pubname = 'projector' AND puballtables) THEN
    DROP PUBLICATION "projector";
  END IF;
  IF EXISTS (SELECT FROM pg_publication WHERE pubname = 'projector') THEN
    EXECUTE 'ALTER PUBLICATION "projector" SET TABLE ' || listed;
  ELSE
    EXECUTE 'CREATE PUBLICATION "projector" FOR TABLE ' || listed;
  END IF;
  ALTER PUBLICATION "projector" SET (publish = 'insert, update, delete, truncate', publish_via_partition_root = true);
END $$;
