"""Questions of many coroutines, answered together by one call.

When a thousand sockets open at once, each needs the answer to a similar question from the database. While one call
runs, the questions that arrive wait, and the next call answers all of them. Each answer is therefore as new as one of
a call of its own: the call always begins after the question.
"""

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Hashable, Mapping
from itertools import islice
from typing import Generic, TypeVar

Q = TypeVar("Q", bound=Hashable)
A = TypeVar("A")


class Batches(Generic[Q, A]):
    """A function that coroutines call for one question, and that answers up to ``size`` questions in one call.

    ``answer`` takes a list of different questions and returns a mapping from question to answer. An answer that is an
    exception is raised for its question only. An exception of ``answer`` itself is raised for all questions of the
    call. At most ``calls`` calls run at a time in an event loop.

    A question is asked at once if there was none shortly before. Otherwise the next call waits ``pause`` seconds after
    the last one, to collect more questions: most of the time of a small call does not depend on their number. Another
    call begins while one runs only if ``size`` questions wait, or if no call has begun for ``patience`` seconds.
    """

    def __init__(
        self,
        answer: Callable[[list[Q]], Awaitable[Mapping[Q, A | Exception]]],
        *,
        size: int = 100,
        calls: int = 2,
        pause: float = 0.01,
        patience: float = 0.05,
    ) -> None:
        self._answer, self._size, self._calls = answer, size, calls
        self._pause, self._patience = pause, patience
        # Futures and tasks belong to an event loop.
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Waiting[Q, A]] = (
            weakref.WeakKeyDictionary()
        )

    async def ask(self, question: Q) -> A:
        """Return the answer to a question. Equal questions that wait at the same time are asked only once."""
        loop = asyncio.get_running_loop()
        waiting = self._loops.get(loop)
        if waiting is None:
            waiting = self._loops[loop] = _Waiting()
        future = waiting.questions.get(question)
        if future is None:
            future = waiting.questions[question] = loop.create_future()
            if not waiting.running or len(waiting.questions) >= self._size:
                self._start(waiting)
            else:
                self._start_later(waiting)
        # Shielded, because other coroutines may wait for the same answer.
        return await asyncio.shield(future)

    def _start(self, waiting: "_Waiting[Q, A]") -> None:
        """Start a task that answers questions, unless ``calls`` tasks are running."""
        if waiting.running < self._calls:
            waiting.running += 1
            task = asyncio.get_running_loop().create_task(self._run(waiting))
            waiting.tasks.add(task)
            task.add_done_callback(waiting.tasks.discard)

    def _start_later(self, waiting: "_Waiting[Q, A]") -> None:
        """Start another task if no call begins within ``patience`` seconds: one may be slow."""
        if waiting.timer is None and self._calls > 1:
            loop = asyncio.get_running_loop()
            waiting.timer = loop.call_later(
                self._patience, self._lose_patience, waiting, waiting.begun
            )

    def _lose_patience(self, waiting: "_Waiting[Q, A]", begun: int) -> None:
        waiting.timer = None
        if not waiting.questions:
            return
        if waiting.begun == begun:
            self._start(waiting)
        self._start_later(waiting)

    async def _run(self, waiting: "_Waiting[Q, A]") -> None:
        try:
            while waiting.questions:
                await self._call(waiting)
                if len(waiting.questions) >= self._size:
                    continue
                if waiting.running > 1:
                    if waiting.questions:
                        self._start_later(waiting)
                    return  # the other task continues
                await asyncio.sleep(self._pause)
        finally:
            # Here and not in a callback of the task: the next question may arrive before the callback is called.
            waiting.running -= 1

    async def _call(self, waiting: "_Waiting[Q, A]") -> None:
        """Answer up to ``size`` of the questions that wait."""
        waiting.begun += 1
        questions = list(islice(waiting.questions, self._size))
        futures = {question: waiting.questions.pop(question) for question in questions}
        try:
            answers = await self._answer(questions)
        except Exception as error:  # noqa: BLE001 - the coroutines that asked handle it
            answers = dict.fromkeys(questions, error)
        except BaseException:
            for future in futures.values():
                future.cancel()
            raise
        for question, future in futures.items():
            answer = answers[question]
            if future.done():  # every coroutine that asked was cancelled
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
                future.exception()  # without a reader, asyncio would log the exception
            else:
                future.set_result(answer)


class _Waiting(Generic[Q, A]):
    """The questions of one event loop that no call has begun to answer, and the tasks that run calls."""

    __slots__ = ("__weakref__", "begun", "questions", "running", "tasks", "timer")

    def __init__(self) -> None:
        self.questions: dict[Q, asyncio.Future[A]] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.running = 0
        """The number of tasks that still look for questions."""
        self.begun = 0
        """The number of calls that have begun."""
        self.timer: asyncio.TimerHandle | None = None
        """The timer after which another task starts if no call has begun meanwhile."""
