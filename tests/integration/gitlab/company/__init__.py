"""A random company: it fills GitLab's tables and changes them, one transaction at a time."""
