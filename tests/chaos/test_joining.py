"""Sockets that join while a log moves: whatever happens at whichever await, nothing falls between."""

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
    news = [
        NewEvent(event_id=str(uuid4()), kind="Step", source="agent", payload="{}")
        for _ in range(count)
    ]
    conversation.append(*news)
    announcing.announce_on_commit(conversation_id)


class Awaits:
    """Every await of joining passes here; ``act`` runs before or behind the one that is asked for."""

    def __init__(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at, self.is_behind = 0, False
        self.act: Callable[[], Awaitable[None]] | None = None
        self.count = 0
        monkeypatch.setattr(threads, "run_in_thread", self._passing(threads.run_in_thread))
        hub._layer = self
        self._real = get_channel_layer()
        for name in ("new_channel", "group_add"):
            setattr(self, name, self._passing(getattr(self._real, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def _passing(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def passed(*arguments: Any) -> Any:
            self.count += 1
            act = self.act if self.count == self.at else None
            if act and not self.is_behind:
                await act()
            result = await function(*arguments)
            if act and self.is_behind:
                await act()
            return result

        return passed


async def follow(hub: Hub, conversation_id: UUID, *, until: int, seconds: float = 5.0) -> list[int]:
    """What a socket that joins now is sent, up to an event or for so long."""
    seen: list[int] = []
    with contextlib.suppress(TimeoutError):
        async with (
            asyncio.timeout(seconds),
            hub.subscribe(conversation_id, after=0, epoch=1) as joined,
        ):
            async for frame in joined.frames():
                assert frame.reset_to is None, "a reset without a reason"
                if frame.seq is not None:
                    seen.append(frame.seq)
                if seen and seen[-1] >= until:
                    break
    return seen


async def play(
    monkeypatch: pytest.MonkeyPatch, at: int, *, is_behind: bool, seconds: float
) -> tuple[bool, list]:
    """One joining, at whose await number ``at`` events arrive and a second socket joins."""
    conversation = await run_in_thread(ConversationFactory)
    await run_in_thread(append, conversation.pk, BACKLOG)
    hub = Hub()
    others: list[asyncio.Task] = []
    last = BACKLOG + 4
    with monkeypatch.context() as patch:
        awaits = Awaits(hub, patch)

        async def act() -> None:
            others.append(
                asyncio.create_task(follow(hub, conversation.pk, until=last, seconds=seconds))
            )
            await run_in_thread(append, conversation.pk, 2)
            await asyncio.sleep(0.05)

        awaits.at, awaits.is_behind, awaits.act = at, is_behind, act
        first = asyncio.create_task(follow(hub, conversation.pk, until=last, seconds=seconds))
        await asyncio.sleep(0.4)
        await run_in_thread(append, conversation.pk, 2 if others else 4)
        seen = [await first, *[await other for other in others]]
        for task in hub._tasks:
            task.cancel()
    return bool(others), seen


async def test_nothing_falls_between_at_any_await(monkeypatch):
    complete = list(range(1, BACKLOG + 5))
    played = sockets = 0
    for at in range(1, 20):
        for is_behind in (False, True):
            was_reached, seen = await play(monkeypatch, at, is_behind=is_behind, seconds=10)
            assert all(one == complete for one in seen), (at, is_behind, seen)
            played += was_reached
            sockets += len(seen) if was_reached else 0
        if not was_reached:
            break

    assert played >= 6
    figure("joining while the log moves", interleavings=played, sockets=sockets, incomplete=0)


async def test_control_a_hub_that_hands_out_feeds_too_early_is_caught(monkeypatch):
    async def hasty(hub: Hub, conversation_id: UUID) -> Feed:
        return hub.feeds.get(conversation_id) or await real(hub, conversation_id)

    real = Hub._feed
    monkeypatch.setattr(Hub, "_feed", hasty)

    results = []
    for at in range(1, 5):
        for is_behind in (False, True):
            try:
                _, seen = await play(monkeypatch, at, is_behind=is_behind, seconds=2)
                results += seen
            except AssertionError as error:
                results.append(error)

    assert any(one != list(range(1, BACKLOG + 5)) for one in results)
