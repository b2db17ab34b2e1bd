"""The limit of a fan-out: the bytes of every view, SET in pipelines by the product's client.

Reads them first. Keeps its copies, so that the next run overwrites them as a fan-out does. Prints
the seconds and the CPU seconds of the SETs.

    python -m benchmarks.copy_views FROM_PORT TO_PORT
"""

import asyncio
import sys
import time
from typing import Any, Final

import msgspec
from redis.asyncio import Redis

from benchmarks.company import FAR_MS
from projector.store import schema

PER_CALL: Final = 500


async def main(source: str, target: str) -> None:
    """Measure once."""
    async with Redis(port=int(source)) as product, Redis(port=int(target)) as redis:
        keys = [key async for key in product.scan_iter((schema.TOKENS + "*"), count=1000)]
        records: list[tuple[Any, Any]] = []
        for start in range(0, len(keys), PER_CALL):
            chunk = keys[start : start + PER_CALL]
            records += zip(chunk, await product.mget(chunk), strict=True)
        await redis.ping()
        began, cpu = time.monotonic(), time.process_time()
        for start in range(0, len(records), PER_CALL):
            async with redis.pipeline(transaction=False) as pipe:
                for key, record in records[start : start + PER_CALL]:
                    pipe.set(key, record, pxat=FAR_MS)
                await pipe.execute()
        took = time.monotonic() - began, time.process_time() - cpu
    sys.stdout.write(f"{msgspec.json.encode(took).decode()}\n")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
