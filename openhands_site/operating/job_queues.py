"""The job queues of a worker, and the share of each queue that one organization or user may occupy.

A job that calls an engine waits as long as the engine does not answer, and a user can make an engine hang. So each
queue has slots of its own, and no organization or user can occupy all slots of a queue.
"""

import functools
import logging
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.conf import settings
from procrastinate.job_context import JobContext
from procrastinate.jobs import Job
from procrastinate.middleware import AsyncCallNext
from procrastinate.worker import Worker

from conversations import services
from conversations.queue import DEFAULT, LONG, URGENT
from lib.connections import release_connection

log = logging.getLogger(__name__)
POSTPONE_SECONDS = 1.0
"""The shortest delay of a job whose organization or user occupies its whole share of the queue."""
SPACING_SECONDS = 0.25
"""The time between two postponed jobs of an owner. So an owner with hundreds of jobs does not keep workers busy."""
_OWNERS_CACHED = 10_000


@dataclass(frozen=True)
class Queue:
    """A queue of a worker: ``slots`` jobs run in parallel, at most ``per_organization`` and ``per_user`` of them."""

    name: str
    slots: int

    @property
    def per_organization(self) -> int:
        return max(2, self.slots // 4)

    @property
    def per_user(self) -> int:
        return max(2, self.slots // 8)


def list_queues() -> list[Queue]:
    """Return the queues of this installation's workers."""
    return [
        Queue(URGENT, settings.WORKER_URGENT),
        Queue(DEFAULT, settings.WORKER_CONCURRENCY),
        Queue(LONG, settings.WORKER_WAITING),
    ]


class Shares:
    """A worker middleware that postpones a job if its organization or user occupies its whole share of the queue."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._running: Counter[UUID] = Counter()
        self._next_due: dict[UUID, float] = {}
        self.postponed = 0
        """The number of jobs that were postponed."""

    async def __call__(self, call_next: AsyncCallNext, context: JobContext, worker: Worker) -> Any:
        owners = await _find_owners(context.job)
        if owners is None:
            return await call_next()
        if (owner := self._find_occupant(*owners)) is not None:
            self.postponed += 1
            await _postpone(context, seconds=self._reserve_time(owner))
            return None
        self._running.update(owners)
        try:
            return await call_next()
        finally:
            self._running.subtract(owners)
            # Without the zeros, the counter would grow with every user that ever had a job.
            for owner in owners:
                if not self._running[owner]:
                    del self._running[owner]

    def _find_occupant(self, organization_id: UUID, user_id: UUID) -> UUID | None:
        """Return the organization or user that occupies its whole share, or None if the job may run."""
        if self._running[organization_id] >= self._queue.per_organization:
            return organization_id
        if self._running[user_id] >= self._queue.per_user:
            return user_id
        return None

    def _reserve_time(self, owner: UUID) -> float:
        """Return the seconds after which the owner's next postponed job is due."""
        now = time.monotonic()
        due = max(now + POSTPONE_SECONDS, self._next_due.get(owner, 0.0) + SPACING_SECONDS)
        self._next_due = {key: at for key, at in self._next_due.items() if at > now} | {owner: due}
        return due - now


async def _find_owners(job: Job) -> tuple[UUID, UUID] | None:
    """Return the organization and the creator of a job's conversation, or None for other jobs."""
    text = job.task_kwargs.get("conversation_id")
    if not isinstance(text, str):
        return None
    return await sync_to_async(_read_owners, thread_sensitive=False)(text)


@functools.lru_cache(_OWNERS_CACHED)
def _read_owners(conversation_id: str) -> tuple[UUID, UUID] | None:
    try:
        return services.find_owners(conversation_id=UUID(conversation_id))
    finally:
        release_connection()


async def _postpone(context: JobContext, *, seconds: float) -> None:
    """Queue the job again behind the other jobs, with the attempts that it has had."""
    job = context.job
    later = context.app.configure_task(
        job.task_name,
        queue=job.queue,
        lock=job.lock,
        priority=job.priority,
        schedule_at=datetime.now(UTC) + timedelta(seconds=seconds),
    )
    job_id = await later.defer_async(**job.task_kwargs)
    # A new job starts to count its attempts at 0, and would then be retried without end. It is not due yet, so no
    # worker can fetch it between these two statements.
    await context.app.connector.execute_query_async(
        "UPDATE procrastinate_jobs SET attempts = %(attempts)s WHERE id = %(job_id)s",
        attempts=job.attempts,
        job_id=job_id,
    )
