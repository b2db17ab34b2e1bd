"""A value of files that are read again when they change, such as keys and tokens."""

import asyncio
from abc import ABC, abstractmethod
from typing import Final, Generic, NoReturn, TypeVar

from projector.errors import SettingsError

Content = TypeVar("Content")
Value = TypeVar("Value")

WATCH_INTERVAL_S: Final = 1.0


class WatchedFiles(ABC, Generic[Content, Value]):
    """The value of a setting's files. Files that become unusable are a `fault` until they are back.

    `value` is another object as soon as the content has changed. With a fault it must not be used.
    Raises `SettingsError` if the files are wrong at the start.
    """

    def __init__(self, setting: str) -> None:
        self._setting = setting
        self._content = self._read()
        self.value = self._parse(self._content)
        self.fault: str | None = None

    async def watch(self) -> NoReturn:
        """Read the files again every second, off the event loop."""
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            await self.refresh()

    async def refresh(self) -> None:
        """Read the files again, and take over what has changed."""
        try:
            self._take(*await asyncio.to_thread(self._load))
        except SettingsError as error:
            self._fail(str(error))
        except Exception as error:  # without the files' content no token may be accepted
            # The error's text may quote the file.
            self._fail(f"{self._setting}: {type(error).__name__}")

    def _load(self) -> tuple[Content, Value]:
        # The content is compared, not its time: a replaced symbolic link may lead to an older file.
        content = self._read()
        return content, self.value if content == self._content else self._parse(content)

    def _take(self, content: Content, value: Value) -> None:
        former, self.value = self.value, value
        if self.fault:
            self._note_return()
        if value is not former:
            self._note_change()
        self._content, self.fault = content, None

    def _fail(self, fault: str) -> None:
        self._note_fault(fault, is_new=fault != self.fault)
        self.fault = fault

    @abstractmethod
    def _read(self) -> Content:
        """Read the files; raises `SettingsError`."""

    @abstractmethod
    def _parse(self, content: Content) -> Value:
        """Parse the content; raises `SettingsError`, whose message does not quote it."""

    @abstractmethod
    def _note_return(self) -> None:
        """Note that the files are usable again."""

    @abstractmethod
    def _note_change(self) -> None:
        """Note that `value` is another one."""

    @abstractmethod
    def _note_fault(self, fault: str, *, is_new: bool) -> None:
        """Note that the files are unusable."""
