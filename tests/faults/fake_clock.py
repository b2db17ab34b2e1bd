"""Clocks of servers that jump or are wrong, by Debian's libfaketime."""

from pathlib import Path
from typing import Final

from tests.absence import skip_test

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


def clock_apart(seconds: int) -> dict[str, str]:
    """Return the environment of a process whose wall clock is always so many seconds ahead."""
    return {
        "LD_PRELOAD": str(library_or_skip()),
        "FAKETIME": f"{seconds:+d}",
        "DONT_FAKE_MONOTONIC": "1",
        # Or a Java process waits for ever for the first of its threads.
        "FAKETIME_FORCE_MONOTONIC_FIX": "0",
    }


def library_or_skip() -> Path:
    """Find the library; skip the test without it."""
    found = [f for at in LIBRARIES for f in Path(at).glob("**/faketime/libfaketimeMT.so.1")]
    if not found:
        skip_test("NO TEST LETS A CLOCK JUMP: Debian's package faketime is not installed")
    return found[0]
