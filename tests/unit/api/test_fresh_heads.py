"""Heads that are formatted once, against lookups that decode and check each record: same bytes."""

from collections.abc import Callable, Iterator
from typing import TypeVar, cast

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from api.fresh_heads import FreshHeads
from api.freshness import Freshness, Poll
from api.lookup import Asked, Lookup
from api.lookup_request import LookupRequest
from api.proofs import Proofs
from api.read_batcher import OnValue, Reads
from api.stamps import Stamp
from projector.clients.redis_servers import RedisServers
from projector.store.overlay import encode_line
from projector.store.schema import Version, ViewRecord

BOUND_S = 3.5
EPOCH = 0x0A0
PARTITIONS = 2
BODY = (
    b'{"allowed_agents":[{"id":7,"config_project":{"id":3},"configuration":{}}],'
    b'"project":{"id":1,"groups":[]},"user":{"id":5}}'
)

T = TypeVar("T")
Answers = list[tuple[int, bytes, bytes]]


class Given(Reads):
    """Reads whose values the test hands over."""

    def __init__(self) -> None:
        self.asked: list[OnValue] = []

    def ask(self, key: str, on_value: OnValue) -> None:
        self.asked.append(on_value)


class Side:
    """A lookup, and one connection's object for it, which is used again and again."""

    def __init__(self, freshness: Freshness) -> None:
        self.reads = Given()
        self.answers: Answers = []
        self.lookup = Lookup(
            self.reads, freshness, Proofs(freshness, miss_grace=1, max_waiting=1),
            max_staleness=BOUND_S,
        )  # fmt: skip
        self.asked = Asked(self.lookup, lambda *reply: self.answers.append(reply))


class Sides:
    """The same lookups with heads that are kept, and without; their clock is moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        for module in ("api.lookup", "api.freshness", "projector.clients.redis_servers"):
            monkeypatch.setattr(f"{module}.elapsed", lambda: self.now)
        self.servers = RedisServers()
        self.freshness = Freshness(cast(Redis, None), self.servers)
        self.kept, self.plain = Side(self.freshness), Side(self.freshness)
        monkeypatch.setattr(self.plain.lookup.heads, "find", lambda *_: None)
        self.found = 0
        find = self.kept.lookup.heads.find

        def counted(stored: bytes, server: str, poll: Poll, now: float) -> bytes | None:
            head = find(stored, server, poll, now)
            self.found += head is not None
            return head

        monkeypatch.setattr(self.kept.lookup.heads, "find", counted)

    def poll(self, ages: list[float | None], epoch: int, server: str = "") -> None:
        """Poll stamps of these ages."""
        now = self.now
        stamps = [None if age is None else Stamp(1, epoch, now - age, now, server) for age in ages]
        self.freshness.poll = Poll(now, tuple(stamps), now, {})

    def look_up(
        self, raw: bytes, *, server: str = "", overlay: bytes | None = None,
        max_age: int | None = None, meanwhile: Callable[[], None] = lambda: None,
    ) -> tuple[int, bytes, bytes]:  # fmt: skip
        """Look up once on each side, with what happens between the read and its value."""
        for side in (self.kept, self.plain):
            side.lookup.ask_as(side.asked, LookupRequest(b"token", max_age))
        meanwhile()
        for side in (self.kept, self.plain):
            side.reads.asked.pop()(raw, server, overlay)
        assert self.kept.answers[-1] == self.plain.answers[-1]
        return self.kept.answers[-1]


@pytest.fixture
def sides() -> Iterator[Sides]:
    with pytest.MonkeyPatch.context() as patch:
        yield Sides(patch)


def record(
    status: int = 200, partition: int = 0, epoch: int = EPOCH, revision: int = 0x1F,
    body: bytes = BODY,
) -> bytes:  # fmt: skip
    return ViewRecord(status, partition, Version(epoch, revision), body).encode()


def mostly(usual: st.SearchStrategy[T], other: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    """The usual in six of seven draws: heads are kept and found only while all is well."""
    return st.integers(0, 6).flatmap(lambda number: other if number == 6 else usual)


QUARTERS = st.integers(0, 16).map(lambda quarters: quarters / 4)
EPOCHS = mostly(st.just(EPOCH), st.sampled_from([EPOCH - 1, EPOCH + 1, 2**48 - 1]))
SERVERS = mostly(st.just(""), st.just("other"))
LIVE = st.builds(
    record, partition=st.integers(0, PARTITIONS - 1), epoch=EPOCHS, revision=st.integers(0, 3),
    body=st.sampled_from([BODY, b"", b"%d \r\n"]),
)  # fmt: skip
ODD = st.one_of(
    st.builds(record, st.sampled_from([200, 403, 503]), st.integers(0, PARTITIONS)),
    st.just(record(401, body=b"")),
    # Bytes that Python's int would take for a part of a number too.
    st.builds(
        lambda raw, at, byte: raw[:at] + byte + raw[at + 1 :], LIVE, st.integers(0, 34),
        st.sampled_from([b"_", b" ", b"A", b"+", b"x", b"g", b"\n", b"0"]),
    ),
    st.integers(0, 36).map(lambda length: record()[:length]),
)  # fmt: skip
RECORDS = mostly(LIVE, ODD)
HELD = encode_line(0, Version(EPOCH, 0x20), ["agent:7"]).encode()
OVERLAYS = mostly(st.none(), st.sampled_from([b"", HELD]))
MAX_AGES = mostly(st.none(), st.sampled_from([1, 2, 60]))
CHANGES = mostly(st.just("nothing"), st.sampled_from(["wait", "poll", "poll", "meet"]))
STAMPS = st.lists(mostly(st.just(0.0), st.none() | QUARTERS), min_size=1, max_size=PARTITIONS)


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_any_lookup_has_the_bytes_that_it_has_without_kept_heads(data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        sides = Sides(patch)

        def change() -> None:
            match data.draw(CHANGES):
                case "wait":
                    sides.now += data.draw(QUARTERS)
                case "poll":
                    sides.now += 0.25
                    sides.poll(data.draw(STAMPS), data.draw(EPOCHS), data.draw(SERVERS))
                case "meet":
                    sides.servers.meet(data.draw(SERVERS))

        sides.poll([0.0] * PARTITIONS, EPOCH)
        for _ in range(data.draw(st.integers(6, 16))):
            change()
            sides.look_up(
                data.draw(RECORDS), server=data.draw(SERVERS), overlay=data.draw(OVERLAYS),
                max_age=data.draw(MAX_AGES),
                meanwhile=change,
            )  # fmt: skip
        event(f"kept heads used: {min(sides.found, 3)}")


def test_a_head_is_used_until_the_next_second_poll_or_server(sides: Sides) -> None:
    def uses() -> int:
        before = sides.found
        assert sides.look_up(record())[0] == 200
        return sides.found - before

    sides.poll([0.25], EPOCH)
    assert (uses(), uses()) == (0, 1)
    sides.now += 0.5
    assert uses() == 1
    sides.now += 0.25
    assert (uses(), uses()) == (0, 1)
    sides.poll([0.5], EPOCH)
    assert (uses(), uses()) == (0, 1)
    sides.servers.meet("other")
    assert uses() == 1
    sides.now += 0.125
    sides.poll([0.0], EPOCH)
    sides.look_up(record())
    sides.servers.meet("")
    assert sides.look_up(record())[0] == 503


def test_a_value_that_was_read_after_an_earlier_poll_is_judged_by_that_poll(sides: Sides) -> None:
    """The later one may know of events that the value does not have."""
    sides.poll([3.25], EPOCH)
    sides.look_up(record())

    def next_poll() -> None:
        sides.now += 0.5
        sides.poll([0.0], EPOCH)

    assert sides.look_up(record(), meanwhile=next_poll)[0] == 503
    assert sides.look_up(record())[0] == 200
    assert sides.look_up(record(), meanwhile=next_poll)[0] == 200


def test_the_heads_of_one_poll_alone_are_kept(sides: Sides) -> None:
    """Or those of partitions without lookups would keep their polls, and all stamps in them."""
    sides.poll([0.0, 0.0], EPOCH)
    for partition in (0, 1):
        sides.look_up(record(partition=partition))
    heads: FreshHeads = sides.kept.lookup.heads
    assert len(heads._heads) == 2
    sides.poll([0.0, 0.0], EPOCH)
    sides.look_up(record())
    assert len(heads._heads) == 1
    assert heads._poll is sides.freshness.poll
