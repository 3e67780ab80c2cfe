"""The record of a start: its phases, another attempt, and how it ends."""

import contextlib
import logging
from collections.abc import Iterator
from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from billing import services as billing
from conversations import announcing, queue
from conversations.models import Conversation, Sandbox, StartTask
from conversations.sandboxes.provider import SandboxNotYet, get_provider
from conversations.services import redaction
from conversations.services.egress_log import collect_last_decisions
from conversations.services.leases import request_manager
from conversations.services.state import append_notice, change_fields
from lib.connections import release_connection
from lib.host_paths import hide_host_folder
from lib.problems import Problem

log = logging.getLogger(__name__)
Phase = StartTask.Phase
QUEUE_SECONDS = 2
"""The delay in seconds before a start that had to wait is tried again. After failures the delay is a multiple of it."""
ENGINE_SECONDS = 1
"""The delay in seconds before a start that waits for the installation of the engine is tried again."""
MAX_ATTEMPTS = 3
CANCELLED = "The sandbox was stopped before its start was complete."
STOP_GRACE_SECONDS = 10.0
"""The time that an engine has to finish before it is killed."""


def record_cancellation(task: StartTask) -> None:
    """End a start whose sandbox was stopped. The job that stops or destroys the sandbox waits for this job's lock."""
    with transaction.atomic():
        conversation = Conversation.objects.select_for_update().get(pk=task.conversation_id)
        sandbox = Sandbox.objects.filter(conversation=conversation).first()
        if sandbox is not None and sandbox.desired == Sandbox.Desired.RUNNING:
            # A user resumed the conversation in the meantime and found this start still open.
            update(task, attempts=task.attempts - 1)
            queue.start_conversation(conversation.pk)
            return
        now = timezone.now()
        task.phases.append(_entry(Phase.ERROR, started=now, finished=now, detail=CANCELLED))
        update(task, phase=Phase.ERROR, phases=task.phases, error=CANCELLED, finished_at=now)


def queue_next_start(organization_id: UUID) -> None:
    """Start the organization's oldest conversation that waits for a free slot now, without its usual delay."""
    waiting = StartTask.objects.filter(
        organization_id=organization_id, finished_at=None, queue_position__isnull=False
    )
    if (oldest := waiting.order_by("created_at").first()) is not None:
        queue.hasten_start(oldest.conversation_id)


def postpone(task: StartTask, error: SandboxNotYet) -> None:
    """Queue the start again without counting this attempt. The conversation's owner sees the reason and the progress.

    The wait is part of the first phase, which continues until the start proceeds. It has no time limit.
    """
    with transaction.atomic():
        phases = [entry for entry in task.phases if entry["phase"] == Phase.WORKING][:1]
        entry = phases[0] if phases else _entry(Phase.WORKING, started=timezone.now())
        waiting = entry | {
            "detail": str(error.detail)[:500],
            "percent": error.extra.get("percent"),
            "finished_at": None,
        }
        if task.phases != [waiting]:
            Sandbox.objects.filter(conversation=task.conversation_id).update(
                observed=Sandbox.Observed.PENDING, detail=str(error.detail)
            )
            update(task, phase=Phase.WORKING, phases=[waiting], queue_position=None)
        # Without an announcement, because nothing changed for readers.
        StartTask.objects.filter(pk=task.pk).update(attempts=task.attempts - 1)
        queue.start_conversation(task.conversation_id, in_seconds=ENGINE_SECONDS)


def _confirmation_values(conversation: Conversation) -> tuple[str, str]:
    return conversation.confirmation_policy, conversation.security_analyzer


def finish(task: StartTask, started: Conversation, sandbox: Sandbox) -> None:
    """Store that the start is complete. Start again if the sharing changed during the start."""
    with transaction.atomic():
        conversation = Conversation.objects.select_for_update().get(pk=started.pk)
        # The policy may have changed during the start, after it was sent to the engine.
        if _confirmation_values(conversation) != _confirmation_values(started):
            queue.send_confirmation_settings(conversation.pk)
        if conversation.lender != sandbox.lent_by:
            # The sharing changed during the start. Nothing has reached the agent yet, so start again.
            billing.revoke_gateway_tokens(conversation_id=conversation.pk)
            Sandbox.objects.filter(pk=sandbox.pk).update(observed=Sandbox.Observed.STOPPED)
            queue.start_conversation(conversation.pk)
            return
        sandbox.observed, sandbox.conversation_started = Sandbox.Observed.RUNNING, True
        sandbox.save(update_fields=["observed", "conversation_started"])
        request_manager(conversation_id=conversation.pk)
        now = timezone.now()
        task.phases.append(_entry(Phase.READY, started=now, finished=now))
        update(task, phase=Phase.READY, phases=task.phases, finished_at=now)
        change_fields(conversation, status=Conversation.Status.RUNNING, status_detail="")
        # Messages that were posted during the start are still open.
        queue.deliver_messages(conversation.pk)


def record_failure(task: StartTask, conversation: Conversation, failure: Exception) -> None:
    """Queue another attempt, or mark the start as failed after ``MAX_ATTEMPTS`` or a permanent failure."""
    error = describe(failure, conversation)
    is_permanent = getattr(failure, "is_permanent", False)
    log.warning("The start of conversation %s failed: %s", conversation.pk, error)
    is_last = is_permanent or task.attempts >= MAX_ATTEMPTS
    if is_last:
        # Before the failure is stored: if this worker is killed in between, the next attempt stops the sandbox.
        _stop_sandbox_of_failed_start(conversation)
    with transaction.atomic():
        conversation = Conversation.objects.select_for_update().get(pk=conversation.pk)
        row = Sandbox.objects.filter(conversation=conversation)
        if not is_last:
            # The sandbox may run, and the next attempt continues with it, so it keeps its slot.
            row.update(detail=error)
            queue.start_conversation(conversation.pk, in_seconds=QUEUE_SECONDS * task.attempts)
            return
        row.update(observed=Sandbox.Observed.FAILED, detail=error)
        now = timezone.now()
        task.phases.append(_entry(Phase.ERROR, started=now, finished=now, detail=error))
        update(task, phase=Phase.ERROR, phases=task.phases, error=error, finished_at=now)
        append_notice(
            conversation,
            code="start_failed",
            message="The sandbox could not be started. Your messages are saved. "
            "Fix the cause below, then choose “Try again”.",
            detail=error,
        )
        change_fields(conversation, status=Conversation.Status.FAILED, status_detail=error)
        queue_next_start(conversation.organization_id)


def _stop_sandbox_of_failed_start(conversation: Conversation) -> None:
    """Stop the sandbox of a start that failed permanently, if it runs, so that it uses no memory and no slot."""
    sandbox = Sandbox.objects.get(conversation=conversation)
    try:
        provider = get_provider(sandbox.provider)
        if handle := provider.find(sandbox.pk) or sandbox.handle:
            release_connection()
            provider.stop(handle, grace_seconds=STOP_GRACE_SECONDS)
            collect_last_decisions(conversation_id=conversation.pk)
    except (Problem, OSError) as error:
        log.warning("The sandbox of conversation %s was not stopped: %s", conversation.pk, error)


def describe(error: Exception, conversation: Conversation) -> str:
    """Return the text of an error without secrets: it may quote the output of the engine or of a setup script."""
    return redaction.hide_in_text(
        hide_host_folder(str(getattr(error, "detail", "") or error)),
        user_ids=[conversation.created_by_id],
        organization_id=conversation.organization_id,
    )


@contextlib.contextmanager
def carry_out_phase(task: StartTask, phase: str) -> Iterator[None]:
    """Record the phase that the block carries out: its start and end times and, if the block fails, the error."""
    entry = _entry(phase, started=timezone.now())
    for earlier in task.phases:
        if earlier["phase"] == phase and "percent" in earlier:  # the start waited in this phase
            entry["started_at"] = earlier["started_at"]
    # A retry replaces the entry of the earlier attempt.
    task.phases = [e for e in task.phases if e["phase"] != phase] + [entry]
    update(task, phase=phase, phases=task.phases)
    try:
        yield
    except Exception as error:
        entry["detail"] = describe(error, task.conversation)[:500]
        raise
    finally:
        entry["finished_at"] = timezone.now().isoformat()
        update(task, phases=task.phases)


def _entry(
    phase: str, *, started: datetime, finished: datetime | None = None, detail: str = ""
) -> dict[str, str | None]:
    return {
        "phase": str(phase),
        "started_at": started.isoformat(),
        "finished_at": finished.isoformat() if finished else None,
        "detail": detail[:500],
    }


def update(task: StartTask, **fields: object) -> None:
    """Store fields of a start and announce the change."""
    for name, value in fields.items():
        setattr(task, name, value)
    task.updated_at = timezone.now()
    task.save(update_fields=[*fields, "updated_at"])
    # A conversation's record contains its start task. Update the conversation's time too, so that polling processes
    # notice the change even if the nudge is lost.
    Conversation.objects.filter(pk=task.conversation_id).update(updated_at=task.updated_at)
    announcing.announce_on_commit(task.conversation_id)
