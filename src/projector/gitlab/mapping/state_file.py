"""The SQLite file of the bridge's state: its lock, its schema, and its errors in plain words."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from projector.errors import StateError
from projector.gitlab.mapping import dirty, mirror_tables, roots

VERSION = 1  # of the schema; a state of another version is refused
# Twice this, with the temporary tables, of the 300 MB that a bridge may take at a million rows.
_CACHE_KIB = 48 * 1024
_SETTINGS = f"""
    PRAGMA synchronous = FULL; PRAGMA cache_size = -{_CACHE_KIB}; PRAGMA temp_store = FILE;
    PRAGMA temp.cache_size = -{_CACHE_KIB}; PRAGMA journal_size_limit = 67108864;
"""
_TABLES = """
    CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS told (kind TEXT, a INTEGER, b INTEGER, via TEXT, root TEXT,
        data TEXT, PRIMARY KEY (kind, a, b, via, root)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS outbox (number INTEGER PRIMARY KEY AUTOINCREMENT, type TEXT,
        root TEXT, sequence TEXT, time INTEGER, data TEXT);
    CREATE TABLE IF NOT EXISTS offsets (topic TEXT, partition INTEGER, next INTEGER,
        PRIMARY KEY (topic, partition)) WITHOUT ROWID;
"""
_ADVICE = {
    sqlite3.SQLITE_NOTADB: "it is not an SQLite file: set PROJECTOR_GITLAB_STATE to another path",
    sqlite3.SQLITE_FULL: "the disk is full: make room; the bridge goes on where it was",
    sqlite3.SQLITE_READONLY: "it cannot be written: give the bridge's user the right to write"
    " the file and its folder",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: the folder must exist, and the bridge's user"
    " must have the right to write there",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: move it away and run with --audit",
    sqlite3.SQLITE_BUSY: "another program has locked it: end that program",
    sqlite3.SQLITE_IOERR: "the disk does not read or write: check the disk",
}


class StateInUseError(StateError):
    """Another bridge uses the state file."""


@contextmanager
def in_plain_words(path: Path) -> Iterator[None]:
    """Raise errors of SQLite and of the file system as a StateError with advice."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code not in _ADVICE:
            raise
        raise StateError(f"state file {path}: {_ADVICE[code]} ({error})") from error
    except OSError as error:
        advice = _ADVICE[sqlite3.SQLITE_CANTOPEN]
        raise StateError(f"state file {path}: {advice} ({error.strerror})") from error


class StateFile:
    """An open state file, which no other bridge can open meanwhile.

    One that is only read is as it is, and may be in use; an empty one stands for a missing file.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        with in_plain_words(path), ExitStack() as resources:
            if not read_only:
                resources.enter_context(_locked(path))
            opened = _open_to_read(path) if read_only else _open(path)
            self.db = resources.enter_context(closing(opened))
            self._resources = resources.pop_all()

    def close(self) -> None:
        """Close the file, then let another bridge have it."""
        self._resources.close()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock a file of its own: locks on SQLite's file would be lost with any handle on it."""
    with open(path.with_name(path.name + ".lock"), "ab", opener=_for_owner) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateInUseError(f"another bridge uses the state file {path}") from None
        yield


def _for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _open(path: Path) -> sqlite3.Connection:
    """Open the file with the mode 0600, and check that it is a state of this version."""
    open(path, "ab", opener=_for_owner).close()
    path.chmod(0o600)
    # Large batches spill beside the state file: a container may have no other place to write.
    os.environ.setdefault("SQLITE_TMPDIR", str(path.parent))
    db = sqlite3.connect(path, isolation_level=None, cached_statements=512)
    try:
        _check(db, path)
        _prepare(db)
    except BaseException:
        db.close()
        raise
    return db


def _open_to_read(path: Path) -> sqlite3.Connection:
    """Open the file without a change to it, after the same check."""
    # An empty file is what a bridge leaves that was killed before its first transaction.
    if not path.exists() or not path.stat().st_size:
        db = sqlite3.connect(":memory:", isolation_level=None)
        _prepare(db)
        return db
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    try:
        _check(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _check(db: sqlite3.Connection, path: Path) -> None:
    """Refuse the file of another program, and that of another version."""
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
    if not tables:
        return
    found = None
    if {"meta", "told", "outbox"} <= tables:
        found = db.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()
    if found is None:
        raise StateError(
            f"state file {path}: it belongs to another program; set PROJECTOR_GITLAB_STATE to"
            " another path"
        )
    if found[0] != VERSION:
        raise StateError(
            f"state file {path}: it has version {found[0]}, and this bridge reads {VERSION};"
            " run the bridge that wrote it, or move the file away and run with --audit"
        )


def _prepare(db: sqlite3.Connection) -> None:
    """Create what is missing. All or nothing: a file without its version would be refused."""
    db.execute("PRAGMA journal_mode = WAL")
    db.executescript(_SETTINGS)
    db.execute("BEGIN IMMEDIATE")
    for statement in _TABLES.split(";"):
        db.execute(statement)
    mirror_tables.create(db)
    roots.create(db)
    dirty.create(db)
    db.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", [VERSION])
    db.execute("COMMIT")
