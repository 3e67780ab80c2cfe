"""Sockets that join while events arrive. The events arrive before and after each await of the joining."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from channels.layers import get_channel_layer
from django.db import transaction

from conversations import announcing
from conversations.models import Conversation, NewEvent
from conversations.realtime import threads
from conversations.realtime.feed import Feed
from conversations.realtime.hub import Hub
from conversations.realtime.threads import run_in_thread
from tests.factories.conversations import ConversationFactory
from tests.fakes.stack import figure

pytestmark = pytest.mark.django_db(transaction=True)
BACKLOG = 5


@transaction.atomic
def append(conversation_id: UUID, count: int) -> None:
    conversation = Conversation.objects.select_for_update().get(pk=conversation_id)
    events = [
        NewEvent(event_id=str(uuid4()), kind="Step", source="agent", payload="{}")
        for _ in range(count)
    ]
    conversation.append(*events)
    announcing.announce_on_commit(conversation_id)


class AwaitCounter:
    """A wrapper of all awaits of the joining, which runs ``act`` before or after await number ``at``."""

    def __init__(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at, self.is_after = 0, False
        self.act: Callable[[], Awaitable[None]] | None = None
        self.count = 0
        monkeypatch.setattr(threads, "run_in_thread", self._wrap(threads.run_in_thread))
        hub._layer = self
        self._real = get_channel_layer()
        for name in ("new_channel", "group_add"):
            setattr(self, name, self._wrap(getattr(self._real, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def _wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*arguments: Any) -> Any:
            self.count += 1
            act = self.act if self.count == self.at else None
            if act and not self.is_after:
                await act()
            result = await function(*arguments)
            if act and self.is_after:
                await act()
            return result

        return call


async def follow(hub: Hub, conversation_id: UUID, *, until: int, seconds: float = 5.0) -> list[int]:
    """Join a conversation; return the numbers of the events received, up to event ``until`` or for ``seconds``."""
    seen: list[int] = []
    with contextlib.suppress(TimeoutError):
        async with (
            asyncio.timeout(seconds),
            hub.subscribe(conversation_id, after=0, epoch=1) as subscription,
        ):
            async for frame in subscription.frames():
                assert frame.reset_to is None, "a reset without a reason"
                if frame.seq is not None:
                    seen.append(frame.seq)
                if seen and seen[-1] >= until:
                    break
    return seen


async def join_while_events_arrive(
    monkeypatch: pytest.MonkeyPatch, at: int, *, is_after: bool, seconds: float
) -> tuple[bool, list]:
    """Join a conversation; at await number ``at`` two events arrive and a second socket joins.

    Return whether that await was reached, and the events that each socket received.
    """
    conversation = await run_in_thread(ConversationFactory)
    await run_in_thread(append, conversation.pk, BACKLOG)
    hub = Hub()
    others: list[asyncio.Task] = []
    last = BACKLOG + 4
    with monkeypatch.context() as patch:
        counter = AwaitCounter(hub, patch)

        async def act() -> None:
            others.append(
                asyncio.create_task(follow(hub, conversation.pk, until=last, seconds=seconds))
            )
            await run_in_thread(append, conversation.pk, 2)
            await asyncio.sleep(0.05)

        counter.at, counter.is_after, counter.act = at, is_after, act
        first = asyncio.create_task(follow(hub, conversation.pk, until=last, seconds=seconds))
        await asyncio.sleep(0.4)
        await run_in_thread(append, conversation.pk, 2 if others else 4)
        seen = [await first, *[await other for other in others]]
        for task in hub._tasks:
            task.cancel()
    return bool(others), seen


async def test_joining_sockets_miss_no_event_at_any_await(monkeypatch):
    complete = list(range(1, BACKLOG + 5))
    interleavings = sockets = 0
    for at in range(1, 20):
        for is_after in (False, True):
            was_reached, seen = await join_while_events_arrive(
                monkeypatch, at, is_after=is_after, seconds=10
            )
            assert all(events == complete for events in seen), (at, is_after, seen)
            interleavings += was_reached
            sockets += len(seen) if was_reached else 0
        if not was_reached:
            break

    assert interleavings >= 6
    figure(
        "joining while the log moves", interleavings=interleavings, sockets=sockets, incomplete=0
    )


async def test_control_hub_that_returns_feeds_before_they_listen_loses_events(monkeypatch):
    async def return_feed_early(hub: Hub, conversation_id: UUID, after: int) -> Feed:
        return hub.feeds.get(conversation_id) or await original(hub, conversation_id, after)

    original = Hub._feed
    monkeypatch.setattr(Hub, "_feed", return_feed_early)

    results = []
    for at in range(1, 5):
        for is_after in (False, True):
            try:
                _, seen = await join_while_events_arrive(
                    monkeypatch, at, is_after=is_after, seconds=2
                )
                results += seen
            except AssertionError as error:
                results.append(error)

    assert any(result != list(range(1, BACKLOG + 5)) for result in results)
