"""Tells workers: defers a task by name, so that the arrow of imports points down only.

A deferred job is a row of the surrounding transaction: it commits or vanishes with the change.
"""

from uuid import UUID

from procrastinate.contrib.django import app
from procrastinate.contrib.django.models import ProcrastinateJob


def is_queued(subject: str, conversation_id: UUID) -> bool:
    """Whether a job of that lock (``deliver``, ``start``, …) waits or runs."""
    jobs = ProcrastinateJob.objects.filter(lock=f"{subject}:{conversation_id}")
    return jobs.filter(status__in=["todo", "doing"]).exists()


def deliver_messages(conversation_id: UUID) -> None:
    """Have the conversation's open messages sent to its agent, one job at a time, in order."""
    job = app.configure_task(
        "conversations.tasks.deliver_messages", lock=f"deliver:{conversation_id}"
    )
    job.defer(conversation_id=str(conversation_id))


def start_conversation(conversation_id: UUID, *, in_seconds: int = 0) -> None:
    """Have the conversation's sandbox and engine brought up."""
    job = app.configure_task(
        "conversations.tasks.start_conversation",
        lock=f"start:{conversation_id}",
        schedule_in={"seconds": in_seconds} if in_seconds else None,
    )
    job.defer(conversation_id=str(conversation_id))


def stop_sandbox(conversation_id: UUID) -> None:
    """Have the conversation's sandbox stopped; its data stays."""
    job = app.configure_task("conversations.tasks.stop_sandbox", lock=f"start:{conversation_id}")
    job.defer(conversation_id=str(conversation_id))


def destroy_conversation(conversation_id: UUID) -> None:
    """Have a deleted conversation's sandbox and rows removed."""
    job = app.configure_task(
        "conversations.tasks.destroy_conversation", lock=f"start:{conversation_id}"
    )
    job.defer(conversation_id=str(conversation_id))


def interrupt_agent(conversation_id: UUID) -> None:
    """Have the agent stopped now; this does not wait behind a message that is being delivered."""
    job = app.configure_task("conversations.tasks.interrupt_agent")
    job.defer(conversation_id=str(conversation_id))


def run_agent(conversation_id: UUID, *, only_if_stopped: bool = True) -> None:
    """Have the agent go on where it stopped.

    Not under the lock of messages: a job waits behind every earlier one of its lock, also one that waits to
    be tried again.
    """
    job = app.configure_task("conversations.tasks.run_agent", lock=f"run:{conversation_id}")
    job.defer(conversation_id=str(conversation_id), only_if_stopped=only_if_stopped)


def answer_agent(conversation_id: UUID, *, accept: bool, reason: str, asked_in_run: int) -> None:
    """Have an answer to the agent's question carried to it."""
    job = app.configure_task("conversations.tasks.answer_agent", lock=f"answer:{conversation_id}")
    job.defer(
        conversation_id=str(conversation_id),
        accept=accept,
        reason=reason,
        asked_in_run=asked_in_run,
    )


def carry_confirmation(conversation_id: UUID) -> None:
    """Have a changed confirmation policy or analyzer carried to the engine."""
    job = app.configure_task(
        "conversations.tasks.carry_confirmation", lock=f"confirmation:{conversation_id}"
    )
    job.defer(conversation_id=str(conversation_id))
