"""Verifications that wait for their turn of the event loop."""

import asyncio
from pathlib import Path

import pytest

from api.lookup_request import LookupRequest
from api.read_batcher import OverloadedError
from api.tokens import verification_queue
from api.tokens.signed_tokens import SignedTokens
from api.tokens.verification_queue import VerificationQueue
from tests.job_tokens import JOB
from tests.unit.api.lookup_world import LookupWorld, soon
from tests.unit.api.test_signed_lookup import SignedWorld
from tests.unit.api.tokens.test_signed_tokens import flipped

FORGED = 16


async def turn() -> None:
    """Let the loop call what is ready now."""
    await asyncio.sleep(0)


async def test_one_is_called_a_turn_in_their_order() -> None:
    queue, called = VerificationQueue(), list[int]()
    for number in range(5):
        queue.add(lambda number=number: called.append(number))  # type: ignore[misc]
    for turns in range(7):
        assert called == list(range(min(turns, 5)))
        await turn()


async def test_one_that_is_added_by_another_waits_for_the_next_turn() -> None:
    queue, called = VerificationQueue(), list[int]()

    def first() -> None:
        called.append(1)
        queue.add(lambda: called.append(2))

    queue.add(first)
    await turn()
    assert called == [1]
    await turn()
    assert called == [1, 2]


async def test_after_an_error_the_others_are_called() -> None:
    queue, called, errors = VerificationQueue(), list[int](), list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))

    def fail() -> None:
        raise ValueError("x")

    queue.add(fail)
    queue.add(lambda: called.append(1))
    for _ in range(3):
        await turn()
    assert called == [1]
    assert len(errors) == 1


async def test_beyond_the_bound_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification_queue, "MAX_QUEUED", 2)
    queue, called = VerificationQueue(), list[int]()
    queue.add(lambda: called.append(1))
    queue.add(lambda: called.append(2))
    with pytest.raises(OverloadedError):
        queue.add(lambda: called.append(3))
    for _ in range(3):
        await turn()
    assert called == [1, 2]


# lookups


class Turns:
    """Counts turns of the loop, and the verifications in each."""

    def __init__(self, signed: SignedTokens, monkeypatch: pytest.MonkeyPatch) -> None:
        self.each: list[int] = [0]
        self._check = signed._check
        monkeypatch.setattr(signed, "_check", self._counted)
        asyncio.get_running_loop().call_soon(self._next)

    def _counted(self, *args: object) -> object:
        self.each[-1] += 1
        return self._check(*args)  # type: ignore[arg-type]

    def _next(self) -> None:
        self.each.append(0)
        asyncio.get_running_loop().call_soon(self._next)


@pytest.fixture
def signed(lookup_world: LookupWorld, tmp_path: Path) -> SignedWorld:
    return SignedWorld(lookup_world, tmp_path)


async def test_a_known_token_beside_a_flood_waits_for_one_verification_a_turn(
    signed: SignedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await signed.put(f"allowed-agents:job:{JOB}")
    assert (await signed.ask()).status == 200
    assert signed.world.signed is not None
    turns = Turns(signed.world.signed, monkeypatch)
    forged = [flipped(signed.signed_now(jti=str(number))) for number in range(FORGED)]
    tasks = [asyncio.create_task(signed.ask(token)) for token in forged]
    assert (await signed.ask()).status == 200
    assert max(turns.each) == 1
    assert [(await task).status for task in tasks] == [401] * FORGED
    assert max(turns.each) == 1
    assert sum(turns.each) == FORGED


async def test_a_known_token_overtakes_those_that_wait(signed: SignedWorld) -> None:
    await signed.put(f"allowed-agents:job:{JOB}")
    await signed.ask()
    replies: list[int] = []

    def noted(status: int, _head: bytes, _body: bytes) -> None:
        replies.append(status)

    forged = [flipped(signed.signed_now(jti=str(number))) for number in range(200)]
    for token in [*forged, signed.token]:
        signed.world.lookup.ask(LookupRequest(token.encode(), None), noted)
    while len(replies) < len(forged) + 1:
        await turn()
    assert replies.index(200) < len(forged)
    assert sorted(replies) == [200, *[401] * len(forged)]


async def test_a_client_that_has_gone_costs_the_others_nothing(signed: SignedWorld) -> None:
    await signed.put(f"allowed-agents:job:{JOB}")
    gone = asyncio.create_task(signed.world.ask(signed.token))
    stays = asyncio.create_task(signed.world.ask(signed.signed_now(jti="2")))
    await turn()
    gone.cancel()
    assert (await soon(stays)).status == 200
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_beyond_the_bound_an_unknown_token_is_503_and_a_known_one_is_answered(
    signed: SignedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await signed.put(f"allowed-agents:job:{JOB}")
    await signed.ask()
    monkeypatch.setattr(verification_queue, "MAX_QUEUED", 0)
    assert (await signed.ask()).status == 200
    reply = await signed.ask(signed.signed_now(jti="2"))
    assert (reply.status, b"too many lookups are waiting" in reply.body) == (503, True)


async def test_an_error_of_one_verification_is_its_own(
    signed: SignedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await signed.put(f"allowed-agents:job:{JOB}")
    assert signed.world.signed is not None
    verify, broken = signed.world.signed.verify, signed.token.encode()

    def failing(token: bytes, *args: object) -> object:
        if token == broken:
            raise RuntimeError("x")
        return verify(token, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(signed.world.signed, "verify", failing)
    replies = await asyncio.gather(signed.ask(), signed.ask(signed.signed_now(jti="2")))
    assert [reply.status for reply in replies] == [503, 200]
