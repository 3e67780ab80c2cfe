"""The share of a queue's slots that one organization or user may occupy."""

import asyncio

import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from procrastinate.contrib.django import app
from procrastinate.contrib.django.models import ProcrastinateJob
from procrastinate.job_context import JobContext
from procrastinate.jobs import Job

from conversations import queue, services
from openhands_site.operating.job_queues import Queue, Shares, list_queues

pytestmark = pytest.mark.django_db(transaction=True)
NAME = "conversations.tasks.interrupt_agent"


def make_context(conversation, *, attempts=0, name=NAME):
    kwargs = {"conversation_id": str(conversation.pk)} if conversation else {"timestamp": 1}
    job = Job(
        id=1,
        queue=queue.URGENT,
        lock="a lock",
        queueing_lock=None,
        task_name=name,
        task_kwargs=kwargs,
        attempts=attempts,
    )
    return JobContext(app=app, job=job, start_timestamp=0.0, abort_reason=lambda: None)


class Slots:
    """Jobs that run until ``release`` is set, under the shares of a queue."""

    def __init__(self, slots):
        self.shares = Shares(Queue(queue.URGENT, slots))
        self.release = asyncio.Event()
        self.running = 0
        self.tasks = []

    async def _run(self):
        self.running += 1
        await self.release.wait()
        self.running -= 1

    async def start(self, conversation, **options):
        """Start a job; return whether it runs. It does not run if it was postponed."""
        before = self.shares.postponed
        running = self.running
        task = asyncio.create_task(
            self.shares(self._run, make_context(conversation, **options), None)
        )
        self.tasks.append(task)
        while self.running == running and self.shares.postponed == before and not task.done():
            await asyncio.sleep(0.005)
        if self.shares.postponed > before:
            await task
        return self.running > running

    async def end(self):
        self.release.set()
        await asyncio.gather(*self.tasks)
        await sync_to_async(connections.close_all)()


async def test_job_beyond_share_of_user_is_postponed_and_another_users_job_runs(alice, bob):
    create = sync_to_async(services.create_conversation)
    own = [await create(user=alice) for _ in range(5)]
    other = await create(user=bob)
    slots = Slots(32)

    results = [await slots.start(conversation) for conversation in own]

    assert results == [True] * 4 + [False]
    assert await slots.start(other)
    await slots.end()


async def test_postponed_job_keeps_its_attempts_and_is_due_later(alice):
    create = sync_to_async(services.create_conversation)
    conversation = await create(user=alice)
    slots = Slots(8)
    for _ in range(2):
        assert await slots.start(conversation)

    assert not await slots.start(conversation, attempts=7)
    assert not await slots.start(conversation, attempts=8)

    rows = await sync_to_async(
        lambda: list(ProcrastinateJob.objects.filter(task_name=NAME).order_by("id"))
    )()
    assert [(row.attempts, row.queue_name, row.lock, row.status) for row in rows] == [
        (7, "urgent", "a lock", "todo"),
        (8, "urgent", "a lock", "todo"),
    ]
    assert rows[0].scheduled_at < rows[1].scheduled_at
    assert rows[0].args == {"conversation_id": str(conversation.pk)}
    await slots.end()


async def test_share_is_free_again_when_jobs_end(alice):
    create = sync_to_async(services.create_conversation)
    conversation = await create(user=alice)
    slots = Slots(8)
    for _ in range(2):
        assert await slots.start(conversation)
    await slots.end()
    slots.release.clear()
    slots.tasks.clear()

    assert await slots.start(conversation)
    await slots.end()


async def test_job_without_conversation_is_never_postponed():
    slots = Slots(4)

    assert [await slots.start(None) for _ in range(4)] == [True] * 4
    await slots.end()


def test_each_queue_leaves_room_for_four_organizations_and_eight_users():
    for listed in list_queues():
        assert listed.per_organization * 4 <= listed.slots
        assert listed.per_user * 8 <= listed.slots


def test_every_task_is_in_a_queue_that_workers_serve():
    served = {listed.name for listed in list_queues()}
    own = [task for task in app.tasks.values() if task.queue != "builtin"]

    assert own
    assert {task.queue for task in own} <= served
