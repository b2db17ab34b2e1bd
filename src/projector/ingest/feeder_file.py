"""The file of feeders, read again when it changes."""

import os
import stat
from pathlib import Path
from typing import Final

import structlog

from projector.config.env import variable_name
from projector.config.watched_files import WatchedFiles
from projector.errors import SettingsError
from projector.ingest import metrics
from projector.ingest.feeders import Feeder, WrongFeedersError, parse_feeders

log = structlog.get_logger()

SETTING: Final = variable_name("ingest_tokens_file")
# A thousand feeders with a hundred namespaces each. A wrong path must not fill the memory.
MAX_FILE_BYTES: Final = 4 * 1024 * 1024


class FeederFile(WatchedFiles[bytes, dict[str, Feeder]]):
    """The feeders of a file. A file that becomes unusable is a `fault` until it is corrected.

    With a fault no token is accepted: a token that the file was to remove would go on working.
    Raises `SettingsError` if the file is wrong at the start.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        super().__init__(SETTING)
        metrics.TOKENS_UNUSABLE.set(0)

    @property
    def feeders(self) -> dict[str, Feeder]:
        """The feeders by the digests of their tokens, of the last content that was usable."""
        return self.value

    @property
    def names(self) -> list[str]:
        """The names of the feeders, in the order of the file."""
        return [feeder.name for feeder in self.feeders.values()]

    def _read(self) -> bytes:
        return _read(self._file)

    def _parse(self, content: bytes) -> dict[str, Feeder]:
        return _parse(self._file, content)

    def _note_return(self) -> None:
        log.info("file of tokens usable again", feeders=len(self.feeders))
        metrics.TOKENS_UNUSABLE.set(0)

    def _note_change(self) -> None:
        log.warning("feeders changed", names=self.names)

    def _note_fault(self, fault: str, *, is_new: bool) -> None:
        if is_new:
            log.error("file of tokens unusable, every request gets 503", reason=fault)
        metrics.TOKENS_UNUSABLE.set(1)


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            content = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{SETTING}: {file}: {error.strerror}") from None
    if mode & stat.S_IWOTH:
        raise SettingsError(
            f"{SETTING}: {file}: every user may write it, and so give rights; `chmod o-w` it"
        )
    if len(content) > MAX_FILE_BYTES:
        raise SettingsError(f"{SETTING}: {file}: is larger than {MAX_FILE_BYTES} bytes")
    return content


def _parse(file: Path, content: bytes) -> dict[str, Feeder]:
    try:
        return parse_feeders(content)
    except WrongFeedersError as error:
        raise SettingsError(f"{SETTING}: {file}: {error}") from None
