"""Starts of a conversation's sandbox and engine, phase by phase."""

import contextlib
import logging
import time
from collections.abc import Iterator
from datetime import datetime
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from accounts.models import Organization
from billing import services as billing
from conversations import announcing, queue
from conversations.engine.client import EngineClient
from conversations.engine.errors import EngineRefused, EngineUnreachable
from conversations.engine.payloads import build_start_request
from conversations.models import (
    Conversation,
    Event,
    Lease,
    Sandbox,
    StartTask,
)
from conversations.sandboxes.engine_environment import check_installation
from conversations.sandboxes.provider import (
    SandboxImpossible,
    SandboxNotYet,
    SandboxSpec,
    State,
    get_provider,
)
from conversations.services import egress, redaction
from conversations.services.details import update_confirmation
from conversations.services.egress_log import collect_last_decisions
from conversations.services.engines import open_engine
from conversations.services.equipment import (
    build_secret_sources,
    build_start_options,
    get_lent_settings,
    issue_run_token,
    renew_secrets,
    set_git_author,
)
from conversations.services.ingestion import LogGap, read_log
from conversations.services.inheritance import build_story, copy_parent_files
from conversations.services.leases import request_manager
from conversations.services.start_options import get_max_iterations, get_value_tags
from conversations.services.state import append_notice, change_fields
from conversations.services.workspaces import prepare_workspace
from lib.connections import release_connection
from lib.host_paths import hide_host_folder
from lib.problems import Problem

log = logging.getLogger(__name__)
Phase = StartTask.Phase
QUEUE_SECONDS = 2
"""The delay in seconds before a start that had to wait is tried again. After failures the delay is a multiple of it."""
ENGINE_SECONDS = 1
"""The delay in seconds before a start that waits for the installation of the engine is tried again."""
QUEUE_MAX_SECONDS = 60
"""The longest delay in seconds of a start that waits for a free slot of its organization."""
MAX_ATTEMPTS = 3
CANCELLED = "The sandbox was stopped before its start was complete."
OCCUPYING = (Sandbox.Observed.STARTING, Sandbox.Observed.RUNNING)
"""The states in which a sandbox occupies one of its organization's slots."""
ALIVE = (State.RUNNING, State.STARTING)
STOP_GRACE_SECONDS = 10.0
"""The time that an engine has to finish before it is killed."""


class StartCancelled(Exception):
    """The sandbox was stopped or the conversation was deleted while the sandbox started."""


class StartFailed(Exception):
    """A phase of the start failed. The text is shown to the conversation's owner."""


def start_conversation(*, conversation_id: UUID) -> None:
    """Start the sandbox and engine of a conversation that has an open start task.

    Safe to repeat, and safe to kill at any point: every phase continues from the state that an earlier attempt left.
    If the organization already has ``SANDBOX_MAX_RUNNING`` running sandboxes, queue this job again and return.
    """
    conversation = (
        Conversation.objects.select_related("sandbox", "organization")
        .filter(pk=conversation_id, deleted_at=None)
        .first()
    )
    task = StartTask.objects.filter(conversation_id=conversation_id, finished_at=None).first()
    if conversation is None or task is None or conversation.sandbox is None:
        return
    StartTask.objects.filter(pk=task.pk).update(attempts=task.attempts + 1)
    task.attempts += 1
    sandbox = conversation.sandbox
    try:
        _check_still_desired(sandbox)
        # A start that waits for the engine occupies no slot of its organization.
        check_installation()
        # The model gateway token of a sandbox that was stopped for a long time has expired.
        with _phase(task, Phase.WORKING):
            billing.extend_gateway_tokens(conversation_ids=[conversation_id])
        if not _claim_slot(task, sandbox):
            # A stop wakes the oldest waiting start. The others look rarely, so that hundreds of waiting starts of an
            # organization do not keep the workers busy.
            position = task.queue_position or 1
            delay = min(QUEUE_SECONDS * position, QUEUE_MAX_SECONDS)
            queue.start_conversation(conversation_id, in_seconds=delay)
            return
        with _phase(task, Phase.WAITING_FOR_SANDBOX):
            _start_sandbox(conversation, sandbox)
        client = open_engine(sandbox)
        # An engine that already has the conversation, or had it before it was replaced, also has its workspace.
        if not sandbox.conversation_started and sandbox.record_seq is None:
            copy_parent_files(conversation, sandbox)
            prepare_workspace(conversation, sandbox, client, lambda phase: _phase(task, phase))
        with _phase(task, Phase.STARTING_CONVERSATION):
            _start_engine_conversation(conversation, sandbox, client)
    except StartCancelled:
        _record_cancellation(task)
        return
    except SandboxNotYet as error:
        _postpone(task, error)
        return
    except (Problem, StartFailed, EngineUnreachable, EngineRefused) as error:
        _record_failure(task, conversation, error)
        return
    _finish(task, conversation, sandbox)


def _record_cancellation(task: StartTask) -> None:
    """End a start whose sandbox was stopped. The job that stops or destroys the sandbox waits for this job's lock."""
    with transaction.atomic():
        conversation = Conversation.objects.select_for_update().get(pk=task.conversation_id)
        sandbox = Sandbox.objects.filter(conversation=conversation).first()
        if sandbox is not None and sandbox.desired == Sandbox.Desired.RUNNING:
            # A user resumed the conversation in the meantime and found this start still open.
            _update(task, attempts=task.attempts - 1)
            queue.start_conversation(conversation.pk)
            return
        now = timezone.now()
        task.phases.append(_entry(Phase.ERROR, started=now, finished=now, detail=CANCELLED))
        _update(task, phase=Phase.ERROR, phases=task.phases, error=CANCELLED, finished_at=now)


def queue_next_start(organization_id: UUID) -> None:
    """Start the organization's oldest conversation that waits for a free slot now, without its usual delay."""
    waiting = StartTask.objects.filter(
        organization_id=organization_id, finished_at=None, queue_position__isnull=False
    )
    if (oldest := waiting.order_by("created_at").first()) is not None:
        queue.hasten_start(oldest.conversation_id)


def _postpone(task: StartTask, error: SandboxNotYet) -> None:
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
            _update(task, phase=Phase.WORKING, phases=[waiting], queue_position=None)
        # Without an announcement, because nothing changed for readers.
        StartTask.objects.filter(pk=task.pk).update(attempts=task.attempts - 1)
        queue.start_conversation(task.conversation_id, in_seconds=ENGINE_SECONDS)


def _claim_slot(task: StartTask, sandbox: Sandbox) -> bool:
    """Claim one of the organization's slots for running sandboxes. Return False if no slot is free.

    Without a free slot, the task's position in the organization's queue is stored.
    """
    with transaction.atomic():
        # Lock the organization's row, so that two starts cannot claim the last slot.
        Organization.objects.select_for_update().get(pk=task.organization_id)
        sandbox.refresh_from_db()
        # An earlier attempt may have claimed a slot already.
        if sandbox.observed not in OCCUPYING:
            occupied = Sandbox.objects.filter(
                organization_id=task.organization_id, observed__in=OCCUPYING
            ).count()
            if occupied >= settings.SANDBOX_MAX_RUNNING:
                earlier = StartTask.objects.filter(
                    organization_id=task.organization_id,
                    finished_at=None,
                    queue_position__isnull=False,
                    created_at__lt=task.created_at,
                )
                _update(task, queue_position=earlier.count() + 1, phase=Phase.WAITING_FOR_SANDBOX)
                return False
            sandbox.observed = Sandbox.Observed.STARTING
            sandbox.save(update_fields=["observed"])
    if task.queue_position is not None:
        _update(task, queue_position=None)
    return True


def _start_sandbox(conversation: Conversation, sandbox: Sandbox) -> None:
    """Start or resume the sandbox at its provider and wait until its engine answers.

    Raise ``StartFailed`` if the sandbox stops. Stop it and raise ``StartFailed`` if its engine does not answer within
    ``SANDBOX_START_SECONDS``.
    """
    _leave_process_provider(sandbox)
    provider = get_provider(sandbox.provider)
    spec = SandboxSpec(
        sandbox_id=sandbox.pk,
        session_key=sandbox.session_key(),
        secret_key=sandbox.secret_key(),
        gateway_url=provider.gateway_url(),
        policy=egress.build_policy(conversation),
    )
    release_connection()
    # If an earlier attempt started the engine and it still runs, this attempt continues that run.
    earlier = provider.inspect(sandbox.handle) if sandbox.handle else None
    # Programs that the agent started may still hold values of the earlier lender, so they must end too.
    if _must_replace_equipment(conversation, sandbox) and earlier and earlier.state in ALIVE:
        provider.stop(sandbox.handle, grace_seconds=STOP_GRACE_SECONDS)
        earlier = provider.inspect(sandbox.handle)
    is_new_run = earlier is None or earlier.state not in ALIVE
    handle = provider.resume(spec, sandbox.handle) if sandbox.handle else provider.start(spec)
    sandbox.handle = handle
    if is_new_run:
        sandbox.run += 1
        sandbox.started_at = timezone.now()
    sandbox.observed, sandbox.stopped_at = Sandbox.Observed.STARTING, None
    # Store the handle before waiting, so that a retry finds the sandbox if this worker is killed.
    sandbox.save(update_fields=["handle", "run", "started_at", "observed", "stopped_at"])
    # The network rules may have changed before the handle was stored, when a job could not send them to the sandbox.
    egress.push_egress_policy(conversation_id=conversation.pk)
    deadline = time.monotonic() + settings.SANDBOX_START_SECONDS
    while True:
        # Inspecting an engine that hangs takes a second.
        release_connection()
        observed = provider.inspect(handle)
        if observed.state == State.RUNNING:
            break
        if observed.state != State.STARTING:
            raise StartFailed(
                observed.detail
                or f"The sandbox did not start. Its state is {observed.state.value}."
            )
        _check_still_desired(sandbox)
        if time.monotonic() > deadline:
            # Otherwise the next attempt would continue this run, and after the last one it would stay.
            provider.stop(handle, grace_seconds=0)
            raise StartFailed(
                f"The engine did not answer within {settings.SANDBOX_START_SECONDS} seconds, so its sandbox was "
                "stopped. If this machine is busy, try again later, or raise SANDBOX_START_SECONDS."
            )
        release_connection()
        time.sleep(0.25)
    sandbox.workspace, sandbox.detail = observed.workspace, ""
    sandbox.active_at = timezone.now()
    info = open_engine(sandbox).get_server_info()
    sandbox.engine_version = str(info.get("version", ""))[:40]
    sandbox.save(update_fields=["workspace", "detail", "active_at", "engine_version"])


def _check_still_desired(sandbox: Sandbox) -> None:
    """Raise ``StartCancelled`` if the sandbox was stopped or its conversation deleted during the start."""
    if not Sandbox.objects.filter(pk=sandbox.pk, desired=Sandbox.Desired.RUNNING).exists():
        raise StartCancelled


def replaces_process_provider() -> bool:
    """Return whether sandboxes of the process provider continue under bubblewrap, which this server uses now."""
    return bool(settings.SANDBOX_PROVIDER == "bubblewrap")


def _leave_process_provider(sandbox: Sandbox) -> None:
    """Move a sandbox of the process provider to bubblewrap, if this server uses bubblewrap now. Safe to repeat.

    An upgrade from a release without isolation leaves such sandboxes behind. Both providers store a sandbox in the same
    folders, and bubblewrap mounts them at their old paths, so the files and the history are kept. Raise
    ``SandboxImpossible``, without any change, if this machine cannot isolate sandboxes.
    """
    if sandbox.provider != "process" or not replaces_process_provider():
        return
    isolation = get_provider("bubblewrap").describe()
    if isolation.cause:
        raise SandboxImpossible(f"{isolation.cause} {isolation.remedy}")
    # The engine may still run since before the upgrade, and two engines must not use the same files. An earlier attempt
    # may have died before it stored the handle.
    process = get_provider("process")
    if handle := process.find(sandbox.pk) or sandbox.handle:
        process.stop(handle, grace_seconds=STOP_GRACE_SECONDS)
    sandbox.provider = "bubblewrap"
    sandbox.save(update_fields=["provider"])
    log.info("Sandbox %s continues under bubblewrap instead of as a plain process.", sandbox.pk)


def _start_engine_conversation(
    conversation: Conversation, sandbox: Sandbox, client: EngineClient
) -> None:
    """Create the conversation in its engine under the same id, or update it if an earlier run created it."""
    if _must_replace_equipment(conversation, sandbox):
        _remove_engine_conversation(conversation, sandbox, client)
    sandbox.lent_by = conversation.lender
    # Store the lender first: if this worker is killed, the next attempt knows what the engine may have.
    sandbox.save(update_fields=["lent_by"])
    if sandbox.conversation_started:
        if (state := client.get_conversation(conversation.pk)) is None:
            raise StartFailed(
                "The engine no longer has this conversation's files, so the conversation cannot continue. "
                "Start a new conversation."
            )
        update_confirmation(state, conversation, client)
        renew_secrets(conversation, sandbox, client)
        return
    effective = get_lent_settings(conversation)
    token = issue_run_token(conversation)
    body = build_start_request(
        conversation_id=conversation.pk,
        model=conversation.model,
        gateway_url=f"{get_provider(sandbox.provider).gateway_url()}/api/llm/v1",
        token=token,
        workspace=sandbox.workspace,
        confirmation_policy=conversation.confirmation_policy,
        security_analyzer=conversation.security_analyzer,
        system_suffix=build_story(conversation, sandbox),
        secrets=build_secret_sources(conversation, sandbox),
        tags=get_value_tags(conversation),
        tools=(conversation.start_options or {}).get("tools"),
        **build_start_options(effective)
        | {"max_iterations": get_max_iterations(conversation, effective)},
    )
    try:
        client.start_conversation(body)
    except EngineRefused as error:
        # After a server error the engine may keep a half-created conversation, which a retry would return.
        if error.status >= 500:
            with contextlib.suppress(EngineRefused, EngineUnreachable):
                client.delete_conversation(conversation.pk)
        raise
    set_git_author(effective, conversation.created_by, sandbox, client)


def _must_replace_equipment(conversation: Conversation, sandbox: Sandbox) -> bool:
    """Return whether the engine's conversation was given the secrets and the model of another lender than now."""
    given = sandbox.lent_by
    # Earlier releases stored no lender and always lent what the creator has.
    if not given and sandbox.conversation_started:
        given = Conversation.Lender.CREATOR
    return bool(given) and given != conversation.lender


def _remove_engine_conversation(
    conversation: Conversation, sandbox: Sandbox, client: EngineClient
) -> None:
    """Remove the conversation, with the earlier lender's keys in it, from the engine, so that it is created again.

    The new one gets the log so far as a record, like a fork. Files of the workspace are kept. Safe to repeat.
    """
    # openhands-agent-server 1.58.2 stores the agent's MCP servers with their keys, and the names of secrets, with the
    # conversation, and no route of its API removes them.
    if client.get_conversation(conversation.pk) is not None:
        # First store the events that nobody has read yet. A lost lease is only a reason to try again.
        generation = Lease.objects.get(conversation=conversation).generation
        try:
            read_log(conversation_id=conversation.pk, generation=generation, client=client)
        except LogGap as gap:
            log.warning(
                "The last events of conversation %s could not be read: %s", conversation.pk, gap
            )
        client.delete_conversation(conversation.pk)
    with transaction.atomic():
        locked = Conversation.objects.select_for_update().get(pk=conversation.pk)
        # The new conversation in the engine counts its events from 0 again.
        Event.objects.filter(conversation=locked, engine_seq__isnull=False).update(engine_seq=None)
        locked.engine_seq = -1
        locked.save(update_fields=["engine_seq"])
        sandbox.conversation_started = False
        sandbox.record_seq = locked.last_seq
        sandbox.save(update_fields=["conversation_started", "record_seq"])


def _confirmation_values(conversation: Conversation) -> tuple[str, str]:
    return conversation.confirmation_policy, conversation.security_analyzer


def _finish(task: StartTask, started: Conversation, sandbox: Sandbox) -> None:
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
        _update(task, phase=Phase.READY, phases=task.phases, finished_at=now)
        change_fields(conversation, status=Conversation.Status.RUNNING, status_detail="")
        # Messages that were posted during the start are still open.
        queue.deliver_messages(conversation.pk)


def _record_failure(task: StartTask, conversation: Conversation, failure: Exception) -> None:
    """Queue another attempt, or mark the start as failed after ``MAX_ATTEMPTS`` or a permanent failure."""
    error = _describe(failure, conversation)
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
        _update(task, phase=Phase.ERROR, phases=task.phases, error=error, finished_at=now)
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


def _describe(error: Exception, conversation: Conversation) -> str:
    """Return the text of an error without secrets: it may quote the output of the engine or of a setup script."""
    return redaction.hide_in_text(
        hide_host_folder(str(getattr(error, "detail", "") or error)),
        user_ids=[conversation.created_by_id],
        organization_id=conversation.organization_id,
    )


@contextlib.contextmanager
def _phase(task: StartTask, phase: str) -> Iterator[None]:
    """Record the phase that the block carries out: its start and end times and, if the block fails, the error."""
    entry = _entry(phase, started=timezone.now())
    for earlier in task.phases:
        if earlier["phase"] == phase and "percent" in earlier:  # the start waited in this phase
            entry["started_at"] = earlier["started_at"]
    # A retry replaces the entry of the earlier attempt.
    task.phases = [e for e in task.phases if e["phase"] != phase] + [entry]
    _update(task, phase=phase, phases=task.phases)
    try:
        yield
    except Exception as error:
        entry["detail"] = _describe(error, task.conversation)[:500]
        raise
    finally:
        entry["finished_at"] = timezone.now().isoformat()
        _update(task, phases=task.phases)


def _entry(
    phase: str, *, started: datetime, finished: datetime | None = None, detail: str = ""
) -> dict[str, str | None]:
    return {
        "phase": str(phase),
        "started_at": started.isoformat(),
        "finished_at": finished.isoformat() if finished else None,
        "detail": detail[:500],
    }


def _update(task: StartTask, **fields: object) -> None:
    for name, value in fields.items():
        setattr(task, name, value)
    task.updated_at = timezone.now()
    task.save(update_fields=[*fields, "updated_at"])
    # A conversation's record contains its start task. Update the conversation's time too, so that polling processes
    # notice the change even if the nudge is lost.
    Conversation.objects.filter(pk=task.conversation_id).update(updated_at=task.updated_at)
    announcing.announce_on_commit(task.conversation_id)
