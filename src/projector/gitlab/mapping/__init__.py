"""The mapping of GitLab's rows to events: pure, over one SQLite file."""
