"""The limit of a fan-out: the bytes of every view, SET in pipelines.

By redis-py's synchronous client, which packs commands in C: it takes three quarters of the time of
the asynchronous one. Reads them first. Keeps its copies, so that the next run overwrites them as a
fan-out does. Prints the seconds and the CPU seconds of the SETs.

    python -m benchmarks.copy_views FROM_PORT TO_PORT
"""

import sys
import time
from typing import Any, Final

import msgspec
from redis import Redis

from benchmarks.company import FAR_MS
from projector.store import schema

PER_CALL: Final = 500


def main(source: str, target: str) -> None:
    """Measure once."""
    with Redis(port=int(source)) as product, Redis(port=int(target)) as redis:
        records = read(product)
        redis.ping()
        began, cpu = time.monotonic(), time.process_time()
        write(redis, records)
        took = time.monotonic() - began, time.process_time() - cpu
    sys.stdout.write(f"{msgspec.json.encode(took).decode()}\n")


def read(product: Any) -> list[tuple[Any, Any]]:
    """Return the key and the record of every view."""
    keys = list(product.scan_iter(schema.TOKENS + "*", count=1000))
    records: list[tuple[Any, Any]] = []
    for start in range(0, len(keys), PER_CALL):
        chunk = keys[start : start + PER_CALL]
        records += zip(chunk, product.mget(chunk), strict=True)
    return records


def write(redis: Any, records: list[tuple[Any, Any]]) -> None:
    """SET all records."""
    for start in range(0, len(records), PER_CALL):
        with redis.pipeline(transaction=False) as pipe:
            for key, record in records[start : start + PER_CALL]:
                pipe.set(key, record, pxat=FAR_MS)
            pipe.execute()


if __name__ == "__main__":
    main(*sys.argv[1:])
