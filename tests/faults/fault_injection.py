"""Fault injection inside a command of the product, without any hook in the product.

    FAULT_INJECTION='[["hold delivery", {"text": "p7", "seconds": 2}]]' \\
        python -m tests.faults.fault_injection worker

patches the product's classes in this process and then runs the normal command line.
"""

import asyncio
import functools
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any, Final

from projector.cli import main as cli
from projector.store.overlay_line import OverlayLine
from projector.store.partition_store import PartitionStore
from projector.worker.owner_group import OwnerGroup
from tests.faults.mutations import MUTATIONS

VARIABLE: Final = "FAULT_INJECTION"
PHASES: Final = ("before views", "after views", "after checkpoint", "before ack")
DELAY_S: Final = (0.05, 1.0)

Method = Callable[..., Awaitable[Any]]


def patch(owner: type, name: str, replacement: Callable[[Any], Any]) -> None:
    """Replace a method by `replacement(method)`."""
    original = getattr(owner, name)
    setattr(owner, name, functools.wraps(original)(replacement(original)))


# fault points


def kill(phase: str, nth: int, trigger: str) -> None:
    """Kill this process when it reaches the phase for the n-th time.

    Counting begins when the file `trigger` exists.
    """
    left = [nth]

    def kill_when_due() -> None:
        left[0] -= Path(trigger).exists()
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    match phase:
        case "before views":
            for name in ("commit", "write_views"):
                patch(PartitionStore, name, lambda write: _before(write, kill_when_due))
        case "after views":
            write_views_alone()
            patch(PartitionStore, "write_views", lambda write: _after(write, kill_when_due))
        case "after checkpoint":
            for name in ("commit", "checkpoint"):
                patch(PartitionStore, name, lambda write: _after(write, kill_when_due))
        case "before ack":
            patch(OwnerGroup, "enqueue", lambda enqueue: _before_ack(enqueue, kill_when_due))


def write_views_alone() -> None:
    """Write no view in one call with the checkpoint: each batch has a moment between both."""

    async def leave(*_: Any) -> bool:
        return False

    patch(PartitionStore, "commit", lambda _: leave)


def stop(trigger: str, phase: str) -> None:
    """Stop this process when it writes the view whose digest is in the file `trigger`.

    The phase is `before views`, `after views`, or `around views` for both. After views is before
    the checkpoint that follows; around them, both may be one call.
    """
    path = Path(trigger)

    def is_due(changed: Any) -> bool:
        due = path.exists() and path.read_text() in {view.id for view in changed}
        if due:
            path.unlink()
        return due

    def stopping(write: Method) -> Method:
        async def wrapped(self: PartitionStore, changed: Any, *args: Any) -> Any:
            changed = list(changed)
            stops = is_due(changed)
            if stops and phase != "after views":
                os.kill(os.getpid(), signal.SIGSTOP)
            result = await write(self, changed, *args)
            if stops and phase != "before views" and result is not False:
                os.kill(os.getpid(), signal.SIGSTOP)
            return result

        return wrapped

    patch(PartitionStore, "write_views", stopping)
    if phase == "after views":
        write_views_alone()
    else:
        patch(PartitionStore, "commit", stopping)


def stop_before_the_line(trigger: str) -> None:
    """Stop this process when it is about to set its line in the overlay, if the file is there."""
    path = Path(trigger)

    def stopping(add: Method) -> Method:
        def wrapped(self: OverlayLine, names: Any) -> Any:
            if path.exists():
                path.unlink()
                os.kill(os.getpid(), signal.SIGSTOP)
            return add(self, names)

        return wrapped

    patch(OverlayLine, "add", stopping)


def _before(write: Method, act: Callable[[], None]) -> Method:
    async def wrapped(self: PartitionStore, changed: Any, *args: Any) -> Any:
        if changed:
            act()
        return await write(self, changed, *args)

    return wrapped


def _after(write: Method, act: Callable[[], None]) -> Method:
    async def wrapped(self: PartitionStore, changed: Any, *args: Any) -> Any:
        result = await write(self, changed, *args)
        if changed and result is not False:
            act()
        return result

    return wrapped


def _before_ack(enqueue: Callable[..., None], act: Callable[[], None]) -> Callable[..., None]:
    def wrapped(self: OwnerGroup, record: Any, ack: Callable[[], object]) -> None:
        def acting_ack() -> None:
            act()
            ack()

        enqueue(self, record, acting_ack)

    return wrapped


def disturb_delivery(seed: int, share: float) -> None:
    """Drop, repeat and delay a share of Faust's deliveries each."""
    dice = Random(seed)

    def disturbed(enqueue: Callable[..., None]) -> Callable[..., None]:
        def wrapped(self: OwnerGroup, record: Any, ack: Callable[[], object]) -> None:
            chance = dice.random()
            if chance < share:
                ack()
            elif chance < 2 * share:
                enqueue(self, record, ack)
                enqueue(self, record, lambda: None)
            elif chance < 3 * share:
                delay = dice.uniform(*DELAY_S)
                asyncio.get_running_loop().call_later(delay, enqueue, self, record, ack)
            else:
                enqueue(self, record, ack)

        return wrapped

    patch(OwnerGroup, "enqueue", disturbed)


def hold_delivery(text: str, seconds: float) -> None:
    """Delay Faust's deliveries whose value contains the text."""

    def holding(enqueue: Callable[..., None]) -> Callable[..., None]:
        def wrapped(self: OwnerGroup, record: Any, ack: Callable[[], object]) -> None:
            if text.encode() in (record.value or b""):
                asyncio.get_running_loop().call_later(seconds, enqueue, self, record, ack)
            else:
                enqueue(self, record, ack)

        return wrapped

    patch(OwnerGroup, "enqueue", holding)


FAULTS: Final[dict[str, Callable[..., None]]] = {
    "kill": kill,
    "stop": stop,
    "stop before the line": stop_before_the_line,
    "disturb delivery": disturb_delivery,
    "hold delivery": hold_delivery,
}


def environment(*faults: tuple[str, dict[str, Any]]) -> dict[str, str]:
    """Return the environment variable that injects these faults into a process."""
    return {VARIABLE: json.dumps(faults)}


def main() -> None:
    """Inject the faults, then run the command line."""
    for name, options in json.loads(os.environ[VARIABLE]):
        (FAULTS | MUTATIONS)[name](**options)
    cli.main()


if __name__ == "__main__":
    main()
