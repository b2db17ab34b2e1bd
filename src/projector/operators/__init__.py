"""Queries and repairs for operators, run beside the owners."""
