"""Calls of the same turn are one question, and each caller is as well off as with its own."""

import asyncio

from projector.joined_calls import Calls, JoinedCalls


class Server:
    """Answers each key with the number of the question."""

    def __init__(self) -> None:
        self.questions: list[list[str]] = []
        self.asked = asyncio.Event()
        self.answering = asyncio.Event()
        self.answering.set()
        self.calls: JoinedCalls[str, int] = JoinedCalls(self.question)

    async def question(self, calls: Calls[str, int]) -> None:
        self.questions.append(list(calls))
        self.asked.set()
        number = len(self.questions)
        await self.answering.wait()
        for key in calls:
            if key == "broken":
                raise ConnectionError("no answer")
            if key == "refused":
                calls.fail(key, ValueError(key))
            else:
                calls.answer(key, number)

    async def ask(self, key: str) -> int:
        return await self.calls.ask(key)


async def test_calls_of_one_turn_are_one_question() -> None:
    server = Server()
    assert await asyncio.gather(*map(server.ask, "abab")) == [1, 1, 1, 1]
    assert server.questions == [["a", "b"]]


async def test_a_later_call_gets_a_later_question_and_waits_for_no_other() -> None:
    """What was asked before the call may be older than what the caller knows."""
    server = Server()
    server.answering.clear()
    first = asyncio.create_task(server.ask("a"))
    await server.asked.wait()
    server.answering.set()
    assert await server.ask("a") == 2
    assert await first == 1


async def test_a_caller_that_gives_up_takes_the_answer_from_no_other() -> None:
    server = Server()
    server.answering.clear()
    impatient, patient = (asyncio.create_task(server.ask("a")) for _ in range(2))
    other = asyncio.create_task(server.ask("b"))
    await server.asked.wait()
    impatient.cancel()
    await asyncio.wait([impatient])
    assert impatient.cancelled()
    server.answering.set()
    async with asyncio.timeout(5):
        assert (await patient, await other) == (1, 1)


async def test_the_error_of_one_key_is_that_of_its_callers_alone() -> None:
    server = Server()
    found = await asyncio.gather(*map(server.ask, ("a", "refused", "b")), return_exceptions=True)
    assert [found[0], found[2]] == [1, 1]
    assert isinstance(found[1], ValueError)


async def test_the_error_of_a_question_is_that_of_the_keys_that_are_left() -> None:
    server = Server()
    found = await asyncio.gather(*map(server.ask, ("a", "broken", "b")), return_exceptions=True)
    assert found[0] == 1
    assert all(isinstance(error, ConnectionError) for error in found[1:])
    assert await server.ask("b") == 2


async def test_a_question_that_ends_without_an_answer_leaves_no_caller_waiting() -> None:
    async def forget(_: Calls[str, int]) -> None: ...

    calls: JoinedCalls[str, int] = JoinedCalls(forget)
    done, _ = await asyncio.wait([calls.ask("a")], timeout=1)
    assert [answer.cancelled() for answer in done] == [True]
