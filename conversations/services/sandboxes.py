"""Pause, wake, stop and reconcile sandboxes: from the desired to the observed state."""

from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from accounts.services import audit
from conversations import announcing, queue
from conversations.models import (
    OPEN_MESSAGES,
    Conversation,
    OutgoingMessage,
    Sandbox,
    StartTask,
)
from conversations.sandboxes.provider import (
    State,
    get_provider,
)
from conversations.services.leases import live_owners, want_manager
from conversations.services.starts import OCCUPYING
from conversations.services.state import append_notice, change_fields, is_up, request_start
from lib.problems import Problem

STOP_GRACE_SECONDS = 10.0
LOST_SECONDS = 10
AWAKE = (Conversation.Status.RUNNING, Conversation.Status.STARTING)


@transaction.atomic
def pause_sandbox(*, conversation_id: UUID) -> None:
    """Stop the conversation's sandbox, its agent included; files stay, a message or resume wakes it.

    Safe to repeat. One that is asleep, or failed, stays as it is.
    """
    rows = Conversation.objects.select_for_update(of=("self",)).select_related("sandbox")
    conversation = rows.get(pk=conversation_id)
    if conversation.sandbox is None or conversation.status not in AWAKE:
        return
    Sandbox.objects.filter(pk=conversation.sandbox.pk).update(desired=Sandbox.Desired.STOPPED)
    queue.stop_sandbox(conversation_id)
    change_fields(conversation, status=Conversation.Status.PAUSED)
    audit.record(
        action="sandbox.paused",
        organization_id=conversation.organization_id,
        subject=conversation,
    )


def ring(*, conversation_id: UUID) -> None:
    """Have everybody who follows this conversation look again: its sandbox says that something happened.

    Safe to repeat at any rate: it is a nudge, and what is told is read from the engine's log by the manager.
    """
    announcing.announce(conversation_id)


class SandboxNotRunning(Problem):
    """The sandbox sleeps or is not up yet, and what was asked needs it."""

    status = 409
    code = "sandbox-not-running"
    sentence = "The sandbox is not running. Resume the conversation and try again."


def stop_sandbox(*, conversation_id: UUID, unless_wanted: bool = False) -> None:
    """Stop a conversation's sandbox and keep its data. Safe to repeat.

    ``unless_wanted``: it was idle when this was queued; nothing is done if it has come into use since.
    """
    with transaction.atomic():
        rows = Conversation.objects.select_for_update(of=("self",)).select_related("sandbox")
        conversation = rows.filter(pk=conversation_id).first()
        sandbox = conversation.sandbox if conversation else None
        if conversation is None or sandbox is None:
            return
        if unless_wanted and sandbox.desired != Sandbox.Desired.STOPPED:
            return
        # First in the books: a message that comes now asks for a start, which waits its turn behind this job.
        # The other way round it would go to an engine that is about to end.
        sandbox.desired, sandbox.observed = Sandbox.Desired.STOPPED, Sandbox.Observed.STOPPED
        sandbox.stopped_at = timezone.now()
        sandbox.save(update_fields=["desired", "observed", "stopped_at"])
        if conversation.status in (Conversation.Status.RUNNING, Conversation.Status.STARTING):
            change_fields(conversation, status=Conversation.Status.STOPPED)
    provider = get_provider(sandbox.provider)
    if handle := sandbox.handle or provider.find(sandbox.pk):
        provider.stop(handle, grace_seconds=STOP_GRACE_SECONDS)


def stop_all_sandboxes() -> int:
    """Stop every sandbox of the process provider, as when this machine's server ends; how many."""
    running = Sandbox.objects.filter(provider="process", observed__in=OCCUPYING)
    ids = list(Conversation.objects.filter(sandbox__in=running).values_list("pk", flat=True))
    for conversation_id in ids:
        stop_sandbox(conversation_id=conversation_id)
    return len(ids)


def reconcile_sandboxes() -> int:
    """Mend what differs between desired and observed state, and put idle sandboxes to sleep; how many.

    Safe to run at any time, in any number.
    """
    changed = 0
    quiet_since = timezone.now() - timedelta(seconds=settings.SANDBOX_IDLE_SECONDS)
    rows = Conversation.objects.select_related("sandbox").filter(sandbox__isnull=False)
    idle = rows.filter(
        sandbox__observed=Sandbox.Observed.RUNNING,
        sandbox__active_at__lt=quiet_since,
        deleted_at=None,
    ).exclude(execution_status=Conversation.ExecutionStatus.RUNNING)
    for conversation in idle.exclude(outgoing_messages__status__in=OPEN_MESSAGES):
        Sandbox.objects.filter(conversation=conversation).update(desired=Sandbox.Desired.STOPPED)
        queue.stop_sandbox(conversation.pk)
        changed += 1
    live = live_owners()
    for conversation in rows.filter(sandbox__observed=Sandbox.Observed.RUNNING, deleted_at=None):
        changed += _reconcile_one(conversation, live)
    for conversation in rows.filter(deleted_at__lt=timezone.now() - timedelta(minutes=5)):
        queue.destroy_conversation(conversation.pk)
        changed += 1
    return changed


def _reconcile_one(conversation: Conversation, live: set[str]) -> int:
    """A sandbox that nobody follows may have gone unnoticed: its manager would have told."""
    lease = getattr(conversation, "lease", None)
    if lease is not None and lease.owner in live:
        return 0
    if lease is not None and not lease.is_wanted:
        want_manager(conversation_id=conversation.pk)
    sandbox = conversation.sandbox
    if sandbox is None:
        return 0
    observed = get_provider(sandbox.provider).inspect(sandbox.handle)
    if observed.state in (State.RUNNING, State.STARTING):
        return 0
    with transaction.atomic():
        locked = Conversation.objects.select_for_update().get(pk=conversation.pk)
        found = Sandbox.objects.filter(
            pk=sandbox.pk, observed=Sandbox.Observed.RUNNING, run=sandbox.run
        )
        if found.update(observed=Sandbox.Observed.STOPPED, detail=observed.detail):
            append_notice(
                locked,
                code="engine_stopped",
                message="The agent's engine stopped. It restarts with the next message.",
                detail=observed.detail,
            )
            change_fields(locked, status=Conversation.Status.STOPPED)
            return 1
    return 0


def requeue_lost_work() -> int:
    """Queue again what a killed worker left: starts and messages that nothing works on; how many.

    Jobs are safe to repeat, so one too many would do no harm.
    """
    before = timezone.now() - timedelta(seconds=LOST_SECONDS)
    lost = StartTask.objects.filter(finished_at=None, updated_at__lt=before)
    count = 0
    for conversation_id in lost.values_list("conversation_id", flat=True)[:100]:
        if not queue.is_queued("start", conversation_id):
            queue.start_conversation(conversation_id)
            count += 1
    waiting = OutgoingMessage.objects.filter(
        status__in=OPEN_MESSAGES,
        created_at__lt=before,
        conversation__sandbox__observed=Sandbox.Observed.RUNNING,
        conversation__deleted_at=None,
    ).exclude(conversation__execution_status__in=Conversation.BUSY)
    for conversation_id in waiting.values_list("conversation_id", flat=True).distinct()[:100]:
        if not queue.is_queued("deliver", conversation_id):
            queue.deliver_messages(conversation_id)
            count += 1
    return count


@transaction.atomic
def wake(*, conversation_id: UUID) -> Conversation:
    """Ask for the conversation's sandbox; an agent that was stopped stays stopped. Safe to repeat."""
    rows = Conversation.objects.select_for_update(of=("self",)).select_related("sandbox")
    conversation = rows.get(pk=conversation_id)
    sandbox = conversation.sandbox
    is_wanted = sandbox is not None and sandbox.desired == Sandbox.Desired.RUNNING
    if not (is_wanted and is_up(conversation)):
        request_start(conversation, reason="opened")
    return conversation
