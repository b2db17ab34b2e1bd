"""The limit of lookups: uvicorn as `projector api` runs it, with an application that does nothing.

python -m benchmarks.hello PORT
"""

import sys
from typing import Any, Final

import uvicorn

START: Final = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain"), (b"content-length", b"5")],
}
BODY: Final = {"type": "http.response.body", "body": b"hello"}


async def app(scope: dict[str, Any], _receive: Any, send: Any) -> None:
    """Say hello."""
    if scope["type"] == "http":
        await send(START)
        await send(BODY)


if __name__ == "__main__":
    uvicorn.run(
        "benchmarks.hello:app", port=int(sys.argv[1]), http="httptools", lifespan="off",
        access_log=False, log_config=None, server_header=False,
    )  # fmt: skip
