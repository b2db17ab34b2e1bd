"""Logical replication of GitLab's databases, and snapshots where it cannot go on."""
