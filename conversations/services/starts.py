"""Bringing sandboxes up, and down: desired state into observed state, phase by phase."""

import contextlib
import logging
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from accounts.models import Organization
from billing import services as billing
from conversations import announcing, queue
from conversations.engine.client import EngineClient, EngineRefused, EngineUnreachable
from conversations.engine.payloads import build_analyzer, build_policy, build_start_request
from conversations.models import Conversation, Sandbox, StartTask
from conversations.sandboxes.provider import (
    SandboxNotYet,
    SandboxSpec,
    State,
    get_provider,
)
from conversations.services.details import tell_engine
from conversations.services.equipment import (
    introduce,
    renew_secrets,
    secret_sources,
    settings_of,
    start_options,
)
from conversations.services.inheritance import bring_files, story_for_agent
from conversations.services.leases import want_manager
from conversations.services.state import append_notice, change_fields
from conversations.services.workspaces import prepare_workspace
from lib.problems import Problem

log = logging.getLogger(__name__)
Phase = StartTask.Phase
QUEUE_SECONDS = 2
MAX_ATTEMPTS = 3
OCCUPYING = (Sandbox.Observed.STARTING, Sandbox.Observed.RUNNING)


class StartFailed(Exception):
    """A phase failed for good; the text is for the conversation's owner."""


def start_conversation(*, conversation_id: UUID) -> None:
    """Bring a conversation's sandbox and engine up, as its open start task asks.

    Safe to repeat and to kill: every phase finds what an earlier attempt left. Waits its turn when the
    organization has ``SANDBOX_MAX_RUNNING`` sandboxes running, by queueing itself again.
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
        with _phase(task, Phase.WORKING):
            billing.extend_gateway_tokens(conversation_ids=[conversation_id])
        if not _take_turn(task, sandbox):
            queue.start_conversation(conversation_id, in_seconds=QUEUE_SECONDS)
            return
        with _phase(task, Phase.WAITING_FOR_SANDBOX):
            _start_sandbox(sandbox)
        client = EngineClient(sandbox.base_url, sandbox.session_key())
        if not sandbox.conversation_started:
            bring_files(conversation, sandbox)
            prepare_workspace(conversation, sandbox, client, lambda phase: _phase(task, phase))
        with _phase(task, Phase.STARTING_CONVERSATION):
            _start_engine_conversation(conversation, sandbox, client)
    except SandboxNotYet as error:
        _wait(task, str(error.detail))
        return
    except (Problem, StartFailed, EngineUnreachable, EngineRefused) as error:
        _note_failure(task, conversation, error)
        return
    _finish(task, conversation, sandbox)


def _wait(task: StartTask, reason: str) -> None:
    """Try again soon, without counting it as an attempt; the owner sees what it waits for."""
    with transaction.atomic():
        Sandbox.objects.filter(conversation=task.conversation_id).update(
            observed=Sandbox.Observed.PENDING, detail=reason
        )
        _update(task, attempts=task.attempts - 1)
        queue.start_conversation(task.conversation_id, in_seconds=QUEUE_SECONDS)


def _take_turn(task: StartTask, sandbox: Sandbox) -> bool:
    """Occupy a place among the organization's running sandboxes, or note the position in the line."""
    with transaction.atomic():
        Organization.objects.select_for_update().get(pk=task.organization_id)
        sandbox.refresh_from_db()
        if sandbox.observed not in OCCUPYING:
            occupied = Sandbox.objects.filter(
                organization_id=task.organization_id, observed__in=OCCUPYING
            ).count()
            if occupied >= settings.SANDBOX_MAX_RUNNING:
                before = StartTask.objects.filter(
                    organization_id=task.organization_id,
                    finished_at=None,
                    queue_position__isnull=False,
                    created_at__lt=task.created_at,
                )
                _update(task, queue_position=before.count() + 1, phase=Phase.WAITING_FOR_SANDBOX)
                return False
            sandbox.observed = Sandbox.Observed.STARTING
            sandbox.save(update_fields=["observed"])
    if task.queue_position is not None:
        _update(task, queue_position=None)
    return True


def _start_sandbox(sandbox: Sandbox) -> None:
    """Start the provider's side and wait until the engine answers."""
    provider = get_provider(sandbox.provider)
    spec = SandboxSpec(
        sandbox_id=sandbox.pk,
        session_key=sandbox.session_key(),
        secret_key=sandbox.secret_key(),
        gateway_url=settings.GATEWAY_URL,
    )
    before = provider.inspect(sandbox.handle) if sandbox.handle else None
    is_new_run = before is None or before.state not in (State.RUNNING, State.STARTING)
    handle = provider.resume(spec, sandbox.handle) if sandbox.handle else provider.start(spec)
    sandbox.handle = handle
    if is_new_run:
        sandbox.run += 1
        sandbox.started_at = timezone.now()
    sandbox.observed, sandbox.stopped_at = Sandbox.Observed.STARTING, None
    sandbox.save(update_fields=["handle", "run", "started_at", "observed", "stopped_at"])
    deadline = time.monotonic() + settings.SANDBOX_START_SECONDS
    while True:
        observed = provider.inspect(handle)
        if observed.state == State.RUNNING:
            break
        if observed.state != State.STARTING:
            raise StartFailed(observed.detail or f"The sandbox is {observed.state.value}.")
        if time.monotonic() > deadline:
            raise StartFailed(
                f"The engine did not answer within {settings.SANDBOX_START_SECONDS} s. {observed.detail}"
            )
        time.sleep(0.25)
    sandbox.base_url, sandbox.workspace = observed.base_url, observed.workspace
    sandbox.detail = ""
    sandbox.active_at = timezone.now()
    info = EngineClient(sandbox.base_url, sandbox.session_key()).get_server_info()
    sandbox.engine_version = str(info.get("version", ""))[:40]
    sandbox.save(update_fields=["base_url", "workspace", "detail", "active_at", "engine_version"])


def _start_engine_conversation(
    conversation: Conversation, sandbox: Sandbox, client: EngineClient
) -> None:
    """Make the conversation in the engine under our own id, unless it is there (creation is idempotent)."""
    if sandbox.conversation_started:
        if (known := client.get_conversation(conversation.pk)) is None:
            raise StartFailed("The engine lost this conversation's files.")
        _tell_changed_policy(known, conversation, client)
        renew_secrets(conversation, client)
        return
    found = settings_of(conversation)
    token = billing.issue_gateway_token(
        organization_id=conversation.organization_id,
        user_id=conversation.created_by_id,
        conversation_id=conversation.pk,
    )
    body = build_start_request(
        conversation_id=conversation.pk,
        model=conversation.model,
        gateway_url=f"{settings.GATEWAY_URL}/api/llm/v1",
        token=token,
        workspace=sandbox.workspace,
        confirmation_policy=conversation.confirmation_policy,
        security_analyzer=conversation.security_analyzer,
        system_suffix=story_for_agent(conversation, sandbox.workspace),
        secrets=secret_sources(conversation),
        **start_options(found),
    )
    try:
        client.start_conversation(body)
    except EngineRefused as error:
        if error.status >= 500:
            with contextlib.suppress(EngineRefused, EngineUnreachable):
                client.delete_conversation(conversation.pk)
        raise
    introduce(found, conversation.created_by, sandbox, client)


def _asks_as(conversation: Conversation) -> tuple[str, str]:
    return conversation.confirmation_policy, conversation.security_analyzer


def _tell_changed_policy(
    known: dict[str, Any], conversation: Conversation, client: EngineClient
) -> None:
    """Have an engine that wakes take over what was changed while it slept."""
    has = (known.get("confirmation_policy"), known.get("security_analyzer"))
    kinds = tuple(one.get("kind") if isinstance(one, dict) else None for one in has)
    wanted = (
        build_policy(conversation.confirmation_policy)["kind"],
        (build_analyzer(conversation.security_analyzer) or {}).get("kind"),
    )
    if kinds not in (wanted, (None, None)):
        tell_engine(client, conversation)


def _finish(task: StartTask, started: Conversation, sandbox: Sandbox) -> None:
    with transaction.atomic():
        conversation = Conversation.objects.select_for_update().get(pk=started.pk)
        if _asks_as(conversation) != _asks_as(started):  # changed while it was being started
            queue.carry_confirmation(conversation.pk)
        sandbox.observed, sandbox.conversation_started = Sandbox.Observed.RUNNING, True
        sandbox.save(update_fields=["observed", "conversation_started"])
        want_manager(conversation_id=conversation.pk)
        now = timezone.now()
        task.phases.append(_entry(Phase.READY, started=now, finished=now))
        _update(task, phase=Phase.READY, phases=task.phases, finished_at=now)
        change_fields(conversation, status=Conversation.Status.RUNNING, status_detail="")
        queue.deliver_messages(conversation.pk)


def _note_failure(task: StartTask, conversation: Conversation, failure: Exception) -> None:
    """Queue another attempt; after ``MAX_ATTEMPTS``, or a permanent failure, say what failed."""
    error = str(getattr(failure, "detail", "") or failure)
    is_permanent = getattr(failure, "is_permanent", False)
    log.warning("start of %s failed: %s", conversation.pk, error)
    with transaction.atomic():
        conversation = Conversation.objects.select_for_update().get(pk=conversation.pk)
        Sandbox.objects.filter(conversation=conversation).update(
            observed=Sandbox.Observed.FAILED, detail=error
        )
        if task.attempts < MAX_ATTEMPTS and not is_permanent:
            queue.start_conversation(conversation.pk, in_seconds=QUEUE_SECONDS * task.attempts)
            return
        now = timezone.now()
        task.phases.append(_entry(Phase.ERROR, started=now, finished=now, detail=error))
        _update(task, phase=Phase.ERROR, phases=task.phases, error=error, finished_at=now)
        append_notice(
            conversation,
            code="start_failed",
            message="The sandbox could not be started. Your messages are kept. "
            "Fix the cause below, then choose “Try again”.",
            detail=error,
        )
        change_fields(conversation, status=Conversation.Status.FAILED, status_detail=error)


@contextlib.contextmanager
def _phase(task: StartTask, phase: str) -> Iterator[None]:
    """Record one phase with its times and, when it fails, its cause."""
    entry = _entry(phase, started=timezone.now())
    task.phases = [e for e in task.phases if e["phase"] != phase] + [entry]
    _update(task, phase=phase, phases=task.phases)
    try:
        yield
    except Exception as error:
        entry["detail"] = str(getattr(error, "detail", "") or error)[:500]
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
    # The record carries the start task: touch the row, so that a lost nudge is noticed by the poll too.
    Conversation.objects.filter(pk=task.conversation_id).update(updated_at=task.updated_at)
    announcing.announce_on_commit(task.conversation_id)


# --- Driving one to the other -----------------------------------------------------
