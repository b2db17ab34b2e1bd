"""The limit of the ingest: uvicorn with an application that hands bodies to one aiokafka producer.

It answers 204 once Kafka has acknowledged the body, or each event of a batch, in all copies. It
has neither tokens nor checks, and none of what uvicorn does besides.

    python -m benchmarks.bare_ingest KAFKA TOPIC PORT
"""

import sys
from contextlib import suppress
from typing import Any, Final

import msgspec
import uvicorn
from aiokafka import AIOKafkaProducer

from benchmarks.producing import BATCH_BYTES
from projector.ingest.http_events import BATCH_TYPE

START: Final = {"type": "http.response.start", "status": 204, "headers": []}
BODY: Final = {"type": "http.response.body", "body": b""}
BATCH: Final = (b"content-type", BATCH_TYPE.encode())
EVENTS: Final = msgspec.json.Decoder(list[msgspec.Raw])


class BareIngest:
    """An ASGI application with its producer."""

    def __init__(self, kafka: str, topic: str) -> None:
        self._kafka = kafka
        self._topic = topic
        self._producer: Any = None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Start the producer, or serve a request."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        body = await _body(receive)
        is_batch = BATCH in scope["headers"]
        await (await (self._send_batch(body) if is_batch else self._send(body)))
        await send(START)
        await send(BODY)

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        async with AIOKafkaProducer(
            bootstrap_servers=self._kafka, acks="all", linger_ms=0, max_batch_size=BATCH_BYTES
        ) as self._producer:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _send(self, body: bytes) -> Any:
        return await self._producer.send(self._topic, body, partition=0)

    async def _send_batch(self, body: bytes) -> Any:
        """Send the events as one batch, which is the fastest that aiokafka has."""
        batch = self._producer.create_batch()
        for event in EVENTS.decode(body):
            if batch.append(key=None, value=bytes(event), timestamp=None) is None:
                raise ValueError(f"a request has at most {BATCH_BYTES} bytes here")
        return await self._producer.send_batch(batch, self._topic, partition=0)


async def _body(receive: Any) -> bytes:
    message = await receive()
    body: bytes = message["body"]
    while message["more_body"]:
        message = await receive()
        body += message["body"]
    return body


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        uvicorn.run(
            BareIngest(sys.argv[1], sys.argv[2]), port=int(sys.argv[3]), http="httptools",
            lifespan="on", ws="none", interface="asgi3", access_log=False, log_config=None,
            server_header=False, date_header=False, proxy_headers=False,
        )  # fmt: skip
