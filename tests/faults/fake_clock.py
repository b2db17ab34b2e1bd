"""The clock of a Redis server that a scenario lets jump, by Debian's libfaketime."""

import os
from pathlib import Path
from typing import Final

import pytest

LIBRARIES: Final = ("/usr/lib", "/usr/local/lib", "/opt")


class FakeClock:
    """The wall clock of a server that is started with `env`; its monotonic clock stays right."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "ahead"
        self.set(0)
        self.env = {
            "LD_PRELOAD": str(library_or_skip()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, ahead_s: int) -> None:
        """Let the clock be so many seconds ahead of the right time, or behind."""
        # Renamed into its place: the server may read it at any moment.
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead_s:+d}\n")
        new.rename(self._file)


def library_or_skip() -> Path:
    """Find the library; without it skip, or fail under REQUIRE_FAKETIME, as in CI."""
    for folder in LIBRARIES:
        for found in Path(folder).glob("**/faketime/libfaketimeMT.so.1"):
            return found
    reason = "NO TEST LETS A CLOCK JUMP: Debian's package faketime is not installed"
    if os.environ.get("REQUIRE_FAKETIME"):
        pytest.fail(reason)
    pytest.skip(reason)
