"""Settings from environment variables, and credentials."""
