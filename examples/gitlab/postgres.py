"""A PostgreSQL of its own, in a folder that one user may enter: no port, no password."""

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

OLDEST = 14
START_S = 20.0
STOP_S = 10.0
USUAL_FOLDERS = (
    "/usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "/usr/pgsql-*/bin",  # Red Hat
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)
SETTINGS = {
    "listen_addresses": "",
    "wal_level": "logical",
    "max_slot_wal_keep_size": "1GB",
    "fsync": "off",  # only a crash of the machine would lose anything
    "log_min_messages": "warning",
}
# Who may enter the folder may do everything, but take no base backup.
ACCESS = "local all all trust\n"


class PostgresError(Exception):
    """PostgreSQL cannot be started; the message is the reason, and what to do."""


class Postgres(NamedTuple):
    """A running server; `folder` holds its socket."""

    programs: Path
    folder: Path
    version: int

    def dsn(self, user: str, database: str) -> str:
        return f"host={self.folder} user={user} dbname={database}"

    def psql(self, database: str) -> list[str]:
        """Return the command that a person runs, in the shortest form."""
        program = shutil.which("psql") or str(self.programs / "psql")
        name = "psql" if shutil.which("psql") else program
        return [name, "-h", str(self.folder), "-U", "postgres", database]


@contextmanager
def running(folder: Path) -> Iterator[Postgres]:
    """Run a new server in the folder until the block's end."""
    version, programs = newest()
    become = other_user()
    if become:
        shutil.chown(folder, become["user"])
    data = folder / "data"
    initialise(programs, data, become)
    argv = [programs / "postgres", "-D", data, "-k", folder]
    argv += [f"--{name}={value}" for name, value in SETTINGS.items()]
    with (folder / "postgresql.log").open("wb") as log:
        # In a session of its own: Ctrl-C reaches the demo alone, which then ends the server.
        server = subprocess.Popen(
            argv, cwd="/", stdout=log, stderr=log, start_new_session=True, **become
        )
    try:
        until_ready(server, programs, folder)
        yield Postgres(programs, folder, version)
    finally:
        stop(server)


def newest() -> tuple[int, Path]:
    """Return the version and the folder of programs, of all that are found."""
    folders = [path for pattern in USUAL_FOLDERS for path in Path("/").glob(pattern[1:])]
    if on_path := shutil.which("initdb"):
        folders.append(Path(on_path).resolve().parent)
    found = [(version_of(folder), folder) for folder in folders if (folder / "initdb").exists()]
    version, folder = max(found, default=(0, Path()))
    if version < OLDEST:
        what = f"only version {version}" if version else "none is installed"
        raise PostgresError(
            f"PostgreSQL {OLDEST} or newer is needed, and {what}: `apt install postgresql`, "
            "`brew install postgresql@17`, or put the folder of `initdb` on PATH"
        )
    return version, folder


def version_of(folder: Path) -> int:
    """Return the major version, from `postgres (PostgreSQL) 15.6 (Debian ...)`."""
    done = subprocess.run(
        [folder / "postgres", "--version"], capture_output=True, text=True, check=False
    )
    number = done.stdout.partition("(PostgreSQL) ")[2].partition(".")[0].partition(" ")[0]
    return int(number) if number.isdecimal() else 0


def other_user() -> dict[str, Any]:
    """Return arguments of `subprocess` for another user: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    try:
        found = pwd.getpwnam("postgres")
    except KeyError:
        raise PostgresError(
            "PostgreSQL does not run as root, and there is no user `postgres`: "
            "run this as another user"
        ) from None
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}


def initialise(programs: Path, data: Path, become: dict[str, Any]) -> None:
    done = subprocess.run(
        [programs / "initdb", "-D", data, "-U", "postgres", "-E", "UTF8", "--locale=C",
         "--auth=trust", "--no-sync"],
        cwd="/", capture_output=True, text=True, check=False, start_new_session=True, **become,
    )  # fmt: skip
    if done.returncode:
        raise PostgresError(f"initdb fails: {last_line(done.stderr)}")
    (data / "pg_hba.conf").write_text(ACCESS)


def until_ready(server: "subprocess.Popen[bytes]", programs: Path, folder: Path) -> None:
    end = time.monotonic() + START_S
    asked = [programs / "pg_isready", "--quiet", "-h", folder]
    while subprocess.run(asked, check=False).returncode:
        if server.poll() is not None or time.monotonic() > end:
            log = (folder / "postgresql.log").read_text(errors="replace")
            raise PostgresError(f"PostgreSQL does not start: {last_line(log)}")
        time.sleep(0.05)


def stop(server: "subprocess.Popen[bytes]") -> None:
    """End the server and everything that it runs."""
    for number in (signal.SIGINT, signal.SIGQUIT):  # "fast", then "immediate"
        server.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(STOP_S)
            return
    server.kill()
    server.wait()


def last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it says nothing"
