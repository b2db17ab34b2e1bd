"""Databases that tests of the bridge open."""

import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def closed_databases(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close what a test leaves open, also in another thread; Python 3.13 and newer warn of it."""
    connect = sqlite3.connect
    opened: list[sqlite3.Connection] = []

    def remember(*arguments: Any, **options: Any) -> sqlite3.Connection:
        opened.append(connect(*arguments, **options | {"check_same_thread": False}))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", remember)
    yield
    for database in opened:
        database.close()
