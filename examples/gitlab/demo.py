"""Feeds `projector dev` from a GitLab-shaped database, changes that in SQL; stays up.

python -m examples.gitlab.demo [PORT]
"""

import http.client
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from examples.gitlab import postgres, story
from examples.gitlab.lookups import PATH
from examples.gitlab.postgres import Postgres, PostgresError, last_line
from examples.gitlab.processes import PROJECTOR, DemoError, Process, until
from examples.gitlab.story import JOBS, Story

from projector.dev.example import drop_settings
from projector.ports import is_listening

FOLDER = Path(__file__).parent
DATABASE = "gitlabhq_production"
SOURCE = "gitlab"
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def tell(api: str, server: Postgres, folder: Path, bridge: Process) -> None:
    tokens = {job: (folder / f"token-{job}").read_text() for job in JOBS}
    told = Story(api, server.dsn("postgres", DATABASE), tokens)
    print("\nWhich agents may a job use, by its signed token?")
    told.look_up(9)
    told.change("The group web leaves the group that may use agent 5", story.MOVE, 9)
    told.change("Ben is blocked", story.BLOCK, 10)
    told.change("Job 9 finishes", story.FINISH, 9)
    print("The bridge stops, and the lookup accepts no answer older than a second:", flush=True)
    bridge.stop()
    told.fall_silent(11, SOURCE)
    print("The bridge starts again:", flush=True)
    bridge.start()
    told.look_up(11)
    print("\nIn another terminal, a whole answer:")
    print(f"""  curl -H "Job-Token: $(cat {folder}/token-11)" {api}{PATH}""")
    print("and GitLab's tables; this moves the group back:")
    print(f"  {shlex.join(server.psql(DATABASE))}")
    print("  UPDATE namespaces SET parent_id = 2 WHERE id = 3;")
    print(f"The logs are in {folder}.")
    print("\nIt runs until Ctrl-C.", flush=True)


# GitLab: its database, its signing key


def make_database(server: Postgres) -> None:
    psql(server, "postgres", f"CREATE DATABASE {DATABASE};")
    for name in ("schema.sql", "company.sql"):
        psql(server, DATABASE, (FOLDER / name).read_text())


def psql(server: Postgres, database: str, script: str) -> None:
    options = ["--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1"]
    if database == "postgres":
        options.remove("--single-transaction")
    done = subprocess.run(
        [*server.psql(database), *options], input=script, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise DemoError(f"psql: {last_line(done.stderr)}")


def set_up(server: Postgres, env: Mapping[str, str]) -> None:
    """Make role, grants and publication by the SQL that the product prints, and check them."""
    print("$ projector gitlab check --sql | psql", flush=True)
    psql(server, DATABASE, check(env, "--sql"))
    print("$ projector gitlab check", flush=True)
    print(check(env), end="", flush=True)


def check(env: Mapping[str, str], *options: str) -> str:
    command = ["gitlab", "check", *options]
    done = subprocess.run(
        [*PROJECTOR, *command], env=os.environ | env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        found = done.stdout + done.stderr
        raise DemoError(f"`projector {' '.join(command)}` ends with {done.returncode}:\n{found}")
    return done.stdout


def make_tokens(folder: Path) -> dict[str, str]:
    """Sign a token for each job; return the settings of an API that accepts them."""
    from examples.gitlab.job_tokens import ISSUER, SigningKey  # noqa: PLC0415  slow

    key, file = SigningKey(), folder / "job_token_key.pem"
    key.write_public_half(file)
    for job in JOBS:
        (folder / f"token-{job}").write_text(key.token(job))
    return {"PROJECTOR_JOB_TOKEN_KEYS": str(file), "PROJECTOR_JOB_TOKEN_ISSUER": ISSUER}


# the processes


def run(port: str, folder: Path) -> None:
    with ExitStack() as stack:
        try:
            server = stack.enter_context(postgres.running(folder))
            print(f"PostgreSQL {server.version} is up; the rest takes some ten seconds", flush=True)
            settings = make_tokens(folder) | {"PROJECTOR_SOURCES": SOURCE}
            dev = Process(["dev", "--port", port], settings, folder)
            stack.callback(dev.stop)
            dev.start()
            feed(dev, server, folder, stack)
        finally:
            # All has its own time to end: another Ctrl-C must not leave something behind.
            for number in ENDINGS:
                signal.signal(number, signal.SIG_IGN)


def feed(dev: Process, server: Postgres, folder: Path, stack: ExitStack) -> None:
    make_database(server)
    own = {
        "PROJECTOR_SOURCES": SOURCE,
        "PROJECTOR_GITLAB_DATABASE": server.dsn("projector", DATABASE),
        "PROJECTOR_GITLAB_STATE": str(folder / "gitlab.db"),
        "PROJECTOR_KAFKA": until(dev.waiting, [dev], "Kafka and the rest at work")["kafka"],
    }
    set_up(server, own)
    print("$ projector gitlab run", flush=True)
    bridge = Process(["gitlab", "run"], own, folder)
    stack.callback(bridge.stop)
    bridge.start()
    ready = until(dev.ready, [dev, bridge], "the company in Redis")
    print("ready", *(f"{name}={value}" for name, value in ready.items()), flush=True)
    tell(ready["api"], server, folder, bridge)
    while True:
        time.sleep(0.5)
        dev.check()
        bridge.check()


def main() -> int:
    port = sys.argv[1] if len(sys.argv) > 1 else "8000"
    if port.isdecimal() and is_listening(int(port)):
        return fail(f"port {port} is in use; `make gitlab PORT=0` takes a free one")
    if names := drop_settings():
        print(f"ignored, because this brings its own servers: {', '.join(names)}", flush=True)
    try:
        with tempfile.TemporaryDirectory(prefix="projector-gitlab-") as folder:
            run(port, Path(folder))
    except KeyboardInterrupt:
        return 0
    except (DemoError, PostgresError, OSError, http.client.HTTPException) as error:
        return fail(f"the demo cannot go on: {error}")
    return 0


def fail(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 1


if __name__ == "__main__":
    for number in ENDINGS:
        signal.signal(number, signal.default_int_handler)
    sys.exit(main())
