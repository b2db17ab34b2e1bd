"""TCP ports."""

import socket

import pytest

from projector.ports import LOOPBACK, free_port, is_listening, port_obstacle


def test_a_port_is_free_until_a_server_listens_on_it() -> None:
    port = free_port()
    assert port_obstacle(port) is None
    assert not is_listening(port)
    with socket.create_server((LOOPBACK, port)):
        assert port_obstacle(port) == f"port {port} is in use"
        assert is_listening(port)


def test_an_address_of_another_machine_is_an_obstacle() -> None:
    assert "on port 80 of 192.0.2.1" in (port_obstacle(80, "192.0.2.1") or "")


@pytest.mark.parametrize("port", [-1, 65536, 99999])
def test_a_port_that_no_machine_has_is_an_obstacle(port: int) -> None:
    """The resolver takes 99999 for 34463, and a server would listen there."""
    assert port_obstacle(port) == f"port {port} does not exist: ports are 1 to 65535"
