"""The feed from a GitLab: its PostgreSQL in, the three topics and heartbeats out."""
