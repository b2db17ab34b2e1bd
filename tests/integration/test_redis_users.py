"""Users of Redis: deploy/redis/users.acl gives each process only what it needs."""

import hashlib
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from projector.ports import is_listening
from tests import builders
from tests.integration import secure_servers, servers
from tests.integration.deployment import Deployment
from tests.integration.ports import free_port
from tests.integration.servers import REPOSITORY, Server, eventually, running

FOLDER = REPOSITORY / "deploy" / "redis"
# Has all rights, to examine the other users.
ADMIN = "user admin on nopass ~* &* +@all\n"
READERS = ("api", "operator")
OPS_TOKEN = "of-the-operators-page"
# A password in docker-compose.yml: ${REDIS_API_PASSWORD:-change-me-api}
DEFAULT = re.compile(r"\$\{REDIS_([A-Z]+)_PASSWORD:-([a-z-]+)\}")


def embedded(folder: Path, port: int, users: Path) -> Server:
    return servers.valkey(folder, port, "--aclfile", str(users))


def installed(folder: Path, port: int, users: Path) -> Server:
    secure_servers.redis_or_skip()
    argv = [str(secure_servers.redis_program()), "--port", str(port), "--dir", str(folder)]
    return Server([*argv, "--save", "", "--aclfile", str(users)], folder / "redis.log")


@pytest.fixture(params=[embedded, installed], ids=["valkey", "installed"])
def port(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    """Start a server with the users of the file; yield its port."""
    port, users = free_port(), tmp_path / "users.acl"
    users.write_text((FOLDER / "users.acl").read_text() + ADMIN)
    with running(request.param(tmp_path, port, users)) as server:
        eventually(lambda: is_listening(port), f"listening: {server.log()}")
        yield port


def client(port: int, user: str) -> Any:
    return redis.Redis(port=port, username=user, password=f"change-me-{user}", driver_info=None)


def may(admin: Any, user: str, command: str, key: str = "allowed-agents:partitions") -> bool:
    """Return whether the user may run the command, with as many arguments as it needs."""
    ((_, arity, *_),) = admin.execute_command("COMMAND INFO", command)
    words = command.split("|")
    arguments = [key] * (abs(arity) - len(words))
    outcome = admin.execute_command("ACL DRYRUN", user, *words, *arguments)
    return bool(outcome == b"OK")


def commands(admin: Any, category: str) -> list[str]:
    listed = admin.execute_command("COMMAND LIST FILTERBY ACLCAT", category)
    found = [name.decode() for name in listed]
    # Without containers such as CONFIG: their subcommands are listed separately.
    return [name for name in found if not any(other.startswith(f"{name}|") for other in found)]


@pytest.mark.parametrize("user", READERS)
def test_readers_can_write_nothing(port: int, user: str) -> None:
    with client(port, "admin") as admin, client(port, user) as reader:
        writing = commands(admin, "write")
        assert {"set", "del", "hset", "flushall", "rename", "expire", "xgroup|create"} <= {*writing}
        assert [name for name in writing if may(admin, user, name)] == []
        scripting = commands(admin, "scripting")
        assert {"eval", "evalsha", "eval_ro", "fcall"} <= {*scripting}
        assert [name for name in scripting if may(admin, user, name)] == []
        for words in ("SET allowed-agents:partitions 1", "DEL allowed-agents:partitions"):
            with pytest.raises(NoPermissionError):
                reader.execute_command(*words.split())


@pytest.mark.parametrize("user", [*READERS, "worker"])
def test_nobody_administers_the_server(port: int, user: str) -> None:
    with client(port, "admin") as admin:
        for category in ("admin", "dangerous", "pubsub", "blocking"):
            allowed = {name for name in commands(admin, category) if may(admin, user, name)}
            assert allowed <= {"info"}, category


@pytest.mark.parametrize("user", [*READERS, "worker"])
def test_keys_of_others_are_out_of_reach(port: int, user: str) -> None:
    with client(port, "admin") as admin, client(port, user) as limited:
        admin.set("others:1", "theirs")
        admin.set("allowed-agentsx", "theirs")
        for key in ("others:1", "allowed-agentsx"):
            with pytest.raises(NoPermissionError):
                limited.get(key)
        reading = commands(admin, "read")
        known = [name for name in reading if may(admin, user, name)]
        assert "get" in known
        # SCAN and DBSIZE take no key; they return names and a number, never a value.
        others = {name for name in known if may(admin, user, name, "others:1")}
        assert others <= {"scan", "dbsize"}


def test_the_workers_scripts_reach_no_keys_of_others(port: int) -> None:
    with client(port, "admin") as admin, client(port, "worker") as worker:
        undeclared = worker.script_load("return redis.call('SET', 'others:1', 'mine')")
        declared = worker.script_load("return redis.call('SET', KEYS[1], 'mine')")
        with pytest.raises((NoPermissionError, ResponseError), match=r"(?i)permission|access"):
            worker.evalsha(undeclared, 0)
        with pytest.raises(NoPermissionError):
            worker.evalsha(declared, 1, "others:1")
        assert worker.evalsha(declared, 1, "allowed-agents:x") == b"OK"
        assert admin.get("others:1") is None


def test_without_a_password_there_is_nothing(port: int) -> None:
    with redis.Redis(port=port, driver_info=None) as nobody, pytest.raises(AuthenticationError):
        nobody.ping()


def test_the_product_runs_as_these_users(port: int, kafka: str, tmp_path: Path) -> None:
    """A server lists each refused command in its ACL LOG, which must stay empty."""
    with Deployment(kafka, port, f"users{port}.", tmp_path) as deployment:
        as_worker = credentials("worker")
        assert deployment.command("topics").returncode == 0
        worker = deployment.start("worker", **as_worker, PROJECTOR_SWEEP_INTERVAL="1")
        ops = "an-operators-token"
        api = deployment.start_api(**credentials("api"), PROJECTOR_OPS_TOKEN=ops)
        deployment.until_fresh()
        deployment.feed(builders.group(3), builders.project(7, 3), builders.started(9, 7))
        deployment.until("token-9", 200)
        assert deployment.look_up("unknown").status == 401
        for data in ("status", "jobs/9"):
            found = deployment.get(f"/ops/data/{data}", {"Authorization": f"Bearer {ops}"})
            assert found.status == 200, found.body
        assert worker.stop() == 0
        deployment.feed(builders.removed("job", 9))
        worker.start()
        deployment.until("token-9", 401)
        with client(port, "admin") as admin:
            assert admin.acl_log() == []
        assert "change-me" not in worker.log() + api.log()


def looks_and_repairs(deployment: Deployment) -> None:
    """Run the commands that read as an operator, those that write as a worker."""
    looking = ["status", "explain 9", "inspect job 9", "inspect partition 0", "inspect agent 5"]
    for user, commands_ in (
        ("operator", [*looking, "inspect token -", "verify", "rebuild --dry-run"]),
        ("worker", ["verify --repair", "rebuild"]),
    ):
        deployment.env |= credentials(user)
        for words in commands_:
            done = deployment.command(*words.split(), stdin="token-9\n")
            assert "Redis at" not in done.stderr, f"{words}: {done.stderr}"


def test_who_may_not_write_is_told_so(port: int, kafka: str, tmp_path: Path) -> None:
    with Deployment(kafka, port, f"users{port}.", tmp_path) as deployment:
        assert deployment.command("topics").returncode == 0
        worker = deployment.start("worker", **credentials("api"))
        assert worker.process.wait(30) == 2
        log = worker.log()
        assert "does not allow this user what is needed" in log
        assert "docs/security.md" in log


def credentials(user: str) -> dict[str, str]:
    return {
        "PROJECTOR_REDIS_USERNAME": user,
        "PROJECTOR_REDIS_PASSWORD": f"change-me-{user}",
    }


# the passwords


def hashes(users: Path) -> dict[str, str]:
    found = re.findall(r"^user (\w+) on #([0-9a-f]{64}) ", users.read_text(), re.MULTILINE)
    return dict(found)


def test_docker_compose_has_the_passwords_of_the_file() -> None:
    text = (REPOSITORY / "docker-compose.yml").read_text()
    defaults = {user.lower(): password for user, password in DEFAULT.findall(text)}
    digests = {user: hashlib.sha256(word.encode()).hexdigest() for user, word in defaults.items()}
    assert digests == hashes(FOLDER / "users.acl")
    services = yaml.safe_load(text)["services"]
    assert "ports" not in services["valkey"]
    for user in ("api", "worker"):
        environment = services[user]["environment"]
        assert environment["PROJECTOR_REDIS_USERNAME"] == user
        assert environment["PROJECTOR_REDIS_PASSWORD"].endswith(f"change-me-{user}}}")


def test_new_passwords_take_the_place_of_the_old_ones(tmp_path: Path) -> None:
    folder = tmp_path / "deploy" / "redis"
    shutil.copytree(FOLDER, folder)
    env, users = tmp_path / ".env", folder / "local" / "users.acl"
    env.write_text("OTHER=1\nREDIS_API_PASSWORD=old\n")
    tracked = (folder / "users.acl").read_text()
    for _ in range(2):
        done = subprocess.run(
            [folder / "new-passwords"], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
    values = dict(line.split("=", 1) for line in env.read_text().splitlines())
    assert values.pop("OTHER") == "1"
    assert len(values.pop("OPS_TOKEN")) == 64
    named = tmp_path / values.pop("REDIS_USERS_FILE")
    assert named.samefile(users)
    assert {name: hashlib.sha256(value.encode()).hexdigest() for name, value in values.items()} == {
        f"REDIS_{user.upper()}_PASSWORD": digest for user, digest in hashes(users).items()
    }
    assert len({*values.values()}) == 3
    assert not [value for value in values.values() if value in done.stdout]
    assert not {*hashes(users).values()} & {*hashes(FOLDER / "users.acl").values()}
    assert stat.S_IMODE(env.stat().st_mode) == 0o600
    assert stat.S_IMODE(users.stat().st_mode) == 0o644
    # Git would offer to commit a tracked file, and the next pull would conflict.
    assert (folder / "users.acl").read_text() == tracked
    assert os.listdir(folder / "local") == ["users.acl"]
    ignored = ["git", "check-ignore", "--quiet", str(FOLDER / "local" / "users.acl")]
    assert subprocess.run(ignored, cwd=REPOSITORY, check=False).returncode == 0
    hidden = re.compile("#[0-9a-f]{64}")
    assert hidden.sub("", users.read_text()) == hidden.sub("", tracked)
