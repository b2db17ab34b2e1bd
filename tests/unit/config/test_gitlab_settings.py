"""Settings of `projector gitlab`: their own class, known to every command, and never shown."""

import os
from pathlib import Path

import pytest

from projector.config.gitlab_settings import GitlabSettings
from projector.config.settings import Settings
from projector.errors import SettingsError

NAME = "PROJECTOR_GITLAB_"
SECRET = "hunter2-hunter2"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("PROJECTOR_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv(f"{NAME}DATABASE", f"host=db dbname=gitlab password={SECRET}")


def load(monkeypatch: pytest.MonkeyPatch, **variables: str) -> GitlabSettings:
    for name, value in variables.items():
        monkeypatch.setenv(NAME + name, value)
    return GitlabSettings.load()


def refusal(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    with pytest.raises(SettingsError) as refused:
        load(monkeypatch, **variables)
    return str(refused.value)


def test_without_variables_the_defaults_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch)
    assert settings.source == "stream"
    assert settings.slot == settings.publication == "projector"
    assert (settings.poll_interval, settings.poll_jobs_interval, settings.heartbeat) == (
        10,
        1,
        0.25,
    )
    assert settings.secret is None


def test_every_command_accepts_all_variables_of_gitlab(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in GitlabSettings.model_fields:
        monkeypatch.setenv(NAME + name.upper(), "what only the bridge can judge")
    assert Settings.load()


def test_an_unknown_variable_of_gitlab_is_refused_with_the_one_that_was_meant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(f"{NAME}PUBLICATIONS", "projector")
    with pytest.raises(SettingsError) as refused:
        Settings.load()
    assert str(refused.value) == (
        f"{NAME}PUBLICATIONS is not a setting; did you mean {NAME}PUBLICATION?"
    )


def test_a_database_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(f"{NAME}DATABASE")
    assert refusal(monkeypatch).startswith(f"{NAME}DATABASE: must be set")
    assert refusal(monkeypatch, DATABASE=" ").startswith(f"{NAME}DATABASE: must be a connection")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SLOT", "Projector"), ("SLOT", "a" * 61), ("SLOT", "a; DROP TABLE users"), ("SLOT", ""),
        ("SLOT", "slot\n"), ("PUBLICATION", "1st"), ("PUBLICATION", 'p"'),
        ("PUBLICATION", "a" * 64),
        ("SOURCE", "guess"), ("TOKENS", "plain"), ("HEARTBEAT", "0.2"), ("POLL_INTERVAL", "0"),
        ("POLL_JOBS_INTERVAL", "inf"), ("WEB_PORT", "65536"), ("PASSWORD", ""),
        ("PASSWORD_FILE", "/nowhere"), ("DB_KEY_FILE", "/nowhere"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    (line,) = refusal(monkeypatch, **{name: value}).splitlines()
    assert line.startswith(f"{NAME}{name}: ")


def test_the_password_may_stand_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n")
    found = load(monkeypatch, PASSWORD_FILE=str(file)).secret
    assert found
    assert found.get_secret_value() == SECRET
    assert f"{NAME}PASSWORD is set as well" in refusal(monkeypatch, PASSWORD="other")


def test_an_empty_password_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    found = refusal(monkeypatch, PASSWORD_FILE=str(tmp_path / "empty"))
    assert found.startswith(f"{NAME}PASSWORD_FILE: ")


@pytest.mark.parametrize("name", ["PASSWORD_FILE", "DB_KEY_FILE", "STATE"])
def test_an_empty_name_of_a_file_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    found = refusal(monkeypatch, **{name: ""})
    assert found == f"{NAME}{name}: is empty; give a file, or leave the variable unset"


def test_the_key_and_the_mode_that_needs_it_are_set_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "is needed with" in refusal(monkeypatch, TOKENS="decrypt")
    (tmp_path / "key").write_bytes(b"k" * 32)
    assert load(monkeypatch, DB_KEY_FILE=str(tmp_path / "key")).db_key_file
    assert "has no effect unless" in refusal(monkeypatch, TOKENS="jwt")


def test_the_settings_as_text_show_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, PASSWORD=SECRET, CI_DATABASE=f"password={SECRET}")
    assert SECRET not in repr(settings)
    assert SECRET not in refusal(monkeypatch, SLOT="!", WEB_PORT="-1")
