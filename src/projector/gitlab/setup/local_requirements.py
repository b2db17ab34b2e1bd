"""Requirements of the bridge's own machine: the state file and the file of the key."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from projector.config.env import GITLAB, variable_name
from projector.config.gitlab_settings import GitlabSettings
from projector.gitlab.postgres.token_digests import others_may_use
from projector.gitlab.setup.findings import ENVIRONMENT, SHELL, Finding, Remedy

KEY_BYTES: Final = 32
STATE: Final = variable_name(GITLAB + "state")
KEY: Final = variable_name(GITLAB + "db_key_file")
OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
WRITE_KEY: Final = (
    "jq -j '.gitlab_rails.db_key_base[0:32]' /etc/gitlab/gitlab-secrets.json > {file}"
)


def check_files(settings: GitlabSettings) -> Iterator[Finding]:
    """Find what is wrong with the state file and the file of the key."""
    yield from _state(settings.state)
    if settings.db_key_file is not None:
        yield from _key(settings.db_key_file)


def _state(state: Path) -> Iterator[Finding]:
    folder = state.absolute().parent
    if not folder.is_dir():
        yield _shell(f"The folder of the state file, {folder}, is missing.",
                     f"mkdir --mode 0700 --parents {folder}")  # fmt: skip
    elif state.exists() and not (state.is_file() and os.access(state, os.R_OK | os.W_OK)):
        yield _elsewhere(f"The state file {state} cannot be read and written.")
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield _elsewhere(f"The folder of the state file, {folder}, cannot be written.")
    elif state.exists() and state.stat().st_mode & OTHERS:
        yield _shell(f"Other users may read the state file {state}.", f"chmod 0600 {state}")


def _key(file: Path) -> Iterator[Finding]:
    try:
        content, status = file.read_bytes(), file.stat()
    except OSError as error:
        yield _shell(f"The file of the key, {file}, cannot be read: {error.strerror}.",
                     WRITE_KEY.format(file=file))  # fmt: skip
        return
    if len(content) != KEY_BYTES:
        yield _shell(
            f"{file} has {len(content)} bytes, and must have the first {KEY_BYTES} of db_key_base "
            "and nothing else.", WRITE_KEY.format(file=file),
        )  # fmt: skip
    if others_may_use(status, os.geteuid()):
        yield _shell(f"Other users may read the key in {file}.", f"chmod 0400 {file}")


def wrong_key(file: Path) -> Finding:
    """Describe a key that does not open GitLab's tokens."""
    return _shell(
        f"The key in {file} does not open the tokens in GitLab's database.",
        WRITE_KEY.format(file=file),
    )


def _shell(sentence: str, command: str) -> Finding:
    return Finding(sentence, (Remedy(SHELL, command),))


def _elsewhere(sentence: str) -> Finding:
    return Finding(sentence, (Remedy(ENVIRONMENT, f"{STATE}=<a file on a local disk>"),))
