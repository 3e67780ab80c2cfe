"""Open streams: their limit for each user, their pings, and the repeated checks of access.

Streams with equal credentials on one conversation form a group, which is checked once. Each event loop has one task for
all groups: it pings the streams, checks all groups every ``SOCKET_RECHECK_SECONDS``, and checks the groups of a user
as soon as the user's access may have changed.
"""

import asyncio
import contextlib
import logging
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol
from uuid import UUID

from django.conf import settings

from conversations.realtime.access import Question, Refusal, Watcher, check_each
from conversations.realtime.frames import PING, Frame
from conversations.realtime.hub import get_hub
from conversations.realtime.threads import run_in_thread
from lib.logs import once_a_minute
from lib.problems import Problem

log = logging.getLogger(__name__)
CHECKED_TOGETHER = 100
"""The number of groups that one call checks."""
BURST = 200
"""The number of pings that are sent before other tasks get a turn."""
PAUSE_SECONDS = 0.005
"""The pause before a check, in which more groups are collected: a change of access often concerns several."""
NEW_GROUPS_SECONDS = 0.05
"""The pause before the check of new groups, in which more are collected: often many sockets open at once.

Their access was checked a moment ago, and changes from now on are reported. Only a change in between is found late.
"""
RETRY_SECONDS = 1.0
"""The pause before a check is repeated that failed because the database is unreachable."""


class TooManyStreams(Problem):
    """The user has as many open sockets and streams in this process as ``STREAMS_PER_USER`` allows."""

    status = 429
    code = "too-many-streams"
    sentence = "You have too many open sockets and streams. Close some of them, then try again."


class Stream(Protocol):
    """An open stream, such as a ``Subscription``. It is pinged while its watcher has access, then revoked."""

    def offer(self, frames: Sequence[Frame]) -> None: ...

    def revoke(self) -> object: ...


class UnpingedStream:
    """A stream whose protocol has its own keep-alive. ``revoke`` is called when the stream's watcher loses access."""

    __slots__ = ("revoke",)

    def __init__(self, revoke: Callable[[], object]) -> None:
        self.revoke = revoke

    def offer(self, frames: Sequence[Frame]) -> None:
        """Ignore pings."""


class _Group:
    """The watchers with equal credentials on one conversation, with their streams."""

    __slots__ = ("members", "question", "user_id")

    def __init__(self, question: Question, user_id: UUID) -> None:
        self.question, self.user_id = question, user_id
        self.members: dict[Watcher, Stream] = {}


class _Guard:
    """The groups of one event loop, and the task that pings their streams and checks their access."""

    def __init__(self) -> None:
        self._groups: dict[Question, _Group] = {}
        # The groups of each user. A user in it has a subscription to the changes of their access.
        self._of_user: dict[UUID, set[_Group]] = {}
        self._to_check: set[_Group] = set()
        self._has_work = asyncio.Event()
        # Runs out when new groups are checked; None if there are none.
        self._new_groups_timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._subscribing: set[asyncio.Task[None]] = set()

    def add(self, watcher: Watcher, stream: Stream) -> None:
        """Add a watcher to the group of its question. A new group is checked once its user's changes are received."""
        assert watcher.user_id is not None
        question = watcher.question
        group = self._groups.get(question)
        if group is None:
            group = self._groups[question] = _Group(question, watcher.user_id)
            self._add_to_user(group)
        watcher.credentials = group.question.credentials  # equal credentials: share one copy
        watcher.group = group
        group.members[watcher] = stream
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    def remove(self, watcher: Watcher) -> None:
        group: _Group = watcher.group
        watcher.group = None
        group.members.pop(watcher, None)
        if not group.members:
            self._drop(group)

    def _add_to_user(self, group: _Group) -> None:
        groups = self._of_user.get(group.user_id)
        if groups is not None:
            groups.add(group)
            # A change between the watcher's own check and now did not reach this group.
            self._to_check.add(group)
            if self._new_groups_timer is None:
                self._new_groups_timer = asyncio.get_running_loop().call_later(
                    NEW_GROUPS_SECONDS, self._check_new_groups
                )
            return
        self._of_user[group.user_id] = {group}
        self._spawn(self._subscribe(group.user_id))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        # The event loop holds only weak references to tasks.
        task = asyncio.create_task(work)
        self._subscribing.add(task)
        task.add_done_callback(self._subscribing.discard)

    async def _subscribe(self, user_id: UUID) -> None:
        await get_hub().watch_user(user_id, lambda: self._check_user(user_id))
        # A change between the watcher's own check and the subscription was missed.
        self._check_user(user_id)

    def _check_user(self, user_id: UUID) -> None:
        self._check_soon(self._of_user.get(user_id, ()))

    def _check_new_groups(self) -> None:
        self._new_groups_timer = None
        self._has_work.set()

    def _check_soon(self, groups: Iterable[_Group]) -> None:
        self._to_check.update(groups)
        self._has_work.set()

    def _drop(self, group: _Group) -> None:
        if self._groups.get(group.question) is group:
            del self._groups[group.question]
        self._to_check.discard(group)
        groups = self._of_user.get(group.user_id, set())
        groups.discard(group)
        if not groups and self._of_user.pop(group.user_id, None) is not None:
            self._spawn(get_hub().unwatch_user(group.user_id))
        if not self._groups:
            self._has_work.set()  # ends the task

    async def _run(self) -> None:
        """Check groups and ping streams until no group is left."""
        clock = asyncio.get_running_loop().time
        ping_at, recheck_at = clock() + _ping_seconds(), clock() + settings.SOCKET_RECHECK_SECONDS
        while self._groups:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(ping_at, recheck_at)):
                    await self._has_work.wait()
            if clock() >= recheck_at:
                recheck_at = clock() + settings.SOCKET_RECHECK_SECONDS
                self._to_check.update(self._groups.values())
            await self._check()
            if clock() >= ping_at:
                ping_at = clock() + _ping_seconds()
                await self._ping()

    async def _check(self) -> None:
        """Check the groups whose access may have changed. Those that cannot be checked keep their streams for now."""
        self._has_work.clear()
        if self._to_check:
            await asyncio.sleep(PAUSE_SECONDS)
        groups, self._to_check = list(self._to_check), set()
        for start in range(0, len(groups), CHECKED_TOGETHER):
            part = groups[start : start + CHECKED_TOGETHER]
            try:
                answers = await run_in_thread(check_each, [group.question for group in part])
            except Exception as error:  # noqa: BLE001 - the database is unreachable
                answers = {group.question: error for group in part}
            failed = []
            for group in part:
                answer = answers[group.question]
                if isinstance(answer, Exception):
                    failed.append(group)
                elif refusal := answer[1]:
                    self._refuse(group, refusal)
            if failed:
                asyncio.get_running_loop().call_later(RETRY_SECONDS, self._retry, failed)

    def _retry(self, groups: list[_Group]) -> None:
        self._check_soon(group for group in groups if self._groups.get(group.question) is group)

    def _refuse(self, group: _Group, refusal: Refusal) -> None:
        # Drop the group first: a watcher that starts from here on gets a new group, which is checked.
        self._drop(group)
        for watcher, stream in list(group.members.items()):
            watcher.refusal = refusal
            stream.revoke()

    async def _ping(self) -> None:
        sent = 0
        for group in list(self._groups.values()):
            for stream in list(group.members.values()):
                stream.offer([PING])
                sent += 1
                if sent % BURST == 0:
                    await asyncio.sleep(0)


def _ping_seconds() -> float:
    return float(min(settings.SOCKET_PING_SECONDS, settings.SOCKET_RECHECK_SECONDS))


_guards: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Guard]" = (
    weakref.WeakKeyDictionary()
)
_streams: Counter[UUID] = Counter()
"""The number of open sockets and streams by user. Users without one are not in it."""


@contextlib.asynccontextmanager
async def watching(watcher: Watcher, stream: Stream) -> AsyncIterator[None]:
    """While the block runs, ping a stream and check its watcher's access; revoke the stream when access is lost.

    The watcher's ``user_id`` must be set, for example by ``check_access``. Raise ``TooManyStreams`` if the user has too
    many open streams.
    """
    start_watching(watcher, stream)
    try:
        yield
    finally:
        stop_watching(watcher)


def start_watching(watcher: Watcher, stream: Stream) -> None:
    """Start to ping a stream and to check its watcher's access. The caller must call ``stop_watching`` later.

    Raise ``TooManyStreams`` if the user has as many open streams as ``STREAMS_PER_USER`` allows.
    """
    assert watcher.user_id is not None
    most = settings.STREAMS_PER_USER
    if most and _streams[watcher.user_id] >= most:
        once_a_minute(
            log,
            logging.WARNING,
            "streams",
            f"refused a stream of user {watcher.user_id}, who has {most} open (STREAMS_PER_USER)",
        )
        raise TooManyStreams(
            f"You have {most} sockets and streams open at this server, which is the limit. Close some of them, "
            "then try again."
        )
    _streams[watcher.user_id] += 1
    loop = asyncio.get_running_loop()
    guard = _guards.get(loop)
    if guard is None:
        guard = _guards[loop] = _Guard()
    guard.add(watcher, stream)


def stop_watching(watcher: Watcher) -> None:
    """Stop pinging a watcher's stream and checking its access. Safe to repeat, and safe if watching never started."""
    if watcher.group is None:
        return
    assert watcher.user_id is not None
    _streams[watcher.user_id] -= 1
    if not _streams[watcher.user_id]:
        del _streams[watcher.user_id]
    _guards[asyncio.get_running_loop()].remove(watcher)
