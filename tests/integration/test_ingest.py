"""Events over HTTP: from a request to the answers, through failures of Kafka and of the ingest."""

import http.client
import json
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from projector.ports import is_listening
from tests import builders
from tests.integration import servers
from tests.integration.deployment import Deployment
from tests.integration.ingest_client import ALL, Ingest, beating, feeder, pulse
from tests.integration.ports import free_port
from tests.integration.servers import Server, eventually
from tests.integration.test_end_to_end import ANSWER, COMPANY, STARTED, TOKEN

TEAM = "team-token-of-namespace-three"
EMBEDDED = pytest.mark.parametrize("kafka", ["embedded"], indirect=True)


def team(token: str = TEAM) -> dict[str, object]:
    return feeder(token, types=["group.*", "agent.*"], partitionkeys=["3"], agents=[5])


def test_after_204_with_wait_the_answers_contain_the_events(deployment: Deployment) -> None:
    """The granted is there, and the revoked is gone, at once. No log has a token or a body."""
    deployment.start_all()
    ingest = Ingest(deployment, feeder(ALL), team())
    ingest.apply(*COMPANY, STARTED)
    assert deployment.look_up(TOKEN).body == ANSWER
    ingest.apply(builders.removed("agent", 5), token=TEAM)
    assert deployment.look_up(TOKEN).body["allowed_agents"] == []
    ingest.apply(builders.agent(5, 123213), builders.user(1, "blocked"))
    assert deployment.look_up(TOKEN).status == 403
    ingest.apply(builders.user(1), builders.removed("member", 0) | {"data": dict(MEMBERSHIP)})
    assert deployment.look_up(TOKEN).body["allowed_agents"] == []
    ingest.apply(builders.removed("job", 9))
    assert deployment.look_up(TOKEN).status == 401
    refused = ingest.post(builders.user(1), builders.agent(6, 7), token=TEAM)
    assert refused.status_code == 403
    assert [error["index"] for error in refused.json()["errors"]] == [0, 1]
    assert deployment.dead_letters(0) == []
    for secret in ALL, TEAM, "developer", "123213":
        assert secret not in ingest.process.log()


MEMBERSHIP = {"user_id": 1, "group_id": 3}


def test_a_client_with_nothing_but_http_keeps_a_source_fresh(deployment: Deployment) -> None:
    """Its heartbeats go through two processes of the ingest, which share nothing but Kafka."""
    deployment.env |= {"PROJECTOR_SOURCES": "acme"}
    assert deployment.command("topics").returncode == 0
    deployment.start("worker")
    deployment.start_api()
    ingests = Ingest(deployment), Ingest(deployment)
    eventually(lambda: "acme" in deployment.get("/health/fresh").body["reason"], "acme is missing")
    with beating(*ingests):
        deployment.until_fresh()
        ingests[0].apply(*COMPANY, STARTED)
        assert deployment.look_up(TOKEN).body == ANSWER
        assert deployment.look_up("no-such-token").status == 401
        first = ingests[0].post(pulse("acme", None)).json()["heartbeat"]
        assert ingests[1].post(pulse("acme", first["offset"])).status_code == 200


@EMBEDDED
def test_a_killed_ingest_loses_nothing_that_its_client_repeats(deployment: Deployment) -> None:
    """Events are whole states: those that Kafka has already change nothing."""
    deployment.start_all()
    ingest = Ingest(deployment)
    ingest.apply(*COMPANY)
    jobs = [builders.started(number, 123213, token=f"t{number}") for number in range(200)[1:]]
    halves = [[*jobs[:100], {"data": builders.user(1)}], jobs]
    assert ingest.post(*halves[0]).status_code == 400
    killed = threading.Thread(target=lambda: kill_soon(ingest))
    killed.start()
    answered = 0
    for job in jobs:
        try:
            answered += ingest.post(job).status_code == 204
        except httpx.TransportError:
            break
    killed.join()
    assert answered < len(jobs)
    ingest.process.start()
    ingest.until_ready()
    ingest.apply(*jobs)
    for number in range(200)[1::50]:
        assert deployment.agents(f"t{number}") == [5]
    assert deployment.dead_letters(0) == []


def kill_soon(ingest: Ingest) -> None:
    eventually(lambda: ingest.process.log().count('"event": "request"') > 5, "some requests")
    ingest.process.kill()


@EMBEDDED
def test_tokens_are_rotated_without_a_restart(deployment: Deployment) -> None:
    assert deployment.command("topics").returncode == 0
    ingest = Ingest(deployment, team())
    assert ingest.post(builders.group(3), token=TEAM).status_code == 204
    ingest.write(team(), feeder("next-token-of-the-team"))
    eventually(
        lambda: ingest.post(token="next-token-of-the-team").status_code == 204, "the next token"
    )
    assert ingest.post(builders.group(3), token=TEAM).status_code == 204
    ingest.write(feeder("next-token-of-the-team"))
    eventually(lambda: ingest.post(token=TEAM).status_code == 401, "the old token gone")
    ingest.file.write_text("- name: [half of a file")
    eventually(lambda: ingest.status("/health/ready") == 503, "the file unusable")
    assert ingest.post(token="next-token-of-the-team").status_code == 503
    ingest.write(feeder("next-token-of-the-team"))
    ingest.until_ready()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[tuple[Server, Deployment]]:
    """Yield an embedded broker of its own, and a deployment on it without Redis."""
    port = free_port()
    with servers.running(servers.embedded_kafka(tmp_path, port)) as broker:
        eventually(lambda: is_listening(port), "broker listening")
        address = f"127.0.0.1:{port}"
        with Deployment(address, free_port(), "own.", tmp_path) as deployment:
            assert deployment.command("topics").returncode == 0
            yield broker, deployment


def test_while_kafka_stands_still_it_is_503_and_afterwards_204(
    broker: tuple[Server, Deployment],
) -> None:
    kafka, deployment = broker
    ingest = Ingest(deployment)
    event = builders.group(3)
    assert ingest.post(event).status_code == 204
    waiting = ingest.post(event, prefer="wait=1")
    assert waiting.status_code == 202, "there is no Redis"
    kafka.signal(signal.SIGSTOP)
    try:
        answer = ingest.post(event)
    finally:
        kafka.signal(signal.SIGCONT)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    eventually(lambda: ingest.post(event).status_code == 204, "Kafka taken again")
    ingest.until_ready()
    with ThreadPoolExecutor() as pool:
        waiting_on = pool.submit(ingest.post, event, prefer="wait=30")
        in_flight = "projector_ingest_requests_in_flight 1.0"
        eventually(lambda: in_flight in httpx.get(f"{ingest.url}/metrics").text, "a wait")
        ingest.process.signal(signal.SIGTERM)
        assert waiting_on.result().status_code == 202
    assert "ended" in waiting_on.result().json()["message"]


def test_the_wire_is_spoken_as_http_wants_it(broker: tuple[Server, Deployment]) -> None:
    _, deployment = broker
    ingest = Ingest(deployment)
    event = json.dumps(builders.group(3))
    padded = event + " " * 300_000
    structured = {"content-type": "application/cloudevents+json"}
    connection = http.client.HTTPConnection("127.0.0.1", ingest.port, timeout=20)

    def post(body: Any, token: str = ALL, **headers: str) -> int:
        given = {**structured, "authorization": f"Bearer {token}", **headers}
        connection.request("POST", "/events", body, given)
        answer = connection.getresponse()
        answer.read()
        return answer.status

    assert post(event) == 204
    # A body in chunks, larger than the head of a request may be.
    assert post(padded[at:][:50_000].encode() for at in range(0, len(padded), 50_000)) == 204
    # On the same connection: the body of a refused request is not taken for the next request.
    assert post(padded, token="unknown") == 401
    assert post(event) == 204
    connection.close()

    head = (
        "POST /events HTTP/1.1\r\nhost: t\r\ncontent-type: application/cloudevents+json\r\n"
        f"content-length: {len(event)}\r\nexpect: 100-continue\r\n"
    )
    assert b" 401 " in exchange(ingest, f"{head}\r\n")
    known = f"{head}authorization: Bearer {ALL}\r\nconnection: close\r\n\r\n"
    assert exchange(ingest, known, event).startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204")
    large = head.replace(str(len(event)), str(2**21)) + f"authorization: Bearer {ALL}\r\n\r\n"
    assert b"HTTP/1.1 413" in exchange(ingest, large)
    flood = "GET /health/live HTTP/1.1\r\nhost: t\r\n" + "x: y\r\n" * 20_000
    assert b" 400 " in exchange(ingest, flood)
    assert ingest.status("/health/live") == 200


def exchange(ingest: Ingest, head: str, body: str = "") -> bytes:
    """Send the head, then the body once there is an answer; return all until the end."""
    with socket.create_connection(("127.0.0.1", ingest.port), timeout=20) as connection:
        connection.sendall(head.encode())
        answer = connection.recv(65536)
        if body:
            connection.sendall(body.encode())
        while more := connection.recv(65536):
            answer += more
        return answer
