"""Questions of many coroutines that are answered together."""

import asyncio
from itertools import chain

import pytest

from lib.batches import Batches


class Desk:
    """Answers questions with their upper case when ``gate`` is open, and records its calls."""

    def __init__(self, **options):
        self.calls = []
        self.gate = asyncio.Event()
        self.batches = Batches(self.answer, **options)

    async def answer(self, questions):
        self.calls.append(questions)
        await self.gate.wait()
        if "fail all" in questions:
            raise ConnectionError("no database")
        return {
            question: LookupError(question) if question == "fail" else question.upper()
            for question in questions
        }

    async def ask(self, *questions):
        """Ask all questions at the same time; return the answers and exceptions when the gate is open."""
        tasks = [asyncio.create_task(self.batches.ask(question)) for question in questions]
        await asyncio.sleep(0.01)
        self.gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)


async def test_questions_that_wait_are_answered_by_one_call():
    desk = Desk(calls=1)
    assert await desk.ask("a", "b", "c", "b", "a") == ["A", "B", "C", "B", "A"]
    # The first call may begin before the other questions arrive.
    assert sorted(chain(*desk.calls)) == ["a", "b", "c"]
    assert len(desk.calls) <= 2


async def test_question_during_a_call_is_answered_by_a_later_call():
    desk = Desk(calls=1)
    first = asyncio.create_task(desk.batches.ask("a"))
    await asyncio.sleep(0.01)
    assert desk.calls == [["a"]]

    assert await desk.ask("a") == ["A"]

    assert await first == "A"
    assert desk.calls == [["a"], ["a"]]


async def test_question_right_after_the_last_call_is_answered():
    desk = Desk(calls=1)
    desk.gate.set()
    asked = []

    def ask_at_once():
        # By hand, because a task would begin one step later, when the end of the last call is known.
        asked.append(desk.batches.ask("b"))
        asked[0].send(None)

    for delay in range(20):
        asked.clear()
        desk.calls.clear()
        first = asyncio.create_task(desk.batches.ask("a"))
        for _ in range(delay):
            await asyncio.sleep(0)
        ask_at_once()
        assert await asyncio.wait_for(first, 5) == "A"
        await asyncio.sleep(0.01)
        assert sorted(chain(*desk.calls)) == ["a", "b"], delay
        asked[0].close()


async def test_size_and_number_of_calls_are_limited():
    desk = Desk(size=2, calls=2)
    tasks = [asyncio.create_task(desk.batches.ask(str(number))) for number in range(9)]
    await asyncio.sleep(0.01)
    assert len(desk.calls) == 2
    desk.gate.set()
    await asyncio.gather(*tasks)
    assert max(map(len, desk.calls)) == 2
    assert sorted(chain(*desk.calls)) == [str(number) for number in range(9)]


async def test_questions_during_a_call_wait_for_one_call_after_it():
    desk = Desk(calls=2, patience=60)
    tasks = [asyncio.create_task(desk.batches.ask("a"))]
    for question in "bcd":
        await asyncio.sleep(0.01)
        tasks.append(asyncio.create_task(desk.batches.ask(question)))
    await asyncio.sleep(0.01)
    assert desk.calls == [["a"]]
    desk.gate.set()
    assert await asyncio.gather(*tasks) == ["A", "B", "C", "D"]
    assert desk.calls == [["a"], ["b", "c", "d"]]


async def test_questions_behind_a_slow_call_are_asked_by_another_call_after_the_patience():
    desk = Desk(calls=2, patience=0.02)
    slow = asyncio.create_task(desk.batches.ask("a"))
    await asyncio.sleep(0.01)
    quick = [asyncio.create_task(desk.batches.ask(question)) for question in "bc"]
    async with asyncio.timeout(5):
        while len(desk.calls) < 2:
            await asyncio.sleep(0.01)
    # A third call would exceed the number of calls.
    third = asyncio.create_task(desk.batches.ask("d"))
    await asyncio.sleep(0.1)
    assert desk.calls == [["a"], ["b", "c"]]
    desk.gate.set()
    assert await asyncio.gather(slow, *quick, third) == ["A", "B", "C", "D"]


async def test_exception_of_an_answer_is_raised_for_its_question_only():
    answers = await Desk(calls=1).ask("a", "fail", "b")
    assert answers[0] == "A"
    assert isinstance(answers[1], LookupError)
    assert answers[2] == "B"


async def test_exception_of_a_call_is_raised_for_all_its_questions_and_the_next_call_works():
    desk = Desk(calls=1)
    await desk.ask("x")
    failed = await asyncio.gather(
        *(desk.batches.ask(question) for question in ("a", "fail all")), return_exceptions=True
    )
    assert any(isinstance(error, ConnectionError) for error in failed)
    assert await desk.batches.ask("b") == "B"


async def test_coroutine_that_is_cancelled_does_not_cancel_the_others():
    desk = Desk(calls=1)
    first, second = (asyncio.create_task(desk.batches.ask("a")) for _ in range(2))
    await asyncio.sleep(0.01)
    first.cancel()
    desk.gate.set()
    assert await second == "A"
    with pytest.raises(asyncio.CancelledError):
        await first
