"""Test the commands `projector gitlab check` and `export`, and the examples of the guide."""

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from projector.config.env import GITLAB_PREFIX
from projector.config.gitlab_settings import GitlabSettings
from projector.config.settings import Settings
from projector.gitlab.setup.check import check
from projector.gitlab.setup.setup_script import script
from tests.integration.deployment import Deployment
from tests.integration.gitlab.company.company import Company
from tests.integration.gitlab.company.database_tokens import DB_KEY_BASE
from tests.integration.gitlab.gitlab_database import BRIDGE, BRIDGE_PASSWORD, GitlabDatabase
from tests.integration.gitlab.postgres import Postgres, program, run, running_postgres

GUIDE = (Path(__file__).parents[3] / "docs" / "gitlab-setup.md").read_text()
VARIABLE = re.compile(r"\bPROJECTOR_[A-Z_]+\b")
RUBY = re.compile(r"^postgresql\['(\w+)'\] = '?(\w+)'?$", re.MULTILINE)
# Where Omnibus has them, and a test's server has its own.
PLACES = {"listen_address"}


@pytest.fixture
def server() -> Iterator[Postgres]:
    """A server with the settings of the guide."""
    settings = {name: value for name, value in RUBY.findall(GUIDE) if name not in PLACES}
    assert len(settings) == 4
    with running_postgres(**settings) as server:
        yield server


@pytest.fixture
def gitlab(server: Postgres) -> GitlabDatabase:
    server.execute("CREATE DATABASE gitlabhq_production")
    gitlab = GitlabDatabase(server, "gitlabhq_production")
    gitlab.create()
    return gitlab


def test_the_guide_leads_to_a_bridge_that_can_run(
    gitlab: GitlabDatabase, deployment: Deployment
) -> None:
    deployment.env |= {
        "PROJECTOR_GITLAB_DATABASE": gitlab.bridge_dsn,
        "PROJECTOR_GITLAB_STATE": str(deployment.folder / "gitlab.db"),
    }
    before = deployment.command("gitlab", "check")
    assert before.returncode == 2
    assert "The publication projector is missing.\n    SQL:\n        CREATE PUB" in before.stdout
    assert "missing in Kafka" in before.stdout
    assert "    shell:\n        projector topics\n" in before.stdout

    printed = deployment.command("gitlab", "check", "--sql")
    assert printed.returncode == 0
    gitlab.server.psql(printed.stdout, gitlab.name)
    assert deployment.command("topics").returncode == 0
    after = deployment.command("gitlab", "check")
    assert (after.returncode, after.stdout.splitlines()[-1]) == (0, "the bridge can run")

    gitlab.server.execute("REVOKE SELECT (path) ON routes FROM projector", database=gitlab.name)
    assert deployment.command("gitlab", "check").returncode == 2
    export = deployment.command("gitlab", "export")
    assert (export.returncode, export.stdout) == (2, "")
    assert "routes" in export.stderr

    nowhere = psycopg.conninfo.make_conninfo(gitlab.bridge_dsn, port=1)
    deployment.env["PROJECTOR_GITLAB_DATABASE"] = nowhere
    for command in ("check", "export"):
        done = deployment.command("gitlab", command)
        assert done.returncode == 3
        assert "nothing listens there" in done.stdout + done.stderr
        assert BRIDGE_PASSWORD not in done.stdout + done.stderr
    deployment.env["PROJECTOR_GITLAB_DATABASE"] = "no connection string"
    assert deployment.command("gitlab", "check").returncode == 2
    assert deployment.command("gitlab", "check", "--sql").returncode == 2


def test_two_databases_are_set_up_by_one_script(gitlab: GitlabDatabase, tmp_path: Path) -> None:
    gitlab.server.execute("CREATE DATABASE gitlabhq_production_ci")
    ci = GitlabDatabase(gitlab.server, "gitlabhq_production_ci")
    ci.create()
    given = {
        "database": gitlab.bridge_dsn, "ci_database": ci.bridge_dsn,
        "state": tmp_path / "gitlab.db",
    }  # fmt: skip
    settings = GitlabSettings(**given)  # type: ignore[arg-type]
    file = gitlab.server.folder / "both.sql"
    file.write_text(script(settings))
    run(program("psql"), "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--file", str(file),
        gitlab.server.socket_dsn(gitlab.name))  # fmt: skip
    found = [each for checked in check(settings) for each in checked.findings]
    assert [each.sentence for each in found if not each.is_hint] == []
    published = "SELECT tablename FROM pg_publication_tables ORDER BY 1"
    assert "p_ci_builds" not in gitlab.server.psql(published, gitlab.name)
    assert gitlab.server.psql(published, ci.name) == "p_ci_builds\np_ci_builds_metadata\n"


def test_the_key_must_open_the_tokens_of_gitlab(gitlab: GitlabDatabase, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(DB_KEY_BASE[:32].encode())
    key.chmod(0o400)
    given = {
        "database": gitlab.bridge_dsn, "state": tmp_path / "gitlab.db",
        "tokens": "decrypt", "db_key_file": key,
    }  # fmt: skip
    settings = GitlabSettings(**given)  # type: ignore[arg-type]
    gitlab.server.psql(script(settings), gitlab.name)

    def sentences() -> list[str]:
        found = [each for checked in check(settings) for each in checked.findings]
        return [each.sentence for each in found if not each.is_hint]

    assert sentences() == []
    company = Company(1, gitlab.server.socket_dsn(gitlab.name, "gitlab"))
    company.found()
    company.close()
    assert sentences() == []
    key.chmod(0o600)
    key.write_bytes(b"7a" * 16)
    assert sentences() == [f"The key in {key} does not open the tokens in GitLab's database."]
    key.write_bytes(b"\xff" * 32)
    assert sentences() == [f"PROJECTOR_GITLAB_DB_KEY_FILE: {key} is not text."]
    gitlab.server.execute(
        f"REVOKE SELECT (token_encrypted) ON p_ci_builds FROM {BRIDGE}", database=gitlab.name
    )
    assert sentences() == ["The role projector may not read token_encrypted of p_ci_builds."]


def test_every_variable_of_the_guide_is_a_setting() -> None:
    known = {f"PROJECTOR_{name.upper()}" for name in Settings.model_fields}
    known |= {f"{GITLAB_PREFIX}{name.upper()}" for name in GitlabSettings.model_fields}
    assert set(VARIABLE.findall(GUIDE)) - known == set()
