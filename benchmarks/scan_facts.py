"""The limit of a claim: every fact of partition 0 read by HSCAN, with the product's client.

Prints the seconds and the CPU seconds.

    python -m benchmarks.scan_facts redis://127.0.0.1:6379/0
"""

import asyncio
import sys
import time

import msgspec
from redis.asyncio import Redis

from projector.store import schema
from projector.store.checkpoint_writes import FIELDS_PER_CALL


async def main(url: str) -> None:
    """Measure once."""
    async with Redis.from_url(url) as redis:
        await redis.ping()
        began, cpu, found = time.monotonic(), time.process_time(), 0
        async for _ in redis.hscan_iter(schema.facts_key(0), count=FIELDS_PER_CALL):
            found += 1
        took = time.monotonic() - began, time.process_time() - cpu
    if not found:
        raise RuntimeError("there are no facts")
    sys.stdout.write(f"{msgspec.json.encode(took).decode()}\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
