"""The refusal of a state that does not have all that was sent, and the audit that replaces it."""

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple
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
    "the state is older than what was sent, as after a restore from a backup: what GitLab has "
    "removed since would stay for ever. Put the newest file back that PROJECTOR_GITLAB_STATE "
    "names, or run `projector gitlab run --audit`, which sends everything again and removes what "
    "is gone"
)
AUDIT: Final = "audit"
NAME: Final = "name"

Audit = Callable[[Memory, Sender], Awaitable[None]]


class Orders(NamedTuple):
    """What the command line asks for beside the settings."""

    audit: Audit | None = None  # compares and repairs before heartbeats begin
    resend: bool = False


async def refuse(
    state: OwnThread[State],
    sender: Sender,
    settings: Settings,
    orders: Orders,
    *,
    has_sources: bool,
) -> None:
    """Refuse a state without what was sent before: nobody would remove what is gone meanwhile.

    With an audit everything is sent again, and the audit removes the rest.
    """
    if orders.audit:
        await state.run(lambda s: s.note(AUDIT, 1))
    if orders.audit or orders.resend:
        await state.run(State.forget_told)
    await wait_until_ready("Kafka", settings.kafka, sender.ask_ends)
    if orders.audit:
        return
    is_empty, pending = await state.run(lambda s: (s.is_empty, s.noted(AUDIT)))
    has_events = any(end for ends in sender.offsets.values() for end in ends)
    if pending:
        raise StateError(
            "the run with --audit before this one has not ended its audit; run "
            "`projector gitlab run --audit` again"
        )
    if is_empty and has_events and not orders.resend:
        raise StateError(
            "the state is empty, but the topics are not: what GitLab has removed since would stay "
            "for ever. Restore the file that PROJECTOR_GITLAB_STATE names, or run "
            "`projector gitlab run --audit`, which finds and removes it"
        )
    if has_sources and has_events and (not is_empty or orders.resend):
        await _refuse_old_state(state, settings)


async def _refuse_old_state(state: OwnThread[State], settings: Settings) -> None:
    """Refuse a state that was not the last to send, or has less than it had sent."""
    sent = await wait_until_ready("Kafka", settings.kafka, lambda: read_last_sent(settings))
    name, number = await name_of(state), await state.run(lambda s: s.last_number)
    if sent and (sent.state != name or sent.number > number):
        raise StateError(OLD_STATE)


async def name_of(state: OwnThread[State], *, renew: bool = False) -> str:
    """Return the name of the state, which its copies share; an audit gives it a new one."""

    def name(found: State) -> str:
        if renew or found.noted(NAME) is None:
            found.note(NAME, uuid4().hex)
        return str(found.noted(NAME))

    return await state.run(name)


async def end_audit(state: OwnThread[State]) -> None:
    """Note that the audit has ended; copies of the state from before count as old from now on."""
    await name_of(state, renew=True)
    await state.run(lambda found: found.note(AUDIT, None))
