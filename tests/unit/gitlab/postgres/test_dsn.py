"""Connection strings: completed, and never shown with a secret in them."""

from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from projector.config.gitlab_settings import GitlabSettings
from projector.errors import SettingsError
from projector.gitlab.postgres import dsn

SECRET = "hunter2 'and' more"
QUOTED = "'hunter2 \\'and\\' more'"


def settings(database: str, **more: str) -> GitlabSettings:
    return GitlabSettings.model_validate({"database": database, **more})


def parts(database: str, **more: str) -> dict[str, object]:
    return dict(conninfo_to_dict(dsn.connection_strings(settings(database, **more))["main"]))


def test_a_vanished_server_is_noticed_unless_the_string_says_otherwise() -> None:
    assert parts("host=db")["tcp_user_timeout"] == "30000"
    assert parts("host=db tcp_user_timeout=1000")["tcp_user_timeout"] == "1000"
    assert parts("postgresql://me@db/x?application_name=a")["application_name"] == "a"


def test_the_password_comes_from_either_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text(SECRET)
    assert parts("host=db", password=SECRET)["password"] == SECRET
    assert parts("host=db", password_file=str(tmp_path / "file"))["password"] == SECRET
    assert parts(f"host=db password={QUOTED}")["password"] == SECRET


def test_two_passwords_are_refused_by_the_name_of_the_second() -> None:
    with pytest.raises(SettingsError) as refused:
        dsn.connection_strings(settings(f"host=db password={QUOTED}", password="other"))
    assert str(refused.value).startswith("PROJECTOR_GITLAB_PASSWORD: PROJECTOR_GITLAB_DATABASE has")


@pytest.mark.parametrize(
    "text", ["hunter2", "host=db password='hunter2", "host=db pasword=hunter2",
             "postgresql://me:hunter2@[db/x", "postgresql://me:hunter2%@db"],
)  # fmt: skip
def test_what_is_no_connection_string_is_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(SettingsError) as refused:
        dsn.connection_strings(settings(text))
    assert str(refused.value).startswith("PROJECTOR_GITLAB_DATABASE: is not a connection string")
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


@pytest.mark.parametrize("text", ["hst=db dbname=x", "postgresql://me:hunter2@db/x?hst=db"])
def test_a_misspelt_option_is_named(text: str) -> None:
    with pytest.raises(SettingsError, match="`hst` is no option, `host` is; write"):
        dsn.connection_strings(settings(text))


def test_a_piece_of_a_password_is_not_taken_for_an_option() -> None:
    with pytest.raises(SettingsError) as refused:
        dsn.connection_strings(settings("host=db password=some hunter2=more"))
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("option", ["replication=database", "options=-cx=1", "client_encoding=x"])
def test_what_the_bridge_sets_itself_is_refused(option: str) -> None:
    with pytest.raises(SettingsError, match=f"must not set `{option.partition('=')[0]}`"):
        dsn.connection_strings(settings(f"host=db {option}"))


def test_of_several_hosts_the_primary_is_meant() -> None:
    assert parts("host=a,b")["target_session_attrs"] == "primary"
    assert "target_session_attrs" not in parts("host=a")


def test_the_second_database_has_a_string_of_its_own() -> None:
    found = dsn.connection_strings(settings("host=a", ci_database="host=b", password=SECRET))
    assert [conninfo_to_dict(text)["host"] for text in found.values()] == ["a", "b"]
    assert {conninfo_to_dict(text)["password"] for text in found.values()} == {SECRET}
    assert list(dsn.connection_strings(settings("host=a"))) == ["main"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("host=db dbname=gitlab user=me password=hunter2", "db:5432/gitlab"),
        ("postgresql://me:hunter2@db:6000/gitlab", "db:6000/gitlab"),
        ("host=a,b port=1,2 dbname=x", "a:1,b:2/x"),
        ("host=a,b port=1 dbname=x", "a:1,b:1/x"),
        ("user=me", "localhost:5432/me"),
    ],
)
def test_the_place_shows_no_secret(text: str, shown: str) -> None:
    assert dsn.place(text) == shown


@pytest.mark.parametrize(
    ("text", "exposed"),
    [
        ("host=db", True), ("host=db sslmode=require", True),
        ("host=db sslmode=verify-full", False),
        ("host=/run/postgresql", False), ("host=127.0.0.1", False), ("host=::1", False),
        ("host=localhost,db", True), ("dbname=x", False), ("hostaddr=10.0.0.1", True),
    ],
)  # fmt: skip
def test_a_connection_over_the_network_needs_a_checked_certificate(
    text: str, exposed: bool
) -> None:
    assert dsn.is_exposed(text) is exposed
