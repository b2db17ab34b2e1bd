"""The limit of lookups: uvicorn with an application that does nothing.

It has uvloop and httptools as `projector api` has, and none of what uvicorn does besides: no access
log, no server or date header, no trust in a proxy's headers.

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
        ws="none", interface="asgi3", access_log=False, log_config=None, server_header=False,
        date_header=False, proxy_headers=False,
    )  # fmt: skip
