"""Job tokens that GitLab signs: their keys, their check, and what is logged of it."""
