"""Starts `projector dev`, feeds the example company and looks three jobs up; then stays up."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

PROJECTOR = [sys.executable, "-m", "projector"]
EVENTS = Path(__file__).parent / "events.ndjson"
LOOKUPS = {
    "job 9: an owner deploys with the agents of the job's own project": "example-token-9",
    "job 10: a reporter may not use them": "example-token-10",
    "job 11: has finished, and its token with it": "example-token-11",
}


def lookup(api: str, token: str) -> tuple[int, bytes]:
    headers = {"Job-Token": token, "Cache-Control": "max-age=1"}
    request = urllib.request.Request(f"{api}/api/v4/job/allowed_agents", headers=headers)
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read()


def settled(api: str, token: str) -> tuple[int, bytes]:
    """The answer; a 503 asks to try again."""
    for _ in range(50):
        status, body = lookup(api, token)
        if status != 503:
            break
        time.sleep(0.2)
    return status, body


def show(ready: dict[str, str]) -> None:
    servers = {"PROJECTOR_KAFKA": ready["kafka"], "PROJECTOR_REDIS_URL": ready["redis"]}
    print(f"\n$ projector feed examples/{EVENTS.name}", flush=True)
    subprocess.run([*PROJECTOR, "feed", str(EVENTS)], env=os.environ | servers, check=True)
    time.sleep(1.5)  # with max-age=1 every answer is then one that knows all of these events
    for title, token in LOOKUPS.items():
        status, body = settled(ready["api"], token)
        print(f"\n{title}")
        print(f"$ curl -H 'Job-Token: {token}' {ready['api']}/api/v4/job/allowed_agents")
        print(f"{status} {json.dumps(json.loads(body), indent=2)}", flush=True)
    print("\nIt stays up until Ctrl-C. For the other commands, in another terminal:")
    path = {"PATH": f"{Path(sys.executable).parent}:$PATH"}
    for name, value in (path | servers).items():
        print(f"  export {name}={value}", flush=True)


def main() -> int:
    dev = subprocess.Popen([*PROJECTOR, "dev", *sys.argv[1:]], stdout=subprocess.PIPE, text=True)
    assert dev.stdout is not None
    try:
        line = dev.stdout.readline()
        print(line, end="", flush=True)
        if line:
            show(dict(pair.split("=", 1) for pair in line.split()[1:]))
        return dev.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        dev.terminate()
        dev.wait()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
