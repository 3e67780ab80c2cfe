"""An idle manager: what it asks the database, and how soon it finds work without a nudge."""

import asyncio
import contextlib
import time
from datetime import timedelta

import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from django.utils import timezone

from conversations import services
from conversations.manager import manager as manager_module
from conversations.models import Conversation, Lease, LiveManager, Sandbox
from lib.threads import DatabaseThreads

pytestmark = pytest.mark.django_db(transaction=True)
CALLS = ("renew_manager", "take_census", "claim_conversations", "collect_egress", "list_leases")
OWNER = "manager-of-this-test"


@pytest.fixture
def manager(monkeypatch):
    """Return a function that runs a manager without nudges, and the names of the services that it calls."""
    monkeypatch.setattr(
        # Threads that keep their connections end only with the process.
        manager_module,
        "DatabaseThreads",
        lambda name, size, **_: DatabaseThreads(name, size),
    )
    monkeypatch.setattr(
        manager_module.Manager, "_receive_nudges", lambda self: asyncio.Event().wait()
    )
    calls = []
    for name in CALLS:
        monkeypatch.setattr(services, name, record(calls, name, getattr(services, name)))

    @contextlib.asynccontextmanager
    async def run():
        made = manager_module.Manager(OWNER)
        running = asyncio.create_task(made.run())
        try:
            await until(lambda: made.keeper.is_registered)
            await asyncio.sleep(0.5)
            yield made, calls
        finally:
            made.stopping.set()
            await running
            await sync_to_async(connections.close_all)()

    return run


def record(calls, name, function):
    def call(**arguments):
        calls.append(name)
        return function(**arguments)

    return call


async def until(is_true, *, seconds=20):
    """Return the seconds until ``is_true()``."""
    began = time.monotonic()
    async with asyncio.timeout(seconds):
        while not is_true():
            await asyncio.sleep(0.02)
    return time.monotonic() - began


async def test_idle_manager_only_renews_its_registration(manager):
    async with manager() as (_, calls):
        calls.clear()
        await asyncio.sleep(5)
        made = list(calls)

    assert set(made) == {"renew_manager"}
    assert 2 <= len(made) <= 3


async def test_free_conversation_is_followed_without_a_nudge(manager, running):
    await sync_to_async(Lease.objects.update)(owner="", is_wanted=False)
    async with manager() as (made, _):
        await sync_to_async(Lease.objects.update)(is_wanted=True)
        seconds = await until(lambda: made.followers)

    assert seconds < manager_module.LOOK_SECONDS + 1


async def test_live_manager_takes_over_the_conversation_of_a_dead_one(manager, running):
    @sync_to_async
    def leave_dead_manager():
        now = timezone.now()
        LiveManager.objects.all().delete()
        LiveManager.objects.create(
            owner="dead",
            capacity=9,
            followed=1,
            started_at=now,
            expires_at=now + timedelta(seconds=3),
        )
        Lease.objects.update(owner="dead", is_wanted=True)

    await leave_dead_manager()
    began = time.monotonic()
    async with manager() as (made, _):
        await until(lambda: made.followers)
        seconds = time.monotonic() - began

    # The manager may not take a conversation from a live manager, and takes it a round of claims after its end.
    assert 3 <= seconds < 3 + manager_module.CLAIM_SECONDS + 1


async def test_decisions_of_a_starting_sandbox_are_collected_by_an_idle_manager(manager, running):
    await sync_to_async(Lease.objects.update)(owner="", is_wanted=False)
    async with manager() as (made, calls):
        calls.clear()
        await asyncio.sleep(1.5)
        assert "collect_egress" not in calls
        conversations = Conversation.objects.filter(pk=running.pk)
        await sync_to_async(Sandbox.objects.filter(conversation__in=conversations).update)(
            observed=Sandbox.Observed.STARTING
        )

        seconds = await until(lambda: "collect_egress" in calls)
        assert not made.followers

    assert seconds < manager_module.LOOK_SECONDS + manager_module.EGRESS_SECONDS + 0.5
