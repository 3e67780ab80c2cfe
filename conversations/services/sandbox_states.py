"""The state of a conversation's sandbox as users see it, for every API."""

import enum
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.conf import settings

from conversations.models import Conversation, Sandbox, StartTask
from conversations.models.sandbox import find_wait
from conversations.sandboxes.provider import Isolation, SandboxImpossible, Usage, get_provider
from conversations.services.starts import OCCUPYING, replaces_process_provider
from lib.problems import Problem


class SandboxStatus(enum.StrEnum):
    """The status of a sandbox: the status of its conversation, or ``missing`` if the sandbox does not exist."""

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
    """The limits of a sandbox."""

    idle_seconds: int
    """The seconds without use after which a sandbox is stopped. The sandbox's files are kept."""
    start_seconds: int
    """The seconds after which a start fails if the engine has not answered."""
    max_running: int
    """The largest number of sandboxes that an organization may run at the same time."""
    memory_bytes: int | None
    """The memory above which the sandbox is stopped; None without a limit."""
    processes: int | None
    """The largest number of processes and threads; None without a limit."""
    disk_bytes: int | None
    """The size of all files above which the sandbox is stopped; None without a limit."""


@dataclass(frozen=True, slots=True)
class SandboxState:
    """The state of a sandbox as users may see it, without keys, and without ports, addresses and paths of the host."""

    id: UUID
    status: SandboxStatus
    since: datetime | None
    """When the status began; None if this was not recorded."""
    queue_position: int | None
    """The position in the organization's queue for a sandbox, from 1; None if the sandbox is not waiting."""
    detail: str
    """For what the start of the sandbox waits, with the progress; empty if it does not wait."""
    provider: str
    engine_version: str
    """The version of the agent engine; empty until the engine has answered for the first time."""
    runs: int
    """How many times the engine was started."""
    created_at: datetime
    started_at: datetime | None
    stopped_at: datetime | None
    last_used_at: datetime
    limits: SandboxLimits
    isolation: Isolation
    """The isolation in force, or that of the next start if the sandbox does not run."""
    usage: Usage | None
    """The newest measurement; None if the sandbox does not run or is not measured."""


def sandbox_status(conversation: Conversation) -> SandboxStatus:
    """Return the status of a conversation's sandbox. Runs no database query if ``conversation.sandbox`` is loaded."""
    sandbox = conversation.sandbox
    if sandbox is None or sandbox.observed == Sandbox.Observed.MISSING:
        return SandboxStatus.MISSING
    return SandboxStatus(conversation.status)


def describe_sandbox(*, conversation: Conversation) -> SandboxState:
    """Return the state of a conversation's sandbox. Raise ``NoSandbox``.

    Runs one database query if ``conversation.sandbox`` is loaded.
    """
    sandbox = conversation.sandbox
    if sandbox is None:
        raise NoSandbox
    start = conversation.start_tasks.order_by("-created_at").first()
    status = sandbox_status(conversation)
    isolation, usage = _read_facts(sandbox)
    return SandboxState(
        id=sandbox.pk,
        status=status,
        since=_since(status, sandbox, start),
        queue_position=start.queue_position if start and start.finished_at is None else None,
        detail=find_wait(start.phases) if start and start.finished_at is None else "",
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
            memory_bytes=isolation.limits.memory_bytes or None,
            processes=isolation.limits.processes or None,
            disk_bytes=isolation.limits.disk_bytes or None,
        ),
        isolation=isolation,
        usage=usage,
    )


def describe_isolation() -> Isolation:
    """Return the isolation of new sandboxes on this machine, with the cause and the remedy if none can start."""
    return get_provider(settings.SANDBOX_PROVIDER).describe()


def _read_facts(sandbox: Sandbox) -> tuple[Isolation, Usage | None]:
    """Return the isolation and the usage of a sandbox."""
    name = sandbox.provider
    if name == "process" and replaces_process_provider() and sandbox.observed not in OCCUPYING:
        name = "bubblewrap"
    try:
        provider = get_provider(name)
    except SandboxImpossible:
        meaning = (
            f"This server has no sandbox provider named {sandbox.provider}, so it cannot tell."
        )
        return Isolation("Unknown", meaning, is_isolated=False), None
    return provider.describe(sandbox.handle or None), provider.read_usage(sandbox.handle)


def _since(status: SandboxStatus, sandbox: Sandbox, start: StartTask | None) -> datetime | None:
    """Return when a sandbox's status began, or None if that is unknown.

    A start task determines the status: ``starting`` begins with the task, and ``running`` or ``failed`` begin with its
    end. ``paused`` is set before a worker stops the sandbox, so its time is unknown until the sandbox is stopped.
    """
    match status:
        case SandboxStatus.STARTING:
            return start.created_at if start else None
        case SandboxStatus.RUNNING | SandboxStatus.FAILED:
            return start.finished_at if start else None
    return sandbox.stopped_at
