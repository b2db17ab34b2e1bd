"""GitLab's PostgreSQL: connections, snapshots, and the stream of a replication slot."""
