"""A PostgreSQL of Debian's binaries, in a folder of its own."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import psycopg

from projector.ports import LOOPBACK
from tests.integration.ports import free_port
from tests.integration.servers import Server

INSTALLED = Path("/usr/lib/postgresql")
SUPERUSER = "postgres"
PASSWORD = "superuser's secret"  # with a space and a quote, as passwords may have
START_S = 60
STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
# Without fsync a crash of PostgreSQL loses nothing; only a crash of the machine would.
SETTINGS = {
    "listen_addresses": LOOPBACK,
    "wal_level": "logical",
    "fsync": "off",
    "max_connections": "100",
    "max_wal_senders": "30",
    "max_replication_slots": "30",
    "shared_buffers": "32MB",
    "logging_collector": "off",
    "log_min_messages": "warning",
}
ACCESS = """\
local all         all              trust
local replication all              trust
host  all         all 127.0.0.1/32 scram-sha-256
"""


def binaries() -> Path | None:
    """Return the folder of the newest PostgreSQL's programs, or None."""
    versions = [path for path in INSTALLED.glob("*/bin") if (path / "initdb").exists()]
    return max(versions, key=lambda path: int(path.parent.name), default=None)


def without_postgres() -> str | None:
    """Return why no PostgreSQL can be started, or None."""
    if binaries() is None:
        return "NO POSTGRESQL: nothing of `projector gitlab` is tested (apt install postgresql)"
    return None


def program(name: str) -> str:
    """Return the path of a program of PostgreSQL."""
    folder = binaries()
    assert folder is not None, without_postgres()
    return str(folder / name)


def unprivileged() -> dict[str, Any]:
    """Return arguments of `subprocess` for a user that PostgreSQL accepts: it refuses root."""
    if os.geteuid() != 0:
        return {}
    return {"user": SUPERUSER, "group": SUPERUSER, "extra_groups": []}


def run(*argv: str) -> str:
    """Run a program of PostgreSQL to its end; return its output."""
    done = subprocess.run(
        argv, check=False, capture_output=True, encoding="utf-8", cwd="/", **unprivileged()
    )
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return str(done.stdout)


def new_folder() -> Path:
    """Make a folder that the server's user may enter: pytest's own folders are root's alone."""
    folder = Path(tempfile.mkdtemp(prefix="projector-postgres-"))
    if os.geteuid() == 0:
        shutil.chown(folder, SUPERUSER, SUPERUSER)
    return folder


def initialise(data: Path) -> None:
    """Make a new database cluster, with a system identifier of its own."""
    with tempfile.NamedTemporaryFile("w") as secret:
        secret.write(PASSWORD)
        secret.flush()
        os.chmod(secret.name, 0o644)
        run(
            program("initdb"), "--pgdata", str(data), "--username", SUPERUSER, "--no-sync",
            "--encoding", "UTF8", "--locale", "C", "--auth", "scram-sha-256",
            "--pwfile", secret.name,
        )  # fmt: skip
    (data / "pg_hba.conf").write_text(ACCESS)


@cache
def template() -> Path:
    """Return a database cluster to copy, made once per process: initdb takes seconds."""
    folder = new_folder()
    initialise(folder / "data")
    return folder / "data"


def forget_template() -> None:
    """Remove the database cluster that servers are copied from."""
    if template.cache_info().currsize:
        shutil.rmtree(template().parent)
        template.cache_clear()


class Postgres(Server):
    """One server: TCP with passwords, a Unix socket without."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder, self.data = folder, folder / "data"
        self.port = free_port()
        own = {"port": str(self.port), "unix_socket_directories": str(folder)}
        options = {**SETTINGS, **own, **settings}
        argv = [program("postgres"), "-D", str(self.data)]
        for name, value in options.items():
            argv += ["-c", f"{name}={value}"]
        super().__init__(argv, folder / "server.log")

    def _start(self, log: Any) -> Any:
        process = subprocess.Popen(
            self._argv, stdout=log, stderr=log, env=self._env, cwd="/", **unprivileged()
        )
        self._wait_until_ready(process)
        return process

    def _wait_until_ready(self, process: "subprocess.Popen[bytes]") -> None:
        end = time.monotonic() + START_S
        while not self._answers():
            assert process.poll() is None, f"PostgreSQL has not started: {self.log()}"
            assert time.monotonic() < end, f"PostgreSQL is not ready: {self.log()}"
            time.sleep(0.03)

    def _answers(self) -> bool:
        try:
            with psycopg.connect(self.dsn(), connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False

    def dsn(
        self, database: str = "postgres", user: str = SUPERUSER, password: str = PASSWORD
    ) -> str:
        """Return a connection string over TCP, with the password."""
        return psycopg.conninfo.make_conninfo(
            host=LOOPBACK, port=self.port, dbname=database, user=user, password=password
        )

    def socket_dsn(self, database: str = "postgres", user: str = SUPERUSER) -> str:
        """Return a connection string over the Unix socket, without a password."""
        return psycopg.conninfo.make_conninfo(
            host=str(self.folder), port=self.port, dbname=database, user=user
        )

    def connect(self, database: str = "postgres", **options: Any) -> psycopg.Connection[Any]:
        """Open a connection of the superuser, in autocommit."""
        return psycopg.connect(self.dsn(database), **{"autocommit": True, **options})

    def execute(self, sql: str, *values: Any, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run statements as the superuser; return the rows of the first."""
        with self.connect(database) as connection:
            # Several statements in one string pass only without parameters.
            cursor = connection.execute(sql, values or None)
            return cursor.fetchall() if cursor.description else []

    def psql(self, sql: str, database: str = "postgres") -> str:
        """Run a script by psql; return its output."""
        return run(
            program("psql"), "--no-psqlrc", "--quiet", "--tuples-only", "--no-align",
            "--set", "ON_ERROR_STOP=1", "--command", sql, self.socket_dsn(database),
        )  # fmt: skip

    def set(self, **settings: str) -> None:
        """Change settings that need no restart."""
        with self.connect() as connection:
            for name, value in settings.items():
                connection.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
            connection.execute("SELECT pg_reload_conf()")
        time.sleep(0.2)

    def reset(self, *names: str) -> None:
        """Give settings their former values."""
        with self.connect() as connection:
            for name in names:
                connection.execute(f"ALTER SYSTEM RESET {name}".encode())
            connection.execute("SELECT pg_reload_conf()")
        time.sleep(0.2)

    def halt(self, mode: str = "fast") -> None:
        """Stop the server as `pg_ctl stop` does; `start` starts it again."""
        self.signal(STOP_SIGNALS[mode])
        self.process.wait(START_S)

    def restart(self, mode: str = "fast", settings: Mapping[str, str] | None = None) -> None:
        """Stop the server and start it, perhaps with other settings."""
        self.halt(mode)
        for name, value in (settings or {}).items():
            self._argv += ["-c", f"{name}={value}"]
        self.start()

    def kill(self) -> None:
        """End the server at once; its own processes end with it, and its memory is given back."""
        if self.process.poll() is None:
            self.halt("immediate")


@contextmanager
def running_postgres(*, fresh: bool = False, **settings: str) -> Iterator[Postgres]:
    """Run a server in a folder of its own.

    Servers have one system identifier, unless they are `fresh`.
    """
    folder = new_folder()
    try:
        if fresh:
            initialise(folder / "data")
        else:
            run("cp", "--archive", str(template()), str(folder / "data"))
        server = Postgres(folder, **settings)
        try:
            yield server
        finally:
            server.kill()
    finally:
        shutil.rmtree(folder)


@contextmanager
def running_standby(primary: Postgres) -> Iterator[Postgres]:
    """Run a hot standby of a server."""
    folder = new_folder()
    try:
        run(
            program("pg_basebackup"), "--pgdata", str(folder / "data"), "--write-recovery-conf",
            "--checkpoint", "fast", "--no-sync", "--dbname", primary.socket_dsn(),
        )  # fmt: skip
        server = Postgres(folder)
        try:
            yield server
        finally:
            server.kill()
    finally:
        shutil.rmtree(folder)
