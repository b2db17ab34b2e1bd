"""Requests to the ingest: statuses, headers and bodies of its answers."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import fakeredis
import httpx
import pytest
from aiokafka.errors import KafkaConnectionError, MessageSizeTooLargeError

from projector.events.model import MAX_EVENT_BYTES, Topic
from projector.ingest import admission, body, metrics
from projector.ingest.admission import Admission
from projector.ingest.checks import Checks
from projector.ingest.http_events import (
    BATCH_TYPE,
    JSON_TYPE,
    MAX_BATCH_BYTES,
    STRUCTURED_TYPE,
)
from projector.ingest.intake import CHECKED_AT_ONCE_BYTES
from projector.ingest.preferences import Preferences, parse_preferences
from projector.ingest.refusals import RefusedRequestError
from projector.kafka import topics
from projector.store import schema
from tests.builders import agent, group, removed, user
from tests.unit.ingest.ingest_world import FEEDERS, IAM, IngestWorld, feeder, reasons
from tests.unit.ingest.test_checks import PULSE

ACME = group(3, source="/acme/iam")


async def test_an_acknowledged_event_is_204(world: IngestWorld) -> None:
    answer = await world.post(ACME, token=IAM)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["cache-control"] == "no-store"
    (sent,) = world.sends.sent
    assert json.loads(sent.value or b"") == ACME


async def test_binary_mode_is_taken(world: IngestWorld) -> None:
    attributes = {f"ce_{name}": ACME[name] for name in ACME if name != "data"}
    answer = await world.post(ACME["data"], media_type=JSON_TYPE, **attributes)
    assert answer.status_code == 204
    assert ("ce_type", b"group.set") in world.sends.sent[0].headers


async def test_a_batch_is_taken_as_a_whole_or_not_at_all(world: IngestWorld) -> None:
    refused = await world.post_batch(ACME, {}, agent(0, 1))
    assert refused.status_code == 400
    assert reasons(refused).keys() == {1, 2}
    forbidden = await world.post_batch(ACME, agent(5, 1), user(1), token=IAM)
    assert forbidden.status_code == 403
    assert reasons(forbidden) == {
        1: "this token may not send agent.set", 2: "this token may not send user.set"
    }  # fmt: skip
    assert world.sends.sent == []
    assert (await world.post_batch(ACME, agent(5, 1))).status_code == 204
    assert (await world.post_batch()).status_code == 204
    assert len(world.sends.sent) == 2


async def test_parts_that_are_not_applied_are_named(world: IngestWorld) -> None:
    doubtful = removed("group", 3, time="no time")
    answer = await world.post_batch(ACME, doubtful)
    assert answer.status_code == 200
    assert [warning["index"] for warning in answer.json()["warnings"]] == [1]
    strict = await world.post_batch(ACME, doubtful, prefer="handling=strict")
    assert strict.status_code == 400
    assert len(world.sends.sent) == 2


async def test_a_heartbeat_is_answered_by_its_offset(world: IngestWorld) -> None:
    answer = await world.post_batch(ACME, PULSE)
    assert answer.json() == {"heartbeat": {"source": "acme", "offset": 101}}
    assert len(world.sends.sent) == 1
    world.readiness._has_sources = False
    assert (await world.post(PULSE)).status_code == 503
    assert len(world.heartbeats.sent) == 1


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Basic x"}, {"authorization": "Bearer"}, {"authorization": "Bearer x"}],
)
async def test_without_a_known_token_it_is_401(world: IngestWorld, headers: Any) -> None:
    answer = await world.post(ACME, token=None, **headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert world.sends.sent == []


async def test_a_token_is_no_parameter(world: IngestWorld) -> None:
    answer = await world.http.post(f"/events?access_token={IAM}", json=ACME)
    assert answer.status_code == 401


async def test_sizes_are_bounded(world: IngestWorld) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(17):
            yield b" " * 64 * 1024

    large = b" " * (MAX_EVENT_BYTES + 1)
    assert (await world.post(large)).status_code == 413
    headers = {"authorization": f"Bearer {IAM}", "content-type": "application/cloudevents+json"}
    chunked = await world.http.post("/events", content=chunks(), headers=headers)
    assert chunked.status_code == 413
    assert (await world.post(large, media_type=BATCH_TYPE)).status_code == 400
    larger = b" " * (MAX_BATCH_BYTES + 1)
    assert (await world.post(larger, media_type=BATCH_TYPE)).status_code == 413
    assert (await world.post_batch(*[1] * 1001)).status_code == 413


async def test_a_token_that_is_removed_while_a_body_comes_sends_nothing(
    world: IngestWorld,
) -> None:
    async def removing() -> AsyncIterator[bytes]:
        yield b"["
        world.write(FEEDERS[:1])
        await world.tokens.refresh()
        yield json.dumps(ACME).encode() + b"]"

    headers = {"authorization": f"Bearer {IAM}", "content-type": BATCH_TYPE}
    answer = await world.http.post("/events", content=removing(), headers=headers)
    assert answer.status_code == 401
    assert world.sends.sent == []


async def test_a_slow_body_is_408(world: IngestWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "READ_S", 0.01)

    async def never() -> AsyncIterator[bytes]:
        yield b"["
        await asyncio.Event().wait()

    headers = {"authorization": f"Bearer {IAM}", "content-type": BATCH_TYPE}
    answer = await world.http.post("/events", content=never(), headers=headers)
    assert (answer.status_code, answer.headers["connection"]) == (408, "close")
    assert not world.intake._admission._requests


@pytest.mark.parametrize("error", [KafkaConnectionError(), TimeoutError(), OSError("x")])
async def test_without_an_acknowledgement_it_is_503(world: IngestWorld, error: Exception) -> None:
    world.sends.error = error
    answer = await world.post(ACME)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


async def test_an_event_too_large_for_kafka_is_413(world: IngestWorld) -> None:
    """Sent again, it would fail again."""
    world.sends.error = MessageSizeTooLargeError()
    assert (await world.post(ACME)).status_code == 413


async def test_while_it_is_not_ready_it_is_503_and_nothing_is_read(world: IngestWorld) -> None:
    assert (await world.http.get("/health/ready")).status_code == 200
    world.readiness._note("Kafka cannot be reached")
    answer = await world.post(ACME)
    assert answer.status_code == 503
    assert "Kafka cannot be reached" in answer.json()["message"]
    ready = await world.http.get("/health/ready")
    assert (ready.status_code, ready.json()["status"]) == (503, "not ready")
    assert (await world.http.get("/health/live")).status_code == 200


async def test_other_numbers_of_partitions_are_refused(world: IngestWorld) -> None:
    world.readiness._note(world.readiness._changed(8))
    assert "had 4" in (await world.post(ACME)).json()["message"]
    world.readiness._note(world.readiness._changed(4))
    assert (await world.post(ACME)).status_code == 204


async def test_a_check_that_fails_in_any_way_is_a_fault(
    world: IngestWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch would end, and the ingest stay ready for ever."""

    async def malformed(_: object) -> None:
        raise ValueError("an answer that is malformed")

    monkeypatch.setattr(topics, "check_topics", malformed)
    await world.readiness.check()
    assert "ValueError" in (await world.post(ACME)).json()["message"]


async def test_tokens_are_read_again(world: IngestWorld) -> None:
    world.write([FEEDERS[0], feeder("iam", "the next token")])
    await world.tokens.refresh()
    assert (await world.post(ACME, token=IAM)).status_code == 401
    assert (await world.post(ACME, token="the next token")).status_code == 204


async def test_a_broken_file_of_tokens_stops_all(world: IngestWorld) -> None:
    """It may have been to remove a token."""
    world.write([feeder("iam", IAM) | {"token": IAM}])
    await world.tokens.refresh()
    answer = await world.post(ACME)
    assert answer.status_code == 503
    assert IAM not in str(world.tokens.fault)
    ready = await world.http.get("/health/ready")
    assert ready.status_code == 503
    assert ready.json()["reason"] == answer.json()["message"]
    assert str(world.file) not in ready.text
    assert metrics.TOKENS_UNUSABLE._value.get() == 1
    world.write(FEEDERS)
    await world.tokens.refresh()
    assert (await world.post(ACME)).status_code == 204


async def test_a_file_that_all_may_write_is_refused(world: IngestWorld) -> None:
    world.file.chmod(0o666)
    await world.tokens.refresh()
    assert "every user may write it" in str(world.tokens.fault)


async def test_a_fault_of_the_program_quotes_no_body(
    world: IngestWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    world.sends.error = ValueError("glcbt-quoted")
    answer = await world.post(ACME)
    assert answer.status_code == 500
    assert "quoted" not in answer.text + "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/events", 405, "POST"), ("HEAD", "/events", 405, "POST"),
        ("OPTIONS", "/events", 405, "POST"), ("PUT", "/events", 405, "POST"),
        ("POST", "/events/", 404, None), ("POST", "//events", 404, None),
        ("POST", "/health/live", 405, "GET, HEAD"), ("HEAD", "/health/live", 200, None),
    ],
)  # fmt: skip
async def test_other_methods_and_paths_are_refused(
    world: IngestWorld, method: str, path: str, status: int, allow: str | None
) -> None:
    answer = await world.http.request(method, f"http://t{path}")
    assert (answer.status_code, answer.headers.get("allow")) == (status, allow)
    assert answer.headers["cache-control"] == "no-store"
    if method not in ("HEAD",) and status != 200:
        assert answer.json()["message"].endswith("events are taken by POST /events")


async def test_requests_and_events_are_counted_by_the_name_of_the_token(
    world: IngestWorld,
) -> None:
    await world.post(ACME, token=IAM)
    await world.post(user(1), token=IAM)
    await world.post(ACME, token="x" * 20)
    text = (await world.http.get("/metrics")).text
    assert 'projector_ingest_events_total{token="iam",type="group.set"}' in text
    assert 'projector_ingest_refused_events_total{reason="forbidden",token="iam"}' in text
    assert 'projector_ingest_request_seconds_count{status="401",token="-"}' in text
    assert IAM not in text
    assert "x" * 20 not in text


async def test_a_request_that_waits_in_vain_is_202(world: IngestWorld) -> None:
    answer = await world.post(ACME, prefer="wait=1")
    assert answer.status_code == 202
    assert "views" in answer.json()["message"]
    assert "preference-applied" not in answer.headers


async def test_a_wait_in_vain_for_redis_is_logged(
    world: IngestWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    """It looks like workers that are behind, also where Redis was never configured."""
    await world.post(ACME, prefer="wait=1")
    assert "wait for views in vain" not in "".join(capsys.readouterr())
    world.intake._redis = fakeredis.FakeAsyncRedis(connected=False)
    assert (await world.post(ACME, prefer="wait=1")).status_code == 202
    assert "wait for views in vain" in "".join(capsys.readouterr())


async def test_a_wait_ends_with_the_process(world: IngestWorld) -> None:
    """uvicorn cut it after five seconds, with its events acknowledged."""
    waiting = asyncio.create_task(world.post(ACME, prefer="wait=30"))
    while not world.sends.sent:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    world.intake.stopping.set()
    async with asyncio.timeout(20):
        answer = await waiting
    assert (answer.status_code, "ended" in answer.json()["message"]) == (202, True)


@pytest.mark.parametrize(
    ("content", "media_type", "headers"),
    [
        (ACME | {"padding": "x" * CHECKED_AT_ONCE_BYTES}, STRUCTURED_TYPE, {}),
        ([ACME], BATCH_TYPE, {}),
        (ACME["data"], JSON_TYPE, {f"ce_{name}": ACME[name] for name in ACME if name != "data"}),
    ],
)
async def test_other_requests_go_on_while_events_are_checked(
    content: Any, media_type: str, headers: dict[str, str],
    world: IngestWorld, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """One hostile event took the event loop for seconds; now it delays its own token alone."""
    begun, release = threading.Semaphore(0), threading.Event()

    def slow(*_: object) -> None:
        begun.release()
        assert release.wait(20)

    with monkeypatch.context() as patched:
        patched.setattr(Checks, "add", slow)
        slow_ones = [
            asyncio.create_task(world.post(content, IAM, media_type, **headers)) for _ in range(2)
        ]
        await asyncio.to_thread(begun.acquire)
    try:
        assert (await world.post(ACME)).status_code == 204
        assert not begun.acquire(blocking=False), "one check of a token at a time"
    finally:
        release.set()
    assert [(await task).status_code for task in slow_ones] == [204, 204]


@pytest.mark.parametrize(("found", "status"), [("the-id", 204), ("another-id", 202)])
async def test_a_wait_is_for_the_views_of_the_topic_in_kafka(
    world: IngestWorld, found: str, status: int
) -> None:
    fields: Any = {"offset:membership": "1000", "log:membership": "the-id 999 90 00ff"}
    await world.redis.hset(schema.partition_key(0), mapping=fields)
    world.sends.ids = {Topic.MEMBERSHIP: found}
    assert (await world.post(ACME, prefer="wait=1")).status_code == status


async def test_one_token_takes_not_all_of_the_bounds(
    world: IngestWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "TOKEN_REQUESTS", 1)
    begun, release = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"["
        begun.set()
        await release.wait()
        yield b"]"

    headers = {"authorization": f"Bearer {IAM}", "content-type": BATCH_TYPE}
    first = asyncio.create_task(world.http.post("/events", content=slow(), headers=headers))
    await begun.wait()
    second = await world.post_batch(token=IAM)
    assert second.status_code == 429
    assert second.headers["retry-after"] == "1"
    assert (await world.post_batch()).status_code == 204
    release.set()
    assert (await first).status_code == 204
    assert (await world.post_batch(token=IAM)).status_code == 204


def test_bytes_are_bounded_for_each_token_and_for_all() -> None:
    bounds = Admission()
    most = admission.TOKEN_BYTES

    def refused(token: str, size: int) -> int:
        with pytest.raises(RefusedRequestError) as caught, bounds.admitted(token, size):
            pass
        return caught.value.status

    with bounds.admitted("a", most), bounds.admitted("b", most):
        assert refused("a", 1) == 429
        with bounds.admitted("c", most), bounds.admitted("d", most):
            assert refused("e", 1) == 503
        with bounds.admitted("e", 1):
            pass
    assert not bounds._bytes
    assert not bounds._requests


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], Preferences(None, strict=False)),
        (["wait=5"], Preferences(5, strict=False)),
        (['respond-async, Wait="7" ; x=1, handling=strict'], Preferences(7, strict=True)),
        (["wait=5", "wait=6, handling=lenient"], Preferences(5, strict=False)),
        (["wait=99999"], Preferences(30, strict=False)),
        (["wait=0"], Preferences(None, strict=False)),
        (["wait=-1, wait"], Preferences(None, strict=False)),
        (["wait=" + "9" * 5000], Preferences(None, strict=False)),
    ],
)
def test_preferences_are_read(given: list[str], expected: Preferences) -> None:
    assert parse_preferences([(b"prefer", text.encode()) for text in given]) == expected


async def test_the_document_has_every_status_and_type(world: IngestWorld) -> None:
    document = (await world.http.get("/openapi.json")).json()
    operation = document["paths"]["/events"]["post"]
    assert operation["responses"].keys() == {
        "200", "202", "204", "400", "401", "403", "408", "413", "415", "429", "500", "503"
    }  # fmt: skip
    examples = operation["requestBody"]["content"]["application/cloudevents+json"]["examples"]
    for name, example in examples.items():
        answer: httpx.Response = await world.post(example["value"])
        assert answer.status_code in (200, 204), (name, answer.text)
