"""The example of `projector dev --example`: two made-up companies, lookups, and one change."""

import asyncio
import contextlib
import http.client
import io
import json
import os
import shlex
import sys
import time
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from projector.clients import redis_client
from projector.config.env import variable_name
from projector.config.settings import Settings
from projector.errors import DevError
from projector.feed import applied, event_file, producer

EVENTS: Final = files("projector") / "dev" / "events.ndjson"
PATH: Final = "/api/v4/job/allowed_agents"
PROMOTION: Final = {
    "specversion": "1.0", "id": "example-77", "source": "/example",
    "type": "member.set", "partitionkey": "3",
    "data": {
        "user_id": 4, "project_id": 123213, "role": "developer", "via": "direct",
        "expires_at": None,
    },
}  # fmt: skip
# Seconds until the answers must contain what Kafka has acknowledged.
CHANGE_S: Final = 20.0
PAUSE_S: Final = 0.002
Answer = tuple[int, dict[str, Any]]


def drop_settings() -> list[str]:
    """Remove all settings from the environment; return their names.

    Example events, with tokens that everybody knows, must not reach a Kafka that is in use.
    """
    names = sorted(name for name in os.environ if name.upper().startswith("PROJECTOR_"))
    for name in names:
        del os.environ[name]
    return names


async def show_example(settings: Settings, api: str) -> None:
    """Feed the companies, look jobs up, and show that an event changes an answer."""
    count = await _feed(settings, EVENTS.read_bytes())
    _print(f"\n{count} events of two made-up companies sent. Which agents may these jobs use?")
    await _step(api, 1, "job 9, of an owner", "example-token-9")
    reporter = await _step(api, 2, "job 10, of a reporter", "example-token-10")
    await _step(api, 3, "job 11, which has finished", "example-token-11")
    _print(f"The event {PROMOTION['type']} makes the reporter a developer:")
    took = await _change(settings, api, "example-token-10", reporter)
    await _step(api, 4, "job 10, now of a developer", "example-token-10")
    _print(f"The answer changed {took * 1000:.0f} ms after Kafka had acknowledged the event.")
    _print_what_next(settings, api)


def _print_what_next(settings: Settings, api: str) -> None:
    _print("\nIn another terminal, a whole answer:")
    _print(f"  curl -H 'Job-Token: example-token-9' {api}{PATH}")
    _print("and the settings for `projector status` and the other commands:")
    for name, value in {
        "PATH": f"{shlex.quote(str(Path(sys.executable).parent))}:$PATH",
        variable_name("kafka"): settings.kafka,
        variable_name("redis_url"): settings.redis_url,
    }.items():
        _print(f"  export {name}={value}")
    _print("\nIt runs until Ctrl-C.")


async def _feed(settings: Settings, lines: bytes) -> int:
    """Send the events; return their number once the answers contain them."""
    positions = await producer.send_events(io.BytesIO(lines), settings, lambda: None)
    redis = redis_client.create_redis(settings)
    try:
        if not await applied.wait_until_applied(redis, positions, {}, CHANGE_S):
            raise DevError(f"after {CHANGE_S:.0f} seconds the answers lack the example's events")
    finally:
        await redis.aclose()
    return lines.count(b"\n")


async def _change(settings: Settings, api: str, token: str, before: Answer) -> float:
    """Promote a user; return the seconds from Kafka's acknowledgement to another answer."""
    line = json.dumps(PROMOTION).encode()
    event = event_file.parse_line(line)
    async with producer.sending(settings) as batch:
        for partition in producer.target_partitions(event, settings.partitions):
            await batch.send(producer.Message(event.kind.topic, partition, event.root, line))
        await batch.acknowledged()
        acknowledged = time.monotonic()
        while time.monotonic() < acknowledged + CHANGE_S:
            answer = await asyncio.to_thread(_look_up, api, token)
            if answer[0] == 200 and answer != before:
                return time.monotonic() - acknowledged
            await asyncio.sleep(PAUSE_S)
    raise DevError(f"after {CHANGE_S:.0f} seconds the event has not changed the answer")


async def _step(api: str, number: int, job: str, token: str) -> Answer:
    """Look a job up and print the answer in a line."""
    status, body = answer = await _settled(api, token)
    found = body.get("message", status)
    if status == 200:
        agents = [str(agent["id"]) for agent in body["allowed_agents"]]
        found = f"200, agents {' and '.join(agents)}" if agents else "200, no agent"
    _print(f"  {number}. {job:<28}{found}")
    return answer


async def _settled(api: str, token: str) -> Answer:
    """Return the answer; a 503 asks to try again."""
    for _ in range(50):
        answer = await asyncio.to_thread(_look_up, api, token)
        if answer[0] != 503:
            break
        await asyncio.sleep(0.2)
    return answer


def _look_up(api: str, token: str) -> Answer:
    place = api.removeprefix("http://")
    try:
        with contextlib.closing(http.client.HTTPConnection(place, timeout=10)) as connection:
            connection.request("GET", PATH, headers={"Job-Token": token})
            response = connection.getresponse()
            return response.status, json.load(response)
    except (OSError, http.client.HTTPException) as error:
        raise DevError(f"the API of the example does not answer: {error}") from error


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201
