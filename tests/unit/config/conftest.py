"""Fixtures of settings."""

from tests.unit.config.environment import clean, pems  # noqa: F401
