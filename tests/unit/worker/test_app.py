"""The wiring's own checks; the rest of the worker is tested on real brokers."""

import socket

import pytest

from projector.config.settings import Settings
from projector.errors import WebPortError
from projector.worker.app import run_worker


async def test_a_web_address_of_another_machine_is_refused() -> None:
    with pytest.raises(WebPortError, match=r"of 192\.0\.2\.1 .*PROJECTOR_WORKER_WEB_HOST"):
        await run_worker(Settings(worker_web_host="192.0.2.1"))


async def test_a_web_port_in_use_is_named_before_anything_else() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(WebPortError, match=rf"port {port} is.*PROJECTOR_WORKER_WEB_PORT"):
            await run_worker(Settings(worker_web_port=port))
