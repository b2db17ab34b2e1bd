"""A projection as the version before views by job id left it in Redis, written out by hand."""

from typing import Any

from tests import builders
from tests.builders import digest
from tests.unit.operators.worlds import COMPANY, FOREVER, HOME, OTHER

# In the year 2096: nothing of it expires before this test is out of use.
THEN = 4_000_000_000_000
ENDS = THEN + 60 * 24 * 3600 * 1000
EPOCH = 1_795_411_362_015
HEAD = f"{HOME:04} {EPOCH:012x} 000000000011 "
NINE, TEN, FIRST, SECOND = map(digest, ("token-9", "token-10", "first", "second"))

# The events that led to it.
EVENTS = [
    *COMPANY,
    builders.started(9, 7, expires_at=FOREVER),
    builders.started(10, 7, expires_at=FOREVER),
    builders.removed("job", 10),
    builders.started(11, 7, token="first", expires_at=FOREVER),
    builders.started(11, 7, token="second", expires_at=FOREVER),
]


def _job(number: int, offset: int, sha256: str, *, finished: bool = False) -> str:
    return (
        f'{{"offset":{offset},"timestamp":{THEN},"data":{{"digest":"{sha256}","project":7,'
        f'"pipeline":{2000 + number},"user":1,"username":"root","ref_protected":false,'
        f'"expires_at":{ENDS},"environment":null,"finished":{str(finished).lower()}}}}}'
    )


def _fact(offset: int, data: str) -> str:
    return f'{{"offset":{offset},"timestamp":{THEN},"data":{data}}}'


FACTS = {
    "3/agent/5": _fact(0, '{"name":"a5","project":7}'),
    "3/agent/6": _fact(1, '{"name":"a6","project":8}'),
    "3/group/3": _fact(0, '{"parent":null,"path":"g3"}'),
    "3/project/7": _fact(1, '{"group":3,"path":"p7"}'),
    "3/member/group:3/user:1/direct": _fact(2, '{"level":30,"expires_at":null}'),
    "3/job/9": _job(9, 0, NINE),
    "3/job/10": _job(10, 2, TEN, finished=True),
    "3/job/11": _job(11, 4, SECOND),
    f"3/token/{FIRST}": _fact(4, f'{{"job":11,"expires_at":{ENDS}}}'),
}


def _live(number: int) -> str:
    return (
        f'200 {HEAD}{{"allowed_agents":[{{"id":5,"config_project":{{"id":7}},'
        '"configuration":{}}],'
        f'"job":{{"id":{number}}},"pipeline":{{"id":{2000 + number}}},'
        '"project":{"id":7,"groups":[{"id":3}]},"user":{"id":1,"username":"root",'
        '"roles_in_project":["guest","planner","reporter","developer"]}}'
    )


STRINGS = {
    f"allowed-agents:token:{NINE}": _live(9),
    f"allowed-agents:token:{TEN}": f"401 {HEAD}",
    f"allowed-agents:token:{FIRST}": f"401 {HEAD}",
    f"allowed-agents:token:{SECOND}": _live(11),
    "allowed-agents:job:9": NINE,
    "allowed-agents:job:10": TEN,
    "allowed-agents:job:11": SECOND,
}

STATE = {
    "epoch": EPOCH,
    "owner": "vm-8130-a0ae6a80",
    "offset:membership": 3,
    "offset:agent-config": 2,
    "offset:job-lifecycle": 5,
    "revision": 17,
    "facts": len(FACTS),
    "stamp": THEN,
    "stamp_epoch": EPOCH,
    "minimum_level": 30,
    "max_view_bytes": 1_048_576,
    "tombstone_retention": 604_800_000,
}
EMPTY = STATE | {"facts": 0, "offset:membership": 0, "offset:agent-config": 0} | {
    "offset:job-lifecycle": 0
}  # fmt: skip


def write(redis: Any, then: int = THEN) -> None:
    """Write it into Redis, as of `then` in ms."""
    ends = then + ENDS - THEN

    def dated(value: Any) -> Any:
        return str(value).replace(str(THEN), str(then)).replace(str(ENDS), str(ends))

    redis.set("allowed-agents:partitions", 2)
    for partition, state in ((HOME, STATE), (OTHER, EMPTY)):
        mapping = {name: dated(value) for name, value in state.items()}
        redis.hset(f"allowed-agents:partition:{{{partition}}}", mapping=mapping)
    facts = {name: dated(value) for name, value in FACTS.items()}
    redis.hset(f"allowed-agents:facts:{{{HOME}}}", mapping=facts)
    for key, value in STRINGS.items():
        redis.set(key, value, pxat=ends)
