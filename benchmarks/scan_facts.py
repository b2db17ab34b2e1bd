"""The limit of a claim: every fact of partition 0 read by HSCAN.

Each call takes the `COUNT` that was the fastest of 1,000, 4,000 and 16,000.

Prints the seconds and the CPU seconds.

    python -m benchmarks.scan_facts redis://127.0.0.1:6379/0
"""

import sys
import time
from typing import Any, Final

import msgspec
from redis import Redis

from projector.store import schema

PER_CALL: Final = 4000


def main(url: str) -> None:
    """Measure once."""
    with Redis.from_url(url) as redis:
        redis.ping()
        began, cpu = time.monotonic(), time.process_time()
        found = scan(redis, schema.facts_key(0))
        took = time.monotonic() - began, time.process_time() - cpu
    if not found:
        raise RuntimeError("there are no facts")
    sys.stdout.write(f"{msgspec.json.encode(took).decode()}\n")


def scan(redis: Any, key: str) -> int:
    """Read all fields; return how many there were."""
    cursor, found = redis.hscan(key, 0, count=PER_CALL)
    total = len(found)
    while cursor:
        cursor, found = redis.hscan(key, cursor, count=PER_CALL)
        total += len(found)
    return total


if __name__ == "__main__":
    main(sys.argv[1])
