"""Test requirements of the server that no PostgreSQL here can break: version, pooler."""

from projector.gitlab.setup import server_requirements
from projector.gitlab.setup.setup_reading import ServerSetup

SERVER = ServerSetup(
    version=150010, version_name="15.10", database="gitlabhq_production", user="projector",
    backend_pid=7, standby=False, encoding="UTF8", superuser=False, replication=True,
    may_use_schema=True,
)  # fmt: skip


def first(server: ServerSetup) -> list[str]:
    return [each.sentence for need in server_requirements.FIRST for each in need(server)]


def test_a_version_below_14_is_refused() -> None:
    assert first(SERVER) == []
    assert first(SERVER._replace(version=140000)) == []
    (sentence,) = first(SERVER._replace(version=130099, version_name="13.9"))
    assert sentence == "PostgreSQL is 13.9, and the bridge needs 14 or newer; upgrade it."


def test_a_standby_is_refused() -> None:
    assert "connect to the primary" in first(SERVER._replace(standby=True))[0]


def test_a_pooler_shows_by_another_process_id() -> None:
    assert list(server_requirements.pooled(SERVER, 7)) == []
    (found,) = server_requirements.pooled(SERVER, 8)
    assert "PgBouncer" in found.sentence
    assert found.remedies[0].text.startswith("PROJECTOR_GITLAB_DATABASE=")
