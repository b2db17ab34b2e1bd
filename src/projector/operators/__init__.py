"""Queries and repairs for operators, run while the owners work."""
