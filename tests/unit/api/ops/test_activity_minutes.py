"""The activity of all owners, summed up by minute."""

from fakeredis import FakeAsyncRedis

from api.ops.activity_minutes import read_minutes
from projector.events.model import Topic
from projector.store import activity, schema
from projector.store.activity import MinuteActivity, PartitionActivity

NUMBER = 30_000_000
NOW = NUMBER * 60_000 + 30_000


async def test_the_minutes_of_all_partitions_are_summed_up_and_what_cannot_be_read_is_left_out(
    redis: FakeAsyncRedis,
) -> None:
    for partition, (events, bucket, slowest) in enumerate([(3, 0, 0.004), (4, 5, 0.2)]):
        minute = MinuteActivity(NUMBER, applied={Topic.MEMBERSHIP: events, Topic.AGENT_CONFIG: 1})
        minute.revocations[bucket] = 1
        minute.slowest = slowest
        published = PartitionActivity(7, "host-1", NOW, 0, 0, 0, [minute])
        await redis.set(schema.activity_key(partition), activity.encode_activity(published))
    await redis.set(schema.activity_key(2), b"{")
    minutes = await read_minutes(redis, 4, NOW)
    assert [each["minute"] for each in minutes] == list(
        range(NUMBER - activity.MINUTES_KEPT, NUMBER + 1)
    )
    assert minutes[-2] == {
        "minute": NUMBER - 1, "events": 0, "revocations": 0,
        "p50": None, "p99": None, "slowest": None,
    }  # fmt: skip
    assert minutes[-1] | {"p50": 0, "p99": 0} == {
        "minute": NUMBER, "events": 9, "revocations": 2, "p50": 0, "p99": 0, "slowest": 0.2,
    }  # fmt: skip
    assert 0 < minutes[-1]["p50"] <= 0.005 < minutes[-1]["p99"] <= 0.2
