"""TCP ports of this machine."""

import errno
import socket
from typing import Final

LOOPBACK: Final = "127.0.0.1"
MAX_PORT: Final = 65535


def free_port(host: str = LOOPBACK) -> int:
    """Return a port that is free at present."""
    family, kind, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as probe:
        probe.bind(address)
        port: int = probe.getsockname()[1]
        return port


def is_listening(port: int) -> bool:
    """Whether a server on this machine accepts connections on the port."""
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


def port_obstacle(port: int, host: str = LOOPBACK) -> str | None:
    """Return why a server cannot listen on the port, or None."""
    # The system's resolver would take 99999 for 34463, its lowest 16 bits.
    if not 0 <= port <= MAX_PORT:
        return f"port {port} does not exist: ports are 1 to {MAX_PORT}"
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return f"port {port} is in use"
        return f"no server can listen on port {port} of {host} ({error.strerror})"
    return None
