"""Starts `projector dev`, feeds two made-up companies, looks jobs up, changes one; stays up."""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROJECTOR = [sys.executable, "-m", "projector"]
EVENTS = Path(__file__).parent / "events.ndjson"
PATH = "/api/v4/job/allowed_agents"
PROMOTION = {
    "specversion": "1.0", "id": "example-77", "source": "/example",
    "type": "member.set", "partitionkey": "3",
    "data": {
        "user_id": 4, "project_id": 123213, "role": "developer", "via": "direct",
        "expires_at": None,
    },
}  # fmt: skip
CHANGE_S = 10.0
STOP_S = 20.0  # `projector dev` gives its processes 16 seconds to end
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Answer = tuple[int, dict[str, Any]]


class DemoError(Exception):
    """The demo cannot go on; the message is the reason."""


# the steps


def show(ready: dict[str, str]) -> None:
    api, kafka = ready["api"], ready["kafka"]
    settings = {"PROJECTOR_KAFKA": kafka, "PROJECTOR_REDIS_URL": ready["redis"]}
    print(f"\n$ projector feed examples/{EVENTS.name}", flush=True)
    feed(os.environ | settings)
    time.sleep(1)  # an answer with max-age=1 then knows all of these events
    print("\nWhich agents may these jobs use?")
    step(1, "job 9, of an owner", settled(api, "example-token-9"))
    reporter = settled(api, "example-token-10")
    step(2, "job 10, of a reporter", reporter)
    step(3, "job 11, which has finished", settled(api, "example-token-11"))
    print(f"The event {PROMOTION['type']} makes the reporter a developer:", flush=True)
    developer, took = asyncio.run(change(api, kafka, "example-token-10", reporter))
    step(4, "job 10, now of a developer", developer)
    print(f"The answer changed {took * 1000:.0f} ms after Kafka had acknowledged the event.")
    print("\nIn another terminal, a whole answer:")
    print(f"  curl -H 'Job-Token: example-token-9' {api}{PATH}")
    print("and the settings for `projector status` and the other commands:")
    for name, value in ({"PATH": f"{Path(sys.executable).parent}:$PATH"} | settings).items():
        print(f"  export {name}={value}")
    print("\nIt runs until Ctrl-C.", flush=True)


def feed(env: Mapping[str, str]) -> None:
    command = [*PROJECTOR, "feed", str(EVENTS)]
    fed = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if fed.returncode:
        raise DemoError(fed.stderr.strip())
    print(fed.stdout, end="", flush=True)


def step(number: int, job: str, answer: Answer) -> None:
    status, body = answer
    said = body.get("message", status)
    if status == 200:
        agents = [str(agent["id"]) for agent in body["allowed_agents"]]
        said = f"200, agents {' and '.join(agents)}" if agents else "200, no agent"
    print(f"  {number}. {job:<28}{said}", flush=True)


def lookup(api: str, token: str, max_age: int) -> Answer:
    headers = {"Job-Token": token, "Cache-Control": f"max-age={max_age}"}
    place = api.removeprefix("http://")
    with contextlib.closing(http.client.HTTPConnection(place, timeout=10)) as connection:
        connection.request("GET", PATH, headers=headers)
        response = connection.getresponse()
        return response.status, json.load(response)


def settled(api: str, token: str) -> Answer:
    """Return the answer; a 503 asks to try again."""
    for _ in range(50):
        status, body = lookup(api, token, max_age=1)
        if status != 503:
            break
        time.sleep(0.2)
    return status, body


async def change(api: str, kafka: str, token: str, before: Answer) -> tuple[Answer, float]:
    """Promote a user; return the new answer and the seconds since Kafka's acknowledgement."""
    from aiokafka import AIOKafkaProducer  # noqa: PLC0415  slow, and Ctrl-C must find main()

    async with AIOKafkaProducer(bootstrap_servers=kafka, acks="all") as producer:
        key, value = PROMOTION["partitionkey"], json.dumps(PROMOTION)
        await producer.send_and_wait("membership", key=key.encode(), value=value.encode())
        acknowledged = time.monotonic()
        while time.monotonic() < acknowledged + CHANGE_S:
            answer = await asyncio.to_thread(lookup, api, token, max_age=10)
            if answer[0] == 200 and answer != before:
                return answer, time.monotonic() - acknowledged
            await asyncio.sleep(0.002)
    raise DemoError(f"after {CHANGE_S:.0f} seconds the event has not changed the answer")


# the processes


def drop_settings() -> None:
    """Leave out the caller's settings: example events must not reach a Kafka that is in use."""
    names = sorted(name for name in os.environ if name.upper().startswith("PROJECTOR_"))
    for name in names:
        del os.environ[name]
    if names:
        print(f"ignored, because this brings its own servers: {', '.join(names)}", flush=True)


def is_taken(port: str) -> bool:
    if not (port.isdecimal() and 0 < int(port) < 65536):
        return False
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(port))) == 0


def run(port: str) -> int:
    # In a session of its own: Ctrl-C reaches this process alone, which then ends the others.
    dev = subprocess.Popen(
        [*PROJECTOR, "dev", "--port", port],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert dev.stdout is not None
    try:
        line = dev.stdout.readline()
        print(line, end="", flush=True)
        if line:
            show(dict(pair.split("=", 1) for pair in line.split()[1:]))
        return dev.wait()
    finally:
        for number in ENDINGS:
            signal.signal(number, signal.SIG_IGN)
        stop(dev)


def stop(dev: subprocess.Popen[str]) -> None:
    dev.terminate()
    try:
        dev.wait(STOP_S)
    except subprocess.TimeoutExpired:
        dev.kill()


def main() -> int:
    port = sys.argv[1] if len(sys.argv) > 1 else "8000"
    if is_taken(port):
        return fail(f"port {port} is in use; `make run PORT=0` takes a free one")
    drop_settings()
    try:
        return run(port)
    except KeyboardInterrupt:
        return 0
    except (DemoError, OSError, http.client.HTTPException) as error:
        return fail(f"the demo cannot go on: {error}")


def fail(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 1


if __name__ == "__main__":
    for number in ENDINGS:
        signal.signal(number, signal.default_int_handler)
    sys.exit(main())
