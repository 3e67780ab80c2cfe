"""The state of a conversation's sandbox as users see it, for every API."""

import enum
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.conf import settings

from conversations.models import Conversation, Sandbox, StartTask
from lib.problems import Problem


class SandboxStatus(enum.StrEnum):
    """The statuses of a conversation, and ``missing`` for a sandbox that does not exist."""

    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    FAILED = "failed"
    MISSING = "missing"


class NoSandbox(Problem):
    """The conversation has no sandbox, because another program runs its agent."""

    status = 404
    code = "no-sandbox"
    sentence = (
        "This conversation has no sandbox on this server, because another program runs its agent."
    )


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """The limits of every sandbox on this server."""

    idle_seconds: int
    """A sandbox that is unused for this long is stopped; its files stay."""
    start_seconds: int
    """A start fails if the engine does not answer within this time."""
    max_running: int
    """The number of an organization's sandboxes that may run at the same time."""


@dataclass(frozen=True, slots=True)
class SandboxState:
    """The facts about a sandbox that its users may see: no keys, ports, addresses or paths of the host."""

    id: UUID
    status: SandboxStatus
    since: datetime | None
    """When the status began; None if this was not recorded."""
    queue_position: int | None
    """The place in the organization's queue for a sandbox, from 1; None if the sandbox does not wait."""
    provider: str
    engine_version: str
    """Empty until the engine has answered for the first time."""
    runs: int
    """How many times the engine was started."""
    created_at: datetime
    started_at: datetime | None
    stopped_at: datetime | None
    last_used_at: datetime
    limits: SandboxLimits


def sandbox_status(conversation: Conversation) -> SandboxStatus:
    """Return the status of a conversation's sandbox. No query if ``sandbox`` is loaded."""
    sandbox = conversation.sandbox
    if sandbox is None or sandbox.observed == Sandbox.Observed.MISSING:
        return SandboxStatus.MISSING
    return SandboxStatus(conversation.status)


def describe_sandbox(*, conversation: Conversation) -> SandboxState:
    """Return the state of a conversation's sandbox. One query if ``sandbox`` is loaded. Raise ``NoSandbox``."""
    sandbox = conversation.sandbox
    if sandbox is None:
        raise NoSandbox
    start = conversation.start_tasks.order_by("-created_at").first()
    status = sandbox_status(conversation)
    return SandboxState(
        id=sandbox.pk,
        status=status,
        since=_since(status, sandbox, start),
        queue_position=start.queue_position if start and start.finished_at is None else None,
        provider=sandbox.provider,
        engine_version=sandbox.engine_version,
        runs=sandbox.run,
        created_at=sandbox.created_at,
        started_at=sandbox.started_at,
        stopped_at=sandbox.stopped_at,
        last_used_at=sandbox.active_at,
        limits=SandboxLimits(
            idle_seconds=settings.SANDBOX_IDLE_SECONDS,
            start_seconds=settings.SANDBOX_START_SECONDS,
            max_running=settings.SANDBOX_MAX_RUNNING,
        ),
    )


def _since(status: SandboxStatus, sandbox: Sandbox, start: StartTask | None) -> datetime | None:
    """Return when a status began.

    The status is the conversation's, which changes with its start tasks: a start begins ``starting``, and its end
    begins ``running`` or ``failed``. ``paused`` is set before the worker stops the sandbox, so its time is unknown
    until then.
    """
    match status:
        case SandboxStatus.STARTING:
            return start.created_at if start else None
        case SandboxStatus.RUNNING | SandboxStatus.FAILED:
            return start.finished_at if start else None
    return sandbox.stopped_at
