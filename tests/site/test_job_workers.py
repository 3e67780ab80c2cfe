"""The workers of one process: when they start jobs, and how seldom they ask the database while there are none."""

import asyncio
import contextlib
import time
from uuid import uuid4

import pytest
from asgiref.sync import sync_to_async
from django.db import connection, connections
from procrastinate.contrib.django import app

from conversations import queue
from openhands_site.operating import job_workers
from openhands_site.operating.job_queues import Queue
from openhands_site.operating.job_workers import JobWorkers, make_connector

pytestmark = pytest.mark.django_db(transaction=True)
NO_TASK = "no.such.task"
"""Jobs of a task that does not exist fail at once, and their rows stay."""

QUICK_TASK = "conversations.tasks.retry_stalled_jobs"


class Process:
    """The workers of a process, and the statements that they send."""

    def __init__(self, *, job_seconds=0.0):
        async def work(call_next, context, worker):
            await asyncio.sleep(job_seconds)
            return await call_next()

        self.group = JobWorkers(app)
        for name in (queue.URGENT, queue.LONG):
            self.group.add(
                Queue(name, 8), [name], install_signal_handlers=False, worker_middleware=[work]
            )
        self.statements = []

    @contextlib.asynccontextmanager
    async def run(self):
        connector = make_connector()
        for name in ("execute_query_async", "execute_query_one_async", "execute_query_all_async"):
            setattr(connector, name, self._count(getattr(connector, name)))
        with app.replace_connector(connector):
            async with app.open_async():
                workers = [asyncio.create_task(worker.work()) for worker in self.group.workers]
                await asyncio.sleep(0.5)
                try:
                    yield self
                finally:
                    for worker in workers:
                        worker.cancel()
                    await asyncio.gather(*workers, return_exceptions=True)
                    await sync_to_async(connections.close_all)()

    def _count(self, execute):
        async def counted(query, **arguments):
            self.statements.append(query)
            return await execute(query, **arguments)

        return counted


@sync_to_async
def insert(name=queue.LONG, *, task=NO_TASK, lock=None, in_seconds=None, silently=False):
    """Insert a job and return its id. With ``silently``, no worker is notified."""
    with connection.cursor() as cursor, without_trigger(cursor, "inserted_v1" if silently else ""):
        cursor.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, args, lock, scheduled_at) "
            "VALUES (%s, %s, '{}', %s, now() + make_interval(secs => %s)) RETURNING id",
            [name, task, lock, in_seconds],
        )
        return cursor.fetchone()[0]


@contextlib.contextmanager
def without_trigger(cursor, name):
    """Disable a trigger of procrastinate that notifies workers of a job, if a name is given."""
    trigger = f"TRIGGER procrastinate_jobs_notify_queue_job_{name}"
    if name:
        cursor.execute(f"ALTER TABLE procrastinate_jobs DISABLE {trigger}")
    yield
    if name:
        cursor.execute(f"ALTER TABLE procrastinate_jobs ENABLE {trigger}")


@sync_to_async
def request_abort(job_id):
    """Ask to abort a job, without a notification of the workers."""
    with connection.cursor() as cursor, without_trigger(cursor, "aborted_v1"):
        cursor.execute(
            "UPDATE procrastinate_jobs SET abort_requested = true WHERE id = %s", [job_id]
        )


@sync_to_async
def read_status(job_id):
    with connection.cursor() as cursor:
        cursor.execute("SELECT status FROM procrastinate_jobs WHERE id = %s", [job_id])
        row = cursor.fetchone()
    return row and row[0]  # successful jobs are deleted


async def seconds_until_done(job_id, *, within=10):
    began = time.monotonic()
    while await read_status(job_id) in ("todo", "doing"):
        assert time.monotonic() - began < within
        await asyncio.sleep(0.01)
    return time.monotonic() - began


async def test_new_job_starts_at_once():
    async with Process().run():
        for name in (queue.URGENT, queue.LONG):
            assert await seconds_until_done(await insert(name)) < 0.5


async def test_scheduled_job_starts_within_a_second_of_its_time():
    async with Process().run():
        seconds = await seconds_until_done(await insert(in_seconds=1.2))

    assert 1.0 < seconds < 2.2


async def test_next_job_of_a_lock_starts_when_the_lock_is_free():
    async with Process(job_seconds=0.8).run():
        await insert(task=QUICK_TASK, lock="a")
        second = await insert(task=QUICK_TASK, lock="a")

        # Twice the time of a job, and less than one pause between two looks.
        assert 1.6 < await seconds_until_done(second) < 2.2


async def test_job_without_an_announcement_is_found(monkeypatch):
    async with Process().run():
        job_id = await insert(silently=True)

        assert await seconds_until_done(job_id) < job_workers.LOOK_SECONDS + 1


async def test_abort_without_an_announcement_is_found():
    async with Process(job_seconds=60).run():
        job_id = await insert(task=QUICK_TASK)
        while await read_status(job_id) != "doing":
            await asyncio.sleep(0.05)
        await request_abort(job_id)

        assert await seconds_until_done(job_id) < job_workers.LOOK_SECONDS + 1
        assert await read_status(job_id) == "aborted"


async def test_job_whose_delay_is_removed_starts_at_once():
    conversation_id = uuid4()
    async with Process().run():
        job_id = await insert(lock=f"start:{conversation_id}", in_seconds=600)
        await asyncio.sleep(0.5)
        await sync_to_async(queue.hasten_start)(conversation_id)

        assert await seconds_until_done(job_id) < 1


async def test_idle_workers_send_one_statement_at_a_time_and_keep_their_heartbeat():
    process = Process()
    async with process.run():
        process.statements.clear()
        await asyncio.sleep(5)
        # Jobs that are due every ten seconds are queued by a statement of their own.
        sent = [text for text in process.statements if "defer_periodic_job" not in text]
        ages = await read_heartbeats()

    assert 2 <= len(sent) <= 4
    assert set(sent) == {job_workers._LOOK}
    assert len(ages) == 2
    assert max(ages) < job_workers.LOOK_SECONDS + 1


@sync_to_async
def read_heartbeats():
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT extract(epoch FROM clock_timestamp() - last_heartbeat) FROM procrastinate_workers"
        )
        return [float(age) for (age,) in cursor.fetchall()]


@sync_to_async
def leave_job_of_a_dead_worker(name):
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - interval '1 hour') RETURNING id"
        )
        cursor.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, args, status, worker_id) "
            "VALUES (%s, %s, '{}', 'doing', %s) RETURNING id",
            [name, NO_TASK, cursor.fetchone()[0]],
        )
        return cursor.fetchone()[0]


async def test_job_of_a_dead_worker_runs_again():
    process = Process()
    process.group.add(Queue(queue.DEFAULT, 4), [queue.DEFAULT], install_signal_handlers=False)
    async with process.run():
        job_id = await leave_job_of_a_dead_worker(queue.LONG)

        assert await seconds_until_done(job_id) < 2 * job_workers.LOOK_SECONDS + 1


async def test_worker_ends_when_a_look_fails(monkeypatch):
    process = Process()

    async def fail():
        raise OSError("no database")

    async with process.run():
        monkeypatch.setattr(process.group, "_look", fail)
        leading = process.group.workers[0]
        ended = asyncio.create_task(until(lambda: leading.worker_id is None))

        await asyncio.wait_for(ended, job_workers.LOOK_SECONDS + 3)


async def until(is_true):
    while not is_true():
        await asyncio.sleep(0.05)
