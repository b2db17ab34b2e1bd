"""Mutations: each disables one mechanism of the product, to prove that the observer notices.

Each function patches the classes of a worker's or an API's process, before it starts.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from api import freshness
from api.freshness import Freshness, Poll
from api.stamps import decode_stamp
from projector.clients import kafka
from projector.clients.redis_servers import RedisServers
from projector.clients.trusted_clock import ClockError
from projector.events.heartbeats import Heartbeat
from projector.events.model import Topic
from projector.kafka.client_metadata import ClientMetadata
from projector.kafka.range_reader import Offsets, RangeReader
from projector.store import lua_scripts
from projector.store.overlay_line import OverlayLine
from projector.store.partition_store import PartitionStore
from projector.worker.event_applier import EventApplier
from projector.worker.first_views import FirstViews
from projector.worker.freshness_probes import FreshnessProbes, Probe
from projector.worker.known_logs import KnownLogs
from projector.worker.recovery import Recovery
from projector.worker.sweep import ViewSweep
from projector.worker.vouchers import Voucher, Vouchers
from tests.builders import take_changes


def delivery_check_off() -> None:
    """The owner takes what Faust skipped, or does not bring, for applied."""
    catch_up = EventApplier.catch_up

    async def believe(self: Any, ends: Offsets) -> None:
        if self.is_complete:
            self.progress.next |= ends
        else:
            await catch_up(self, ends)

    replace(EventApplier, "catch_up", believe)


def fencing_off() -> None:
    """The scripts compare nothing, and every claim has the same epoch: the last write wins.

    With epochs alone the API would still notice: a record below its partition's stamp is 503.
    """
    unclaimed = "local revision = ARGV[3]"
    for name in ("CHECKPOINT", "STAMP", "FORGET"):
        replace(
            lua_scripts, name, swapped(getattr(lua_scripts, name), lua_scripts._CLAIMED, unclaimed)
        )
    risen = "math.max(stored + 1, tonumber(ARGV[3]), ARGV[2] + 1)"
    replace(lua_scripts, "CLAIM", swapped(lua_scripts.CLAIM, risen, "1"))
    compared = "newer and newer > version"
    for name in ("WRITE_VIEWS", "CHECKPOINT"):
        replace(lua_scripts, name, swapped(getattr(lua_scripts, name), compared, "false"))


def heal_off() -> None:
    """After a refused write the owner claims and goes on, without writing what was there."""

    async def go_on(self: Any) -> None:
        await self._applier.advance(await self._store.now())
        changes = take_changes(self._applier.projection, self._applier.now)
        await self._writer.write(lambda: changes.views)
        fields = changes.facts | self._applier.outbox.take_changes()
        await self._writer.checkpoint(fields, self._applier.field_count)

    replace(Recovery, "_heal", go_on)


def freshness_off() -> None:
    """The owner stamps its partition without asking Kafka what there is."""

    async def ask_redis_alone(self: Any, _applied: Offsets) -> None:
        self._waiting.append(Probe(await self._store.now(), dict.fromkeys(Topic, 0), 0.0))

    replace(FreshnessProbes, "_ask", ask_redis_alone)


def first_views_at_once() -> None:
    """The owner writes a job's first view without asking what the other topics hold."""
    replace(FirstViews, "hold", lambda _self: None)


def log_identity_off() -> None:
    """The owner takes any log that is long enough for the one whose events it has applied."""

    async def take_any(*_: Any) -> None: ...

    replace(KnownLogs, "check", take_any)
    replace(KnownLogs, "check_changed", take_any)


def one_witness() -> None:
    """The owner believes the leader that a client has known from before, and asks no other."""
    start = RangeReader.start

    async def start_a_client(self: Any) -> None:
        await start(self)
        self.client = kafka.create_consumer(self._settings, "mutation", request_timeout_ms=2000)
        await self.client.start()

    async def ask_the_known_leader(self: Any, partition: int, _leaders: Any = None) -> Offsets:
        found = await self.client.end_offsets(self._partitions(partition))
        return self._by_topic(found)  # type: ignore[no-any-return]

    replace(RangeReader, "start", start_a_client)
    replace(RangeReader, "ends", ask_the_known_leader)
    replace(ClientMetadata, "correct", lambda *_: None)


def server_change_unnoticed() -> None:
    """The owner does not notice that another Redis answers than the one that it wrote to."""
    replace(PartitionStore, "refuse_changed_server", lambda _self: None)
    replace(RedisServers, "identity", lambda _self, _place: "")


def server_known_by_its_connection() -> None:
    """The owner learns of another Redis from new connections alone."""
    note = RedisServers.note

    async def note_clocks_alone(self: Any, answers: Any, sent: float) -> None:
        await note(self, [answer._replace(value=None) for answer in answers], sent)

    replace(RedisServers, "note", note_clocks_alone)
    replace(RedisServers, "identity", lambda _self, _place: "")


def every_clock_reading_believed() -> None:
    """The owner believes each TIME that Redis answers, and heals after no jump of it."""
    note = RedisServers.note

    async def note_servers_alone(self: Any, answers: Any, sent: float) -> None:
        with suppress(ClockError):
            changes = self.changes
            await note(self, answers, sent)
        self.changes = changes

    replace(RedisServers, "note", note_servers_alone)
    replace(RedisServers, "expected_time", lambda _self, _place: None)


def sweep_off() -> None:
    """No owner compares its views with Redis; the sweep would repair other damage in time."""

    async def compare_nothing(_self: Any) -> None: ...

    replace(ViewSweep, "run_portion", compare_nothing)


def overlay_off() -> None:
    """The owner sets no line in the overlay: a bulk change holds back no view."""

    async def set_nothing(_self: Any) -> None: ...

    replace(OverlayLine, "renew", set_nothing)


def latest_poll() -> None:
    """The API measures a view by the stamps that were polled last, also after it was read."""
    known = Freshness.known

    def by_latest(self: Freshness, _poll: Poll, *view: Any) -> Any:
        return known(self, self.poll, *view)

    replace(Freshness, "known", by_latest)


def meetings_ignored() -> None:
    """The API takes the views of any server for as fresh as the stamps of another."""
    replace(RedisServers, "met", lambda _self, _place: -math.inf)


def stamps_grow_younger() -> None:
    """The API takes the age of a stamp from Redis' clock alone, also where that steps back."""

    def decode_by_the_clock(sent: float, answer: Any, _before: Any) -> Any:
        return decode_stamp(sent, answer, None)

    replace(freshness, "decode_stamp", decode_by_the_clock)


def heartbeats_without_offsets() -> None:
    """A heartbeat counts when it comes, whether or not the events that it vouches for have come."""
    replace(Voucher, "is_applied", lambda *_: True)


def heartbeats_without_after() -> None:
    """A heartbeat vouches for the moment it was sent, not for the look before its events."""
    note = Vouchers.note

    def note_as_of_its_sending(self: Vouchers, heartbeat: Heartbeat, read_at: float) -> bool:
        return note(self, heartbeat._replace(after=heartbeat.offset), read_at)

    replace(Vouchers, "note", note_as_of_its_sending)


def replace(place: Any, name: str, by: Any) -> None:
    """Replace an attribute; without it, the mutation would change nothing."""
    assert hasattr(place, name), f"{place} has no {name} any more: adapt the mutation"
    setattr(place, name, by)


def swapped(text: str, old: str, new: str) -> str:
    assert old in text, f"the script has no {old!r} any more: adapt the mutation"
    return text.replace(old, new)


MUTATIONS: Final[dict[str, Callable[..., None]]] = {
    "delivery check off": delivery_check_off,
    "fencing off": fencing_off,
    "heal off": heal_off,
    "freshness off": freshness_off,
    "first views at once": first_views_at_once,
    "log identity off": log_identity_off,
    "one witness": one_witness,
    "server change unnoticed": server_change_unnoticed,
    "server known by its connection": server_known_by_its_connection,
    "every clock reading believed": every_clock_reading_believed,
    "sweep off": sweep_off,
    "overlay off": overlay_off,
    "latest poll": latest_poll,
    "meetings ignored": meetings_ignored,
    "stamps grow younger": stamps_grow_younger,
    "heartbeats without offsets": heartbeats_without_offsets,
    "heartbeats without after": heartbeats_without_after,
}
