"""The file of feeders, read again when it changes."""

import asyncio
import os
import stat
from pathlib import Path
from typing import Final, NoReturn

import structlog

from projector.config.env import variable_name
from projector.errors import SettingsError
from projector.ingest import metrics
from projector.ingest.feeders import Feeder, WrongFeedersError, parse_feeders

log = structlog.get_logger()

SETTING: Final = variable_name("ingest_tokens_file")
WATCH_INTERVAL_S: Final = 1.0
# A thousand feeders with a hundred namespaces each. A wrong path must not fill the memory.
MAX_FILE_BYTES: Final = 4 * 1024 * 1024


class FeederFile:
    """The feeders of a file. A file that becomes unusable is a `fault` until it is mended.

    With a fault no token is accepted: a token that the file was to remove would go on working.
    Raises `SettingsError` if the file is wrong at the start.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._content = _read(file)
        self.feeders: list[Feeder] = _parse(file, self._content)
        self.fault: str | None = None
        metrics.TOKENS_UNUSABLE.set(0)

    async def watch(self) -> NoReturn:
        """Read the file again every second, off the event loop."""
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            await self.refresh()

    async def refresh(self) -> None:
        """Read the file again, and take over what has changed."""
        try:
            self._take(*await asyncio.to_thread(self._load))
        except SettingsError as error:
            self._fail(str(error))
        except Exception as error:  # without the file no token may be accepted
            # The error's text may quote the file.
            self._fail(f"{SETTING}: {type(error).__name__}")

    def _load(self) -> tuple[bytes, list[Feeder]]:
        # The content is compared, not its time: a replaced symbolic link may lead to an older file.
        content = _read(self._file)
        unchanged = content == self._content
        return content, self.feeders if unchanged else _parse(self._file, content)

    def _take(self, content: bytes, feeders: list[Feeder]) -> None:
        if self.fault:
            log.info("file of tokens usable again", feeders=len(feeders))
            metrics.TOKENS_UNUSABLE.set(0)
        if feeders is not self.feeders:
            log.warning("feeders changed", names=[feeder.name for feeder in feeders])
        self._content, self.feeders, self.fault = content, feeders, None

    def _fail(self, fault: str) -> None:
        if fault != self.fault:
            log.error("file of tokens unusable, every request gets 503", reason=fault)
        metrics.TOKENS_UNUSABLE.set(1)
        self.fault = fault


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


def _parse(file: Path, content: bytes) -> list[Feeder]:
    try:
        return parse_feeders(content)
    except WrongFeedersError as error:
        raise SettingsError(f"{SETTING}: {file}: {error}") from None
