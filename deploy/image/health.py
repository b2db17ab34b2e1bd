"""Check of a container's health: every server in it answers at `/health/live`.

The commands listen on ports of their own choice, and some on none. So this asks where processes of
the container listen. A command that serves nothing, such as `projector topics`, is healthy.
Ports in the arguments must answer too: a server that fails at each start never listens.
"""

import http.client
import os
import sys
from pathlib import Path

TIMEOUT_S = 4.0
LISTENS = "0A"
TABLES = ("/proc/net/tcp", "/proc/net/tcp6")


def sockets() -> set[str]:
    """Return the inodes of the sockets that processes of this user hold."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            found.add(os.readlink(link).removeprefix("socket:[").removesuffix("]"))
        except OSError:
            continue
    return found


def ports() -> set[int]:
    """Return the ports on which these processes listen."""
    held, found = sockets(), set()
    for table in TABLES:
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:  # without IPv6
            continue
        for fields in map(str.split, lines):
            if fields[3] == LISTENS and fields[9] in held:
                found.add(int(fields[1].rpartition(":")[2], 16))
    return found


def is_live(port: int) -> bool:
    """Whether the server on this port answers in time."""
    api = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        api.request("GET", "/health/live")
        return api.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        api.close()


if __name__ == "__main__":
    expected = set(map(int, sys.argv[1:]))
    silent = [port for port in sorted(ports() | expected) if not is_live(port)]
    if silent:
        print(f"no answer at /health/live of port {', '.join(map(str, silent))}")  # noqa: T201
    sys.exit(bool(silent))
