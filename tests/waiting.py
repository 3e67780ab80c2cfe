"""Waiting for a condition, with a sentence if it does not come true."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T], what: str, *, seconds: float = 30, pause: float = 0.05
) -> T:
    """Call ``condition`` until its result is true, and return that result.

    Fail with a sentence that contains ``what`` and the last result after ``seconds``. ``what`` completes
    "Waited for …", for example "the manager to claim the conversation". ``pause`` is the time between two calls.
    """
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() >= deadline:
            pytest.fail(_sentence(what, seconds, result))
        time.sleep(pause)
    return result


async def wait_until_async(
    condition: Callable[[], T | Awaitable[T]],
    what: str,
    *,
    seconds: float = 30,
    pause: float = 0.05,
) -> T:
    """Like ``wait_until``, without blocking the event loop; ``condition`` may be a coroutine function."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if isinstance(result, Awaitable):
            result = await result
        if result:
            return result
        if time.monotonic() >= deadline:
            pytest.fail(_sentence(what, seconds, result))
        await asyncio.sleep(pause)


def _sentence(what: str, seconds: float, result: object) -> str:
    return f"Waited {seconds:g} s for {what}; the last result was {result!r}."
