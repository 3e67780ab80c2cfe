"""Pausing, waking, stopping and reconciling sandboxes."""

from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from accounts.models import User
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
from conversations.services.egress_log import collect_last_decisions
from conversations.services.leases import list_live_owners, request_manager
from conversations.services.start_tasks import STOP_GRACE_SECONDS, queue_next_start
from conversations.services.starts import OCCUPYING, replaces_process_provider
from conversations.services.state import (
    append_notice,
    change_fields,
    is_up,
    request_start,
    require_driver,
)
from lib.connections import release_connection
from lib.problems import Problem

LOCAL_PROVIDERS = ("bubblewrap", "process", "seatbelt")
"""The providers whose sandboxes run on the machine of the server."""
LOST_SECONDS = 10
"""The age in seconds after which work without a queued job counts as lost."""
AWAKE = (Conversation.Status.RUNNING, Conversation.Status.STARTING)


@transaction.atomic
def pause_sandbox(*, conversation_id: UUID) -> None:
    """Queue a stop of the conversation's sandbox and its agent. The sandbox's files are kept.

    The next message or resume starts the sandbox again. Do nothing if the sandbox is stopped or failed. Safe to repeat.
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


def nudge_followers(*, conversation_id: UUID) -> None:
    """Nudge all processes that follow a conversation, after its sandbox reported new events. Safe to repeat."""
    # The report's contents are ignored: the manager reads events only from the engine's own log.
    announcing.announce(conversation_id)


class SandboxNotRunning(Problem):
    """The requested operation needs a running sandbox, but the sandbox is stopped or still starting."""

    status = 409
    code = "sandbox-not-running"
    sentence = "The sandbox is not running. Resume the conversation and try again."


def stop_sandbox(*, conversation_id: UUID, unless_in_use: bool = False) -> None:
    """Stop a conversation's sandbox and keep its data. Safe to repeat.

    With ``unless_in_use``, do nothing if the sandbox was used again after the stop was queued.
    """
    with transaction.atomic():
        rows = Conversation.objects.select_for_update(of=("self",)).select_related("sandbox")
        conversation = rows.filter(pk=conversation_id).first()
        sandbox = conversation.sandbox if conversation else None
        if conversation is None or sandbox is None:
            return
        if unless_in_use and sandbox.desired != Sandbox.Desired.STOPPED:
            return
        # Store the new state before stopping the sandbox: a message that arrives now requests a start, which waits
        # behind this job. In the other order, the message would be sent to an engine that is about to end.
        sandbox.desired, sandbox.observed = Sandbox.Desired.STOPPED, Sandbox.Observed.STOPPED
        sandbox.stopped_at = timezone.now()
        sandbox.save(update_fields=["desired", "observed", "stopped_at"])
        if conversation.status in AWAKE:
            change_fields(conversation, status=Conversation.Status.STOPPED)
        provider = get_provider(sandbox.provider)
        # Name the run before the row's lock is released: a later one is not meant. The stored handle may be older,
        # because a worker may have been killed before it stored the newest one.
        handle = provider.find(sandbox.pk) or sandbox.handle
    release_connection()
    if handle:
        provider.stop(handle, grace_seconds=STOP_GRACE_SECONDS)
        collect_last_decisions(conversation_id=conversation_id)
    queue_next_start(conversation.organization_id)


def stop_all_sandboxes() -> int:
    """Stop all sandboxes on this machine, for example at a shutdown. Return the number of stopped sandboxes."""
    running = Sandbox.objects.filter(provider__in=LOCAL_PROVIDERS, observed__in=OCCUPYING)
    ids = list(Conversation.objects.filter(sandbox__in=running).values_list("pk", flat=True))
    for conversation_id in ids:
        stop_sandbox(conversation_id=conversation_id)
    return len(ids)


def reconcile_sandboxes() -> int:
    """Queue stops of idle sandboxes, notice engines that ended, and retry deletions. Return the number of changes.

    Safe to run at any time and concurrently.
    """
    changed = 0
    idle_since = timezone.now() - timedelta(seconds=settings.SANDBOX_IDLE_SECONDS)
    rows = Conversation.objects.select_related("sandbox").filter(sandbox__isnull=False)
    is_idle = Q(sandbox__active_at__lt=idle_since)
    if replaces_process_provider():
        # A sandbox that runs since before the upgrade is not isolated. Its next start is.
        is_idle |= Q(sandbox__provider="process")
    idle = rows.filter(
        is_idle,
        sandbox__observed=Sandbox.Observed.RUNNING,
        deleted_at=None,
    ).exclude(execution_status=Conversation.ExecutionStatus.RUNNING)
    # A sandbox with open messages is about to be used.
    for conversation in idle.exclude(outgoing_messages__status__in=OPEN_MESSAGES):
        Sandbox.objects.filter(conversation=conversation).update(desired=Sandbox.Desired.STOPPED)
        queue.stop_sandbox(conversation.pk)
        changed += 1
    owners = list_live_owners()
    for conversation in rows.filter(sandbox__observed=Sandbox.Observed.RUNNING, deleted_at=None):
        changed += _reconcile(conversation, owners)
    # The first job of a deletion has used up its retries after five minutes, so queue another job.
    for conversation in rows.filter(deleted_at__lt=timezone.now() - timedelta(minutes=5)):
        queue.destroy_conversation(conversation.pk)
        changed += 1
    return changed


def _reconcile(conversation: Conversation, owners: set[str]) -> int:
    """Mark a sandbox as stopped if its engine ended while no manager followed it; return the number of changes."""
    lease = getattr(conversation, "lease", None)
    # A live manager notices the end of its engines itself.
    if lease is not None and lease.owner in owners:
        return 0
    if lease is not None and not lease.is_wanted:
        request_manager(conversation_id=conversation.pk)
    sandbox = conversation.sandbox
    if sandbox is None:
        return 0
    release_connection()
    observed = get_provider(sandbox.provider).inspect(sandbox.handle)
    if observed.state in (State.RUNNING, State.STARTING):
        return 0
    collect_last_decisions(conversation_id=conversation.pk)
    with transaction.atomic():
        locked = Conversation.objects.select_for_update().get(pk=conversation.pk)
        # If the engine was restarted in the meantime, its run differs and nothing is updated.
        rows = Sandbox.objects.filter(
            pk=sandbox.pk, observed=Sandbox.Observed.RUNNING, run=sandbox.run
        )
        if rows.update(observed=Sandbox.Observed.STOPPED, detail=observed.detail):
            append_notice(
                locked,
                code="engine_stopped",
                message="The agent's engine stopped. The next message starts it again.",
                detail=observed.detail,
            )
            change_fields(locked, status=Conversation.Status.STOPPED)
            queue_next_start(locked.organization_id)
            return 1
    return 0


def requeue_lost_work() -> int:
    """Queue new jobs for unfinished starts and open messages whose jobs were lost. Return the number of new jobs.

    Jobs are lost when workers are killed. Every job is safe to repeat, so an unnecessary job is harmless.
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
def wake(*, conversation_id: UUID, by: User | None = None) -> Conversation:
    """Request a start of the conversation's sandbox if it is not running, without running its agent.

    ``by`` is the user who asks for it; None stands for the creator. Return the conversation. Safe to repeat. Raise
    ``MissingPermission`` if the creator does not let the user steer.
    """
    rows = Conversation.objects.select_for_update(of=("self",)).select_related("sandbox")
    conversation = rows.get(pk=conversation_id)
    require_driver(conversation, by)
    sandbox = conversation.sandbox
    is_desired = sandbox is not None and sandbox.desired == Sandbox.Desired.RUNNING
    if not (is_desired and is_up(conversation)):
        request_start(conversation, reason="opened")
    return conversation
