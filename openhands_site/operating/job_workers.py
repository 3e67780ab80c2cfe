"""The workers of one process, one for each job queue, which wait for jobs together instead of polling one by one.

procrastinate runs a connection that listens, a heartbeat, a poll and a clock of periodic jobs for each worker. Here the
workers of a process share one of each. One small statement every ``LOOK_SECONDS`` is the heartbeat of all workers. It
also asks for jobs that are due, for the time of the next scheduled job, for jobs to abort and for jobs of dead workers.
PostgreSQL announces new jobs and requests to abort, so they do not wait for that statement.
"""

import asyncio
import contextlib
from collections.abc import Collection, Coroutine
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from procrastinate import App
from procrastinate.contrib.django import utils
from procrastinate.exceptions import AlreadyEnqueued
from procrastinate.jobs import Notification
from procrastinate.manager import get_channel_for_queues
from procrastinate.psycopg_connector import PsycopgConnector
from procrastinate.worker import Worker

from conversations import queue
from openhands_site.operating.job_queues import Queue

LOOK_SECONDS = 2.0
"""The longest pause between two looks. A job whose announcement was lost starts this late."""
SPACING_SECONDS = 0.25
"""The shortest pause between two looks. A scheduled job may start this late."""
CONNECTIONS = 4
"""The largest number of connections with which the workers of a process fetch and finish jobs."""
_LOOK = """
WITH beat AS (
    UPDATE procrastinate_workers SET last_heartbeat = now() WHERE id = ANY(%(workers)s)
)
SELECT
    ARRAY(
        SELECT DISTINCT queue_name FROM procrastinate_jobs
        WHERE status = 'todo' AND (scheduled_at IS NULL OR scheduled_at <= now())
    ) AS due,
    (
        SELECT extract(epoch FROM min(scheduled_at) - now())::float FROM procrastinate_jobs
        WHERE status = 'todo' AND scheduled_at > now()
    ) AS next_seconds,
    ARRAY(SELECT id FROM procrastinate_jobs WHERE status = 'doing' AND abort_requested) AS to_abort,
    EXISTS (
        SELECT FROM procrastinate_jobs AS job LEFT JOIN procrastinate_workers AS worker ON worker.id = job.worker_id
        WHERE job.status = 'doing'
            AND (job.worker_id IS NULL OR worker.last_heartbeat < now() - make_interval(secs => %(stalled)s))
    ) AS has_stalled
"""


@dataclass(frozen=True)
class Look:
    """The result of one look at the jobs."""

    due: Collection[str]
    """The queues that have jobs to run now. Some of these jobs may wait for a lock."""
    next_seconds: float | None
    """The seconds until the next scheduled job, or None if there is none."""
    to_abort: Collection[int]
    """The ids of running jobs that are to be aborted."""
    has_stalled: bool
    """Whether a worker died and its jobs have to run again."""


class JobWorkers:
    """The workers of this process."""

    def __init__(self, app: App) -> None:
        self.app = app
        self._workers: dict[str, QueueWorker] = {}
        self._changed = asyncio.Event()

    @property
    def workers(self) -> "list[QueueWorker]":
        """The workers, each once."""
        return list(dict.fromkeys(self._workers.values()))

    def add(self, served: Queue, names: Collection[str], **options: Any) -> None:
        """Add a worker with the slots of a queue, which takes jobs from the queues ``names``. ``work`` starts it.

        ``options`` are those of ``procrastinate.worker.Worker``. The first worker also does what all workers share, so
        it ends when that fails, for example without a database.
        """
        worker = QueueWorker(
            self,
            leads=not self._workers,
            **{**self.app.worker_defaults, **options},
            name=served.name,
            queues=list(names),
            concurrency=served.slots,
        )
        self._workers |= dict.fromkeys(names, worker)

    def note_change(self) -> None:
        """Look for jobs soon, because a job has ended or was scheduled."""
        self._changed.set()

    def shared_work(self) -> list[Coroutine[Any, Any, None]]:
        """Return the work that all workers share. Each coroutine runs until it is cancelled or fails."""
        return [self._keep_looking(), self._listen()]

    async def _listen(self) -> None:
        await self.app.job_manager.listen_for_jobs(
            on_notification=self._receive, queues=list(self._workers)
        )

    async def _receive(self, *, channel: str, notification: Notification) -> None:
        for name, worker in self._workers.items():
            if channel in get_channel_for_queues([name]):
                await worker.receive(channel=channel, notification=notification)
        self.note_change()  # the new job may be scheduled for later

    async def _keep_looking(self) -> None:
        while True:
            self._changed.clear()
            look = await self._look()
            for worker in {self._workers[name] for name in look.due if name in self._workers}:
                worker.wake()
            for worker in self.workers if look.to_abort else ():
                worker.abort(look.to_abort)
            if look.has_stalled:
                with contextlib.suppress(AlreadyEnqueued):
                    await queue.retry_stalled_jobs()
            await asyncio.sleep(SPACING_SECONDS)
            pause = LOOK_SECONDS
            if look.next_seconds is not None:
                pause = min(pause, look.next_seconds)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, pause - SPACING_SECONDS)):
                    await self._changed.wait()

    async def _look(self) -> Look:
        workers = [worker.worker_id for worker in self.workers if worker.worker_id]
        row = await self.app.connector.execute_query_one_async(
            _LOOK, workers=workers, stalled=settings.WORKER_STALLED_SECONDS
        )
        return Look(**row)


class QueueWorker(Worker):
    """A worker whose jobs are announced by ``JobWorkers``."""

    def __init__(self, group: JobWorkers, *, leads: bool, **options: Any) -> None:
        super().__init__(group.app, **options)
        # ``JobWorkers`` looks for jobs, so this worker need not.
        self.fetch_job_polling_interval = 3_600.0
        self._group = group
        self._leads = leads

    def wake(self) -> None:
        """Fetch jobs now."""
        self._new_job_event.set()

    def abort(self, job_ids: Collection[int]) -> None:
        """Abort those of the jobs that this worker runs. Safe to repeat."""
        self._handle_abort_jobs_requested(job_ids)

    async def work(self) -> None:
        """Run jobs until the task of this call is cancelled."""
        await self.run()  # type: ignore[no-untyped-call]

    async def receive(self, *, channel: str, notification: Notification) -> None:
        """Handle an announcement: a new job, or a request to abort a running one."""
        await self._handle_notification(channel=channel, notification=notification)

    def _start_side_tasks(self) -> list[asyncio.Task[Any]]:
        if not self._leads:
            return [asyncio.create_task(asyncio.Event().wait(), name="nothing")]
        work = [self._defer_periodic_jobs(), *self._group.shared_work()]
        return [asyncio.create_task(part) for part in work]

    async def _defer_periodic_jobs(self) -> None:
        await self._periodic_deferrer()  # type: ignore[no-untyped-call]

    async def _persist_job_status(self, *args: Any, **options: Any) -> None:
        await super()._persist_job_status(*args, **options)
        # The end of a job frees its lock for the next one, and a retry has a time.
        self._group.note_change()


def make_connector() -> PsycopgConnector:
    """Return the database connections of this process's workers: one while idle, and ``CONNECTIONS`` at most."""
    return PsycopgConnector(
        kwargs=utils.connector_params("default"),
        min_size=1,
        max_size=CONNECTIONS,
        max_idle=60,
    )
