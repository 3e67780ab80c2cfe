"""The functions of ``tests.waiting``."""

import pytest

from tests.waiting import wait_until, wait_until_async


def test_wait_until_returns_the_first_true_result():
    results = iter([0, None, "ready"])

    assert wait_until(lambda: next(results), "the result", pause=0) == "ready"


def test_wait_until_fails_with_a_sentence_after_its_time():
    with pytest.raises(pytest.fail.Exception) as failure:
        wait_until(lambda: 0, "the engine to start", seconds=0)

    assert str(failure.value) == "Waited 0 s for the engine to start; the last result was 0."


async def test_wait_until_async_accepts_functions_and_coroutine_functions():
    async def return_two():
        return 2

    assert await wait_until_async(lambda: 1, "a number") == 1
    assert await wait_until_async(return_two, "a number") == 2
    with pytest.raises(pytest.fail.Exception, match="Waited 0 s for nothing"):
        await wait_until_async(lambda: None, "nothing", seconds=0)
