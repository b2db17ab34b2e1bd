"""Fork server: imports the product once, and forks a child for each command of a test.

A new Python takes 0.57 s of CPU until the product is imported, a child 0.02 s. The tests start a
thousand. A child is an ordinary process. It has its own environment, folder and standard streams,
and runs `python -m MODULE` to the interpreter's normal end. Signals, exit codes and kill -9 come
from the kernel.

Two conditions make forking safe: this process has one thread, and no import reads an environment
variable that a test sets. The exception is PROMETHEUS_MULTIPROC_DIR. Tests that set it start a new
Python for each process, as tests of how a process starts or ends do (`real_processes`).
"""

import atexit
import gc
import importlib
import json
import os
import pkgutil
import runpy
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

MESSAGE_BYTES: Final = 128 * 1024
# Modules that the product imports late, by name.
LATE: Final = (
    "faust.app", "faust.assignor.partition_assignor", "faust.transport.drivers.aiokafka",
    "faust.web.drivers.aiohttp", "pydantic.v1", "uvicorn.lifespan.on", "uvicorn.loops.uvloop",
)  # fmt: skip


def preload() -> None:
    """Import the product, including its late imports."""
    for package in map(importlib.import_module, ("projector", "api")):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    for name in LATE:
        importlib.import_module(name)
    assert threading.active_count() == len(os.listdir("/proc/self/task")) == 1
    # The collector does not touch frozen objects, so children share their memory.
    gc.collect()
    gc.freeze()


def serve(channel: socket.socket) -> str:
    """Fork a child per request; in the child, return the module to run."""
    while True:
        message, streams, *_ = socket.recv_fds(channel, MESSAGE_BYTES, 3)
        if not message:
            sys.exit()
        request = json.loads(message)
        if "reap" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["reap"], 0)[1])
        elif (answer := os.fork()) == 0:
            channel.close()
            return become_command(request, streams)
        for stream in streams:
            os.close(stream)
        channel.send(b"%d" % answer)


def become_command(request: Mapping[str, Any], streams: Sequence[int]) -> str:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = request["argv"]
    return sys.argv[0]


def main(channel: socket.socket) -> None:
    """Serve requests; in a child, run the command."""
    codes: list[int] = []

    def leave() -> None:
        if codes:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(codes[0])

    # Registered first, so it runs last. It skips the interpreter's teardown, which costs more than
    # most commands.
    atexit.register(leave)
    preload()
    module = serve(channel)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, int):
            codes.append(end.code)
        raise


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
