"""Conversations, start tasks and sandboxes as V1 responses. Ids are hexadecimal without dashes; times are RFC 3339."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings

from accounts.models import User
from accounts.services.user_settings import EffectiveSettings
from compat.v1.translation import format_timestamp
from conversations.engine.payloads import build_analyzer, build_policy
from conversations.log.summaries import Summary
from conversations.models import OPEN_MESSAGES, Conversation, OutgoingMessage, Sandbox, StartTask
from conversations.models.sandbox import find_wait
from conversations.services import (
    SandboxStatus,
    conversation_key,
    conversation_keys,
    get_max_iterations,
    get_value_tags,
    sandbox_status,
)
from conversations.services.equipment import get_creator_settings

MICROS = 1_000_000
SANDBOX_STATUSES = {
    Conversation.Status.STARTING: "STARTING",
    Conversation.Status.RUNNING: "RUNNING",
    Conversation.Status.PAUSED: "PAUSED",
    Conversation.Status.STOPPED: "PAUSED",
    Conversation.Status.FAILED: "ERROR",
}
MISSING = "MISSING"
"""The ``sandbox_status`` of a conversation whose sandbox was deleted."""
SPEC = "agent-server"
"""The id of the only sandbox specification of this server."""
WORKSPACE = "/workspace/project"
"""The path by which clients know the workspace, whatever its real path in the sandbox is."""
RESTARTABLE_STATES = ("idle", "finished", "paused", "error", "stuck")
"""States of the agent in which a message starts a new run."""
TOOLS = {
    "terminal": "openhands.tools.terminal.definition",
    "file_editor": "openhands.tools.file_editor.definition",
    "task_tracker": "openhands.tools.task_tracker.definition",
}
"""The agent's tools, with the modules in which the engine's Python clients find the classes of their events."""


def map_sandbox_status(conversation: Conversation) -> str:
    """Return V1's ``sandbox_status`` of a conversation."""
    status = sandbox_status(conversation)
    if status == SandboxStatus.MISSING:
        return MISSING
    return SANDBOX_STATUSES[Conversation.Status(status)]


def _map_summary_status(row: Summary) -> str:
    """Return V1's ``sandbox_status`` of a summary."""
    if row.sandbox_observed is None or row.sandbox_observed == Sandbox.Observed.MISSING:
        return MISSING
    # A dict finds a member of a ``StrEnum`` by its value too.
    return SANDBOX_STATUSES[row.status]  # type: ignore[index]


def conversation_url(conversation: Any) -> str:
    """Return the URL on this server at which clients reach the engine's API for a conversation.

    Clients never connect to a sandbox directly. The web client uses only the host and port of this URL.
    """
    return f"{settings.PUBLIC_URL.rstrip('/')}/api/conversations/{conversation.pk.hex}"


def serialize_conversations(rows: Sequence[Summary], user: User) -> list[dict[str, Any]]:
    """Return each conversation as ``AppConversation``, in order. Runs no database query."""
    keys = conversation_keys(conversations=rows, user=user)
    return [_serialize_conversation(row, key) for row, key in zip(rows, keys, strict=True)]


def _serialize_description(row: Conversation) -> dict[str, Any]:
    return _build_description(row, row.repository, row.pull_requests)


def _build_description(row: Any, repository: Any, pull_requests: Any) -> dict[str, Any]:
    repository = repository or {}
    return {
        "selected_repository": repository.get("full_name"),
        "selected_branch": repository.get("branch"),
        "git_provider": repository.get("provider"),
        "title": row.title,
        "trigger": row.trigger,
        "pr_number": pull_requests,
    }


def _serialize_conversation(row: Summary, key: str) -> dict[str, Any]:
    status = _map_summary_status(row)
    exists = status != MISSING
    repository = json.loads(row.repository) if row.repository else None
    numbers = json.loads(row.pull_requests) if row.pull_requests != "[]" else []
    return {
        "id": row.pk.hex,
        "created_by_user_id": str(row.created_by_id),
        "sandbox_id": row.sandbox_id.hex if row.sandbox_id else "",
        **_build_description(row, repository, numbers),
        "llm_model": row.model,
        "metrics": serialize_metrics(row.model, row),
        "parent_conversation_id": row.parent_id.hex if row.parent_id else None,
        "sub_conversation_ids": [child.hex for child in row.children],
        "created_at": format_rfc3339(row.created_at),
        "updated_at": format_rfc3339(row.updated_at),
        "sandbox_status": status,
        "execution_status": execution_status(row, has_open_messages=row.has_open_messages)
        if exists
        else None,
        "conversation_url": conversation_url(row) if exists else None,
        "session_api_key": key if exists else None,
    }


def conversations_with_open_messages(ids: list[UUID]) -> set[UUID]:
    """Return the subset of ``ids`` whose conversations have messages that the agent has not received yet."""
    rows = OutgoingMessage.objects.filter(conversation_id__in=ids, status__in=OPEN_MESSAGES)
    return set(rows.values_list("conversation_id", flat=True))


def execution_status(row: Any, *, has_open_messages: bool) -> str:
    """Return V1's ``execution_status`` of a conversation (a ``Conversation`` or ``Summary``).

    The status is already ``running`` while a message waits for delivery, because the message will start a run. A client
    that polls after sending a message would otherwise read the status of the previous run.
    """
    if has_open_messages and row.execution_status in RESTARTABLE_STATES and row.status != "failed":
        return "running"
    status: str = row.execution_status
    if row.status in ("paused", "stopped") and status == "running":
        return "paused"  # the sandbox stopped before the engine could report the end of the run
    return status


def serialize_metrics(model: str, usage: Any) -> dict[str, Any]:
    """Return a ``MetricsSnapshot``: the cost in dollars and the tokens so far."""
    return {
        "model_name": model,
        "accumulated_cost": (usage.cost_micros if usage else 0) / MICROS,
        "max_budget_per_task": None,
        "accumulated_token_usage": {
            "model": model,
            "prompt_tokens": usage.prompt_tokens if usage else 0,
            "completion_tokens": usage.completion_tokens if usage else 0,
            "cache_read_tokens": usage.cached_tokens if usage else 0,
            "cache_write_tokens": 0,
            "reasoning_tokens": 0,
            "context_window": 0,
            "per_turn_token": 0,
            "response_id": "",
        },
    }


def serialize_sandbox(conversation: Conversation, user: User) -> dict[str, Any]:
    """Return V1's ``SandboxInfo`` of a conversation's sandbox.

    ``session_api_key`` is this server's key for the conversation, not the engine's key. It is null while the
    sandbox does not run.
    """
    sandbox, status = conversation.sandbox, map_sandbox_status(conversation)
    if sandbox is None:
        raise ValueError("The conversation has no sandbox.")
    is_running = status == "RUNNING"
    return {
        "id": sandbox.pk.hex,
        "created_by_user_id": str(conversation.created_by_id),
        "sandbox_spec_id": SPEC,
        "status": status,
        "session_api_key": conversation_key(conversation=conversation, user=user)
        if is_running
        else None,
        # The web client also looks for VSCODE and WORKER_* here. This server exposes neither.
        "exposed_urls": [
            {"name": "AGENT_SERVER", "url": settings.PUBLIC_URL, "port": _public_port()}
        ]
        if is_running
        else None,
        "created_at": format_rfc3339(sandbox.created_at),
    }


def _public_port() -> int:
    parts = urlsplit(settings.PUBLIC_URL)
    return parts.port or (443 if parts.scheme == "https" else 80)


def serialize_start(start: StartTask) -> dict[str, Any]:
    """Return V1's form of a start task. ``app_conversation_id`` is null until the status is ``READY``."""
    row = start.conversation
    is_ready = start.phase == StartTask.Phase.READY
    return {
        "id": start.pk.hex,
        "created_by_user_id": str(row.created_by_id),
        "status": start.phase,
        # With the status ERROR the web client shows this text.
        "detail": start.error or find_wait(start.phases) or _describe_queue(start),
        "app_conversation_id": row.pk.hex if is_ready else None,
        "sandbox_id": row.sandbox_id.hex if row.sandbox_id else None,
        "agent_server_url": settings.PUBLIC_URL if is_ready else None,
        "request": {
            "sandbox_id": None,
            "conversation_id": None,
            "initial_message": None,
            "system_message_suffix": None,
            "processors": [],
            "llm_model": row.model,
            **_serialize_description(row),
            "parent_conversation_id": row.parent_id.hex if row.parent_id else None,
            "agent_type": "default",
        },
        "created_at": format_rfc3339(start.created_at),
        "updated_at": format_rfc3339(start.updated_at),
    }


def _describe_queue(start: StartTask) -> str | None:
    if start.queue_position is None:
        return None
    return f"Waiting for a sandbox: number {start.queue_position} in the queue."


CreatorSettings = dict[tuple[UUID, UUID], EffectiveSettings]
"""The settings of creators, by the ids of the creator and of the organization."""


def serialize_runtime_info(
    conversation: Conversation,
    usage: Any,
    *,
    has_open_messages: bool,
    creator_settings: CreatorSettings | None = None,
) -> dict[str, Any]:
    """Return the engine's ``ConversationInfo`` with every field that the engine's clients require.

    It contains no secrets and no URLs of the sandbox. Settings that are loaded are added to ``creator_settings``, so
    that the calls for other conversations of a creator do not load them again.
    """
    known = {} if creator_settings is None else creator_settings
    creator = (conversation.created_by_id, conversation.organization_id)
    if creator not in known:
        known[creator] = get_creator_settings(conversation)
    tools = (conversation.start_options or {}).get("tools", TOOLS)
    model = {"model": f"openai/{conversation.model}", "usage_id": "agent", "stream": True}
    return {
        "id": str(conversation.pk),
        "title": conversation.title,
        "created_at": format_timestamp(conversation.created_at),
        "updated_at": format_timestamp(conversation.updated_at),
        "execution_status": execution_status(conversation, has_open_messages=has_open_messages),
        "agent": {
            "kind": "Agent",
            "llm": model,
            "tools": [{"name": name} for name in tools],
        },
        # Without isolation, the workspace's real path is a folder of the server, which clients must not learn.
        "workspace": {"kind": "LocalWorkspace", "working_dir": WORKSPACE},
        "persistence_dir": None,
        "max_iterations": get_max_iterations(conversation, known[creator]),
        "stuck_detection": True,
        "confirmation_policy": build_policy(conversation.confirmation_policy),
        "security_analyzer": build_analyzer(conversation.security_analyzer),
        "activated_knowledge_skills": [],
        "invoked_skills": [],
        "blocked_actions": {},
        "blocked_messages": {},
        "stats": {"usage_to_metrics": {"agent": serialize_metrics(conversation.model, usage)}},
        "metrics": serialize_metrics(conversation.model, usage),
        "secret_registry": {"secret_sources": {}},
        "tags": get_value_tags(conversation),
        "client_tools": [],
        "tool_module_qualnames": TOOLS,
    }


def format_rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
