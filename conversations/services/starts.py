"""Starts of a conversation's sandbox and engine, phase by phase."""

import contextlib
import logging
import time
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from accounts.models import Organization
from billing import services as billing
from conversations import queue
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
from conversations.services import egress
from conversations.services.details import update_confirmation
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
from conversations.services.start_options import get_max_iterations, get_value_tags
from conversations.services.start_tasks import (
    QUEUE_SECONDS,
    STOP_GRACE_SECONDS,
    Phase,
    carry_out_phase,
    finish,
    postpone,
    record_cancellation,
    record_failure,
    update,
)
from conversations.services.workspaces import prepare_workspace
from lib.connections import release_connection
from lib.problems import Problem

log = logging.getLogger(__name__)
QUEUE_MAX_SECONDS = 60
"""The longest delay in seconds of a start that waits for a free slot of its organization."""
OCCUPYING = (Sandbox.Observed.STARTING, Sandbox.Observed.RUNNING)
"""The states in which a sandbox occupies one of its organization's slots."""
ALIVE = (State.RUNNING, State.STARTING)


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
        with carry_out_phase(task, Phase.WORKING):
            billing.extend_gateway_tokens(conversation_ids=[conversation_id])
        if not _claim_slot(task, sandbox):
            # A stop wakes the oldest waiting start. The others look rarely, so that hundreds of waiting starts of an
            # organization do not keep the workers busy.
            position = task.queue_position or 1
            delay = min(QUEUE_SECONDS * position, QUEUE_MAX_SECONDS)
            queue.start_conversation(conversation_id, in_seconds=delay)
            return
        with carry_out_phase(task, Phase.WAITING_FOR_SANDBOX):
            _start_sandbox(conversation, sandbox)
        client = open_engine(sandbox)
        # An engine that already has the conversation, or had it before it was replaced, also has its workspace.
        if not sandbox.conversation_started and sandbox.record_seq is None:
            copy_parent_files(conversation, sandbox)
            prepare_workspace(
                conversation, sandbox, client, lambda phase: carry_out_phase(task, phase)
            )
        with carry_out_phase(task, Phase.STARTING_CONVERSATION):
            _start_engine_conversation(conversation, sandbox, client)
    except StartCancelled:
        record_cancellation(task)
        return
    except SandboxNotYet as error:
        postpone(task, error)
        return
    except (Problem, StartFailed, EngineUnreachable, EngineRefused) as error:
        record_failure(task, conversation, error)
        return
    finish(task, conversation, sandbox)


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
                update(task, queue_position=earlier.count() + 1, phase=Phase.WAITING_FOR_SANDBOX)
                return False
            sandbox.observed = Sandbox.Observed.STARTING
            sandbox.save(update_fields=["observed"])
    if task.queue_position is not None:
        update(task, queue_position=None)
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
