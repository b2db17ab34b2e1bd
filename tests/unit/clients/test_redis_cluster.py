"""Errors of redis-py's cluster client that are outages, and those that are not."""

from collections import deque
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from projector.clients import redis_cluster


class Node:
    """A server whose connections raise the error of a wrong attribute."""

    name = "127.0.0.1:7000"

    def __init__(self, owner: Any, attribute: str) -> None:
        self._owner = owner
        self._attribute = attribute

    async def execute_pipeline(self, _commands: Any) -> None:
        getattr(self._owner, self._attribute)


async def test_a_connection_that_is_closed_before_its_write_is_an_outage() -> None:
    """redis-py's writer is then None. The error would end the worker."""
    node: Any = Node(None, "writelines")
    (result,) = await redis_cluster._run(node, [redis_cluster._Sent(0, ("PTTL", "x"), False)])
    assert isinstance(result.value, RedisConnectionError)
    assert result.place == node.name


@pytest.mark.parametrize(("owner", "attribute"), [(None, "other"), (deque(), "writelines")])
async def test_another_wrong_attribute_is_an_error_of_the_program(
    owner: Any, attribute: str
) -> None:
    node: Any = Node(owner, attribute)
    with pytest.raises(AttributeError):
        await redis_cluster._run(node, [redis_cluster._Sent(0, ("PTTL", "x"), False)])
