"""The refusal of a state that does not have all that was sent, and the audit that replaces it."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final
from uuid import uuid4

from projector.clients.retry import wait_until_ready
from projector.config.settings import Settings
from projector.errors import StateError
from projector.gitlab.last_sent import read_last_sent
from projector.gitlab.mapping.state import State
from projector.gitlab.memory import Memory
from projector.gitlab.own_thread import OwnThread
from projector.gitlab.sender import Sender

# A state that does not know all that was sent would leave some of it for ever.
OLD_STATE: Final = (
    "the state is older than what was sent: it was restored from a backup, or a bridge with "
    "another state has sent since. What GitLab has removed meanwhile would stay for ever. Run that "
    "bridge alone, or put the newest file back that PROJECTOR_GITLAB_STATE names, or run "
    "`projector gitlab run --audit`, which sends everything again and removes what is gone"
)
AUDIT: Final = "audit"
NAME: Final = "name"

Audit = Callable[[Memory, Sender], Awaitable[None]]


async def refuse(
    state: OwnThread[State], sender: Sender, settings: Settings, *, audits: bool, has_sources: bool
) -> bool:
    """Refuse a state without earlier events: their grants would never end.

    With an audit everything is sent again, and the audit removes the rest. Return whether the
    state begins to send: its mark must be in a heartbeat before its first event.
    """
    if audits:
        await state.run(_begin_audit)
    await wait_until_ready("Kafka", settings.kafka, sender.ask_ends)
    is_empty = await state.run(_name)
    if not audits:
        await _refuse_lost_state(state, has_events=_has_events(sender))
        if has_sources and _has_events(sender):
            check = partial(require_last, state, settings)
            await wait_until_ready("Kafka", settings.kafka, check)
    return is_empty


async def require_nothing_lost(
    state: OwnThread[State], sender: Sender, settings: Settings, *, has_sources: bool
) -> None:
    """Raise what a run without an audit would be refused for, and change nothing.

    Raises `StateError`, `LostTopicsError`, and `KafkaError`.
    """
    await sender.ask_ends()
    await _refuse_lost_state(state, has_events=_has_events(sender))
    if has_sources and _has_events(sender):
        await require_last(state, settings)


def _has_events(sender: Sender) -> bool:
    return any(end for ends in sender.offsets.values() for end in ends)


async def _refuse_lost_state(state: OwnThread[State], *, has_events: bool) -> None:
    is_empty, pending = await state.run(lambda s: (s.is_empty, s.noted(AUDIT)))
    if pending:
        raise StateError(
            "the run with --audit before this one has not ended its audit; run "
            "`projector gitlab run --audit` again"
        )
    if is_empty and has_events:
        raise StateError(
            "the state is empty, but the topics are not: what GitLab has removed since would stay "
            "for ever. Restore the file that PROJECTOR_GITLAB_STATE names, or run "
            "`projector gitlab run --audit`, which finds and removes it"
        )


async def require_last(state: OwnThread[State], settings: Settings) -> None:
    """Refuse a state that was not the last to send, or has less than it had sent.

    Raises `StateError` and `KafkaError`.
    """
    sent = await read_last_sent(settings)
    name, number = await state.run(lambda s: (s.noted(NAME), s.last_number))
    if sent and (sent.state != name or sent.number > number):
        raise StateError(OLD_STATE)


def _begin_audit(state: State) -> None:
    """Give the state a new name, so that copies from before and former bridges are refused.

    Killed at any point, it is refused without --audit until an audit has ended.
    """
    state.note(AUDIT, 1)
    state.send_all_again()
    state.note(NAME, uuid4().hex)


def _name(state: State) -> bool:
    """Give the state a name, which its copies share; return whether it has sent nothing yet."""
    if state.noted(NAME) is None:
        state.note(NAME, uuid4().hex)
    return state.is_empty


async def end_audit(memory: Memory) -> None:
    """Note that the audit has ended."""
    async with memory.quiet():
        await memory.state.run(lambda state: state.note(AUDIT, None))
