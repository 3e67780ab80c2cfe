"""Functions that queue the background tasks of conversations.

Tasks are queued by name, because this module must not import ``tasks``. A queued job is a database row that is
committed or rolled back together with the current transaction.
"""

from uuid import UUID

from django.db import connection
from procrastinate.contrib.django import app
from procrastinate.contrib.django.models import ProcrastinateJob

DEFAULT = "default"
"""The queue of jobs that end by themselves within seconds."""
URGENT = "urgent"
"""The queue of jobs that a user waits for in front of a running agent: interruptions, answers, network rules."""
LONG = "long"
"""The queue of jobs that may wait minutes for an engine. A waiting job uses a thread and no database connection."""

_HASTEN = """
WITH hastened AS (
    UPDATE procrastinate_jobs SET scheduled_at = NULL WHERE lock = %s AND status = 'todo' RETURNING id, queue_name
)
SELECT pg_notify(
    'procrastinate_queue_v1#' || queue_name, json_build_object('type', 'job_inserted', 'job_id', id)::text
)
FROM hastened
"""
"""Remove the delay of jobs and wake the workers, which procrastinate itself does only for new jobs."""


def is_queued(subject: str, conversation_id: UUID) -> bool:
    """Return whether a job with the lock ``<subject>:<conversation_id>`` waits or runs.

    ``subject`` is ``deliver``, ``start``, ``run``, ``answer`` or ``confirmation``.
    """
    jobs = ProcrastinateJob.objects.filter(lock=f"{subject}:{conversation_id}")
    return jobs.filter(status__in=["todo", "doing"]).exists()


def deliver_messages(conversation_id: UUID) -> None:
    """Queue the delivery of the conversation's open messages. Jobs of a conversation run in order."""
    job = app.configure_task(
        "conversations.tasks.deliver_messages", queue=LONG, lock=f"deliver:{conversation_id}"
    )
    job.defer(conversation_id=str(conversation_id))


def start_conversation(conversation_id: UUID, *, in_seconds: int = 0) -> None:
    """Queue the start of the conversation's sandbox and engine, optionally after a delay."""
    # Starting, stopping and destroying share one lock, so that they never overlap in one conversation.
    job = app.configure_task(
        "conversations.tasks.start_conversation",
        queue=LONG,
        lock=f"start:{conversation_id}",
        schedule_in={"seconds": in_seconds} if in_seconds else None,
    )
    job.defer(conversation_id=str(conversation_id))


def hasten_start(conversation_id: UUID) -> None:
    """Run the scheduled jobs that start, stop or destroy the conversation's sandbox now, without their delay."""
    # The package has no function for this, and its model is read-only.
    with connection.cursor() as cursor:
        cursor.execute(_HASTEN, [f"start:{conversation_id}"])


def stop_sandbox(conversation_id: UUID) -> None:
    """Queue a stop of the conversation's sandbox. Its data is kept."""
    # A job also waits behind an earlier job with the same lock that is scheduled for later.
    hasten_start(conversation_id)
    job = app.configure_task("conversations.tasks.stop_sandbox", lock=f"start:{conversation_id}")
    job.defer(conversation_id=str(conversation_id))


def destroy_conversation(conversation_id: UUID) -> None:
    """Queue the removal of a deleted conversation's sandbox and database rows."""
    hasten_start(conversation_id)
    job = app.configure_task(
        "conversations.tasks.destroy_conversation", lock=f"start:{conversation_id}"
    )
    job.defer(conversation_id=str(conversation_id))


def interrupt_agent(conversation_id: UUID) -> None:
    """Queue an interruption of the agent."""
    # No lock: an interruption must not wait behind the delivery that it interrupts (ADR 4).
    job = app.configure_task(
        "conversations.tasks.interrupt_agent",
        queue=URGENT,
    )
    job.defer(conversation_id=str(conversation_id))


def run_agent(conversation_id: UUID, *, only_if_stopped: bool = True) -> None:
    """Queue a run of the agent. By default, only continue an agent that stopped in the middle of its work."""
    # Runs do not share the lock of deliveries: a job also waits behind an earlier job with the same lock that is
    # scheduled for a retry, and a delivery's retry may wait for this run (ADR 4).
    job = app.configure_task(
        "conversations.tasks.run_agent", queue=LONG, lock=f"run:{conversation_id}"
    )
    job.defer(conversation_id=str(conversation_id), only_if_stopped=only_if_stopped)


def answer_agent(conversation_id: UUID, *, accept: bool, reason: str, asked_in_run: int) -> None:
    """Queue a job that sends the user's answer to the agent's question to the engine."""
    job = app.configure_task(
        "conversations.tasks.answer_agent", queue=URGENT, lock=f"answer:{conversation_id}"
    )
    job.defer(
        conversation_id=str(conversation_id),
        accept=accept,
        reason=reason,
        asked_in_run=asked_in_run,
    )


def push_egress_policy(conversation_id: UUID) -> None:
    """Queue a job that sends the conversation's network rules to its running sandbox."""
    job = app.configure_task(
        "conversations.tasks.push_egress_policy", queue=URGENT, lock=f"egress:{conversation_id}"
    )
    job.defer(conversation_id=str(conversation_id))


def send_confirmation_settings(conversation_id: UUID) -> None:
    """Queue an update of the engine's confirmation policy and security analyzer."""
    job = app.configure_task(
        "conversations.tasks.carry_confirmation", queue=LONG, lock=f"confirmation:{conversation_id}"
    )
    job.defer(conversation_id=str(conversation_id))


async def retry_stalled_jobs() -> None:
    """Queue a job that retries the jobs of dead workers. Raise ``AlreadyEnqueued`` if one is waiting."""
    job = app.configure_task(
        "conversations.tasks.retry_stalled_jobs", queueing_lock="retry_stalled_jobs"
    )
    await job.defer_async()
