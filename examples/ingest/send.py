"""Send the events on standard input, a JSON array, to `projector ingest`.

INGEST_URL=http://127.0.0.1:8002 INGEST_TOKEN=... python send.py < events.json
"""

import json
import os
import sys
import time

import httpx

TRIES = 10
HEADERS = {
    "Authorization": f"Bearer {os.environ['INGEST_TOKEN']}",
    "Content-Type": "application/cloudevents-batch+json",
    "Prefer": "wait=5",  # answer once lookups see the events
}


def send(client: httpx.Client, events: list[dict]) -> httpx.Response:
    """Send until taken or refused; a `sequence` keeps late repeats harmless."""
    for _ in range(TRIES):
        wait = 1.0
        try:
            answer = client.post("/events", content=json.dumps(events))
            if answer.status_code < 500 and answer.status_code not in (408, 429):
                return answer
            wait = float(answer.headers.get("Retry-After", wait))
            reason = answer.text
        except httpx.TransportError as error:
            reason = str(error)
        time.sleep(wait)
    sys.exit(f"not sent after {TRIES} tries: {reason}")


with httpx.Client(base_url=os.environ["INGEST_URL"], headers=HEADERS, timeout=30) as client:
    answer = send(client, json.load(sys.stdin))
found = answer.json() if answer.content else {}
for kind in "warnings", "errors":
    for event in found.get(kind, []):
        print(f"event {event['index']}: {event['reason']}", file=sys.stderr)
if answer.is_error:
    sys.exit(f"{answer.status_code}: {found['message']}")
