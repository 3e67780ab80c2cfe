"""Background tasks of conversations. Each task makes one service call and has a retry policy."""

from uuid import UUID

from django.conf import settings
from django.db import InterfaceError, OperationalError
from procrastinate import RetryStrategy
from procrastinate.contrib.django import app

from conversations import services
from conversations.engine.errors import EngineRefused, EngineUnreachable
from conversations.queue import LONG, URGENT

DATABASE_ERRORS = (OperationalError, InterfaceError)
"""The database is restarting, or no connection was free in time."""
PATIENT = RetryStrategy(
    max_attempts=40, linear_wait=2, wait=1, retry_exceptions=(EngineUnreachable, *DATABASE_ERRORS)
)
"""Retry for about 27 minutes, because a sandbox may need a long time to start."""
UNTIL_STARTED = RetryStrategy(
    max_attempts=20,
    linear_wait=1,
    wait=1,
    retry_exceptions=(EngineUnreachable, EngineRefused, *DATABASE_ERRORS),
)
"""Retry for more than three minutes, because an answer must not be lost while the engine starts."""
QUICK = RetryStrategy(
    max_attempts=10,
    linear_wait=1,
    wait=1,
    retry_exceptions=(EngineUnreachable, EngineRefused, *DATABASE_ERRORS),
)
"""Retry for about a minute. After that, the request is outdated."""
STORING = RetryStrategy(
    max_attempts=20, linear_wait=1, wait=1, retry_exceptions=(OSError, *DATABASE_ERRORS)
)
"""Retry for more than three minutes, for example while the disk of a sandbox is full."""


@app.task(name="conversations.tasks.deliver_messages", queue=LONG, retry=PATIENT)
def deliver_messages(conversation_id: str) -> None:
    services.deliver_messages(conversation_id=UUID(conversation_id))


@app.task(name="conversations.tasks.start_conversation", queue=LONG, retry=STORING)
def start_conversation(conversation_id: str) -> None:
    services.start_conversation(conversation_id=UUID(conversation_id))


@app.task(name="conversations.tasks.stop_sandbox", retry=STORING)
def stop_sandbox(conversation_id: str) -> None:
    services.stop_sandbox(conversation_id=UUID(conversation_id), unless_in_use=True)


@app.task(
    name="conversations.tasks.destroy_conversation", retry=RetryStrategy(max_attempts=5, wait=10)
)
def destroy_conversation(conversation_id: str) -> None:
    services.destroy_conversation(conversation_id=UUID(conversation_id))


@app.task(name="conversations.tasks.interrupt_agent", queue=URGENT, retry=QUICK)
def interrupt_agent(conversation_id: str) -> None:
    services.interrupt_agent(conversation_id=UUID(conversation_id))


@app.task(name="conversations.tasks.run_agent", queue=LONG, retry=PATIENT)
def run_agent(conversation_id: str, only_if_stopped: bool = True) -> None:  # noqa: FBT001, FBT002
    services.run_agent(conversation_id=UUID(conversation_id), only_if_stopped=only_if_stopped)


@app.task(name="conversations.tasks.answer_agent", queue=URGENT, retry=UNTIL_STARTED)
def answer_agent(conversation_id: str, accept: bool, reason: str, asked_in_run: int) -> None:  # noqa: FBT001
    services.deliver_answer(
        conversation_id=UUID(conversation_id),
        accept=accept,
        reason=reason,
        asked_in_run=asked_in_run,
    )


@app.task(name="conversations.tasks.carry_confirmation", queue=LONG, retry=QUICK)
def carry_confirmation(conversation_id: str) -> None:
    services.send_confirmation_settings(conversation_id=UUID(conversation_id))


@app.task(name="conversations.tasks.push_egress_policy", queue=URGENT, retry=STORING)
def push_egress_policy(conversation_id: str) -> None:
    services.push_egress_policy(conversation_id=UUID(conversation_id))


@app.periodic(cron="* * * * *")
@app.task(name="conversations.tasks.index_texts", lock="index_texts", queueing_lock="index_texts")
def index_texts(timestamp: int) -> None:
    services.index_texts()


@app.periodic(cron="* * * * *")
@app.task(
    name="conversations.tasks.reconcile_sandboxes",
    lock="reconcile_sandboxes",
    queueing_lock="reconcile_sandboxes",
)
def reconcile_sandboxes(timestamp: int) -> None:
    services.reconcile_sandboxes()


@app.periodic(cron="* * * * * */10")
@app.task(
    name="conversations.tasks.requeue_lost_work",
    lock="requeue_lost_work",
    queueing_lock="requeue_lost_work",
)
def requeue_lost_work(timestamp: int) -> None:
    services.requeue_lost_work()


@app.task(name="conversations.tasks.retry_stalled_jobs", queueing_lock="retry_stalled_jobs")
async def retry_stalled_jobs(timestamp: int = 0) -> None:
    """Retry the jobs of killed workers. Every task of this server is safe to repeat.

    Workers queue this task when they find such jobs. ``timestamp`` is an argument of the previous release.
    """
    manager = app.job_manager
    for job in await manager.get_stalled_jobs(
        seconds_since_heartbeat=settings.WORKER_STALLED_SECONDS
    ):
        await manager.retry_job(job)
