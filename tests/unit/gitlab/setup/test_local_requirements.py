"""Test the requirements of the state file and of the file with the key."""

import os
from pathlib import Path

import pytest

from projector.config.gitlab_settings import GitlabSettings
from projector.gitlab.setup.findings import Finding
from projector.gitlab.setup.local_requirements import check_files


def found(**given: object) -> list[Finding]:
    settings = GitlabSettings(database="dbname=g", **given)  # type: ignore[arg-type]
    return list(check_files(settings))


def key(folder: Path, content: bytes, mode: int = 0o400) -> Path:
    file = folder / "key"
    file.unlink(missing_ok=True)
    file.write_bytes(content)
    file.chmod(mode)
    return file


def test_a_folder_that_is_missing_is_made_by_the_printed_command(tmp_path: Path) -> None:
    state = tmp_path / "a" / "gitlab.db"
    (one,) = found(state=state)
    assert "is missing" in one.sentence
    assert os.system(one.remedies[0].text) == 0
    assert found(state=state) == []


def test_a_folder_cannot_be_the_state_file(tmp_path: Path) -> None:
    (one,) = found(state=tmp_path)
    assert "cannot be read and written" in one.sentence


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write_is_found(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    (one,) = found(state=tmp_path / "gitlab.db")
    assert "cannot be written" in one.sentence


def test_a_state_file_that_others_may_read_is_closed_to_them(tmp_path: Path) -> None:
    state = tmp_path / "gitlab.db"
    state.touch(0o644)
    (one,) = found(state=state)
    assert os.system(one.remedies[0].text) == 0
    assert found(state=state) == []


def test_a_key_has_32_bytes_for_one_user_alone(tmp_path: Path) -> None:
    state = tmp_path / "gitlab.db"
    file = key(tmp_path, b"k" * 32)
    assert found(state=state, tokens="decrypt", db_key_file=file) == []
    file = key(tmp_path, b"k" * 32 + b"\n", 0o644)
    length, mode = found(state=state, tokens="decrypt", db_key_file=file)
    assert "has 33 bytes" in length.sentence
    assert mode.sentence.startswith("Other users may read the key")
    assert os.system(mode.remedies[0].text) == 0
    assert "k" * 32 not in repr((length, mode))
