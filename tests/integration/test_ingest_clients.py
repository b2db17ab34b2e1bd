"""The clients of `projector ingest` in examples/ingest, each run as a team would run it.

One deployment serves all: what a client sends is answered, its mistakes are named, and it tries
again while the ingest cannot take events.
"""

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

from tests import builders
from tests.absence import skip_test
from tests.integration.ingest import TOKEN, Ingest
from tests.integration.servers import REPOSITORY, eventually
from tests.integration.test_producers import Company, agents_of, clients

FOLDER = REPOSITORY / "examples" / "ingest"
# Each client's command, and the name of its program in the cache of `scripts/producers`.
CLIENTS = {
    "curl": (None, [str(FOLDER / "send.sh")]),
    "python": (None, [sys.executable, str(FOLDER / "send.py")]),
    "go": ("ingest-go", ["{clients}/ingest-go"]),
    "typescript": ("ingest-typescript", ["node", "{clients}/ingest-typescript/send.js"]),
}


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    """Return the name of a client; skip without its program."""
    name: str = request.param
    program, _ = CLIENTS[name]
    if name == "curl" and shutil.which(name) is None:
        skip_test("NO TEST RUNS THE CLIENT curl: it is not installed")
    if program and not (clients() / f"{program}.complete").exists():
        skip_test(f"NO TEST RUNS THE CLIENT {name}: no {program}; run `make producers`")
    return name


def start(ingest: Ingest, client: str, events: list[dict[str, Any]]) -> "subprocess.Popen[str]":
    """Start a client with these events on its standard input."""
    _, template = CLIENTS[client]
    process = subprocess.Popen(
        [part.format(clients=clients()) for part in template],
        env=os.environ | {"INGEST_URL": ingest.url, "INGEST_TOKEN": TOKEN},
        text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(json.dumps(events))
    process.stdin.flush()
    process.stdin.close()
    process.stdin = None
    return process


def send(ingest: Ingest, client: str, events: list[dict[str, Any]]) -> tuple[int, str]:
    """Run a client to its end; return its exit code and its output."""
    process = start(ingest, client, events)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def company_of(client: str) -> Company:
    return Company(3000 + 10 * list(CLIENTS).index(client))


def test_lookups_see_what_a_client_has_sent(ingest: Ingest, client: str) -> None:
    company = company_of(client)
    assert send(ingest, client, company.events()) == (0, "")
    # The clients ask to wait for the views, so no lookup from here on may see the old answer.
    assert agents_of(ingest.product, company) == company.agents
    assert send(ingest, client, company.revocations()) == (0, "")
    assert agents_of(ingest.product, company) == set()
    assert send(ingest, client, company.end()) == (0, "")
    assert ingest.product.look_up(company.token).status == 401


def test_a_client_names_each_bad_event_and_the_reason(ingest: Ingest, client: str) -> None:
    good = builders.group(4000, root="4000")
    bad = builders.event("group.set", {"id": 4001, "path": "a"}, root="4000")
    code, output = send(ingest, client, [good, bad])
    assert code != 0
    assert "`data.parent_id` is missing" in output
    assert '"index":1' in output if client == "curl" else "event 1: " in output
    assert TOKEN not in output


def test_a_client_tries_again_until_the_ingest_takes_events(ingest: Ingest, client: str) -> None:
    ingest.break_tokens()
    before = ingest.answered(503)
    process = start(ingest, client, [builders.group(5000, root="5000")])
    eventually(lambda: ingest.answered(503) > before, "the client refused")
    ingest.accept_token()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
