"""Conversations, starts and sandboxes in the shapes of V1 clients. Ids are hex, times RFC 3339."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings

from accounts.models import User
from accounts.settings.choices import SecurityAnalyzer
from billing import services as billing
from compat.v1.translation import stamp
from conversations.engine.payloads import analyzer_body, policy_body
from conversations.models import OPEN_MESSAGES, Conversation, OutgoingMessage, StartTask
from conversations.services import SandboxStatus, conversation_key, sandbox_status

MICROS = 1_000_000
PLACES = {
    Conversation.Status.STARTING: "STARTING",
    Conversation.Status.RUNNING: "RUNNING",
    Conversation.Status.PAUSED: "PAUSED",
    Conversation.Status.STOPPED: "PAUSED",
    Conversation.Status.FAILED: "ERROR",
}
MISSING = "MISSING"
SPEC = "agent-server"
WORKSPACE = "/workspace/project"
PAUSED_BY_NOBODY = ("idle", "finished", "paused", "error", "stuck")
MAX_ITERATIONS = 500
TOOLS = {
    "terminal": "openhands.tools.terminal.definition",
    "file_editor": "openhands.tools.file_editor.definition",
    "task_tracker": "openhands.tools.task_tracker.definition",
}
"""The agent's tools, and where the engine's clients find the shapes of their events."""


def place_of(conversation: Conversation) -> str:
    """``sandbox_status``: what a V1 client can expect of the sandbox."""
    status = sandbox_status(conversation)
    return MISSING if status == SandboxStatus.MISSING else PLACES[Conversation.Status(status)]


def url_of(conversation: Conversation) -> str:
    """Where clients find the conversation's runtime: here, never at the sandbox itself."""
    return f"{settings.PUBLIC_URL.rstrip('/')}/api/conversations/{conversation.pk.hex}"


def app_conversations(rows: Iterable[Conversation], user: User) -> list[dict[str, Any]]:
    """Conversations (with ``sandbox`` loaded) in their order; a fixed number of queries."""
    found = list(rows)
    ids = [row.pk for row in found]
    usage = billing.usage_of(ids)
    children: dict[UUID, list[str]] = {}
    visible = Conversation.objects.visible_to(user).filter(parent_id__in=ids).order_by("created_at")
    for parent, child in visible.values_list("parent_id", "pk"):
        children.setdefault(parent, []).append(child.hex)
    busy = with_open_messages(ids)
    return [
        _app_conversation(row, user, usage.get(row.pk), children.get(row.pk, []), row.pk in busy)
        for row in found
    ]


def _description(row: Conversation) -> dict[str, Any]:
    repository = row.repository or {}
    return {
        "selected_repository": repository.get("full_name"),
        "selected_branch": repository.get("branch"),
        "git_provider": repository.get("provider"),
        "title": row.title,
        "trigger": row.trigger,
        "pr_number": row.pull_requests,
    }


def _app_conversation(
    row: Conversation,
    user: User,
    usage: Any,
    children: list[str],
    is_asked: bool,  # noqa: FBT001
) -> dict[str, Any]:
    place = place_of(row)
    is_there = place != MISSING
    return {
        "id": row.pk.hex,
        "created_by_user_id": str(row.created_by_id),
        "sandbox_id": row.sandbox_id.hex if row.sandbox_id else "",
        **_description(row),
        "llm_model": row.model,
        "metrics": metrics(row.model, usage),
        "parent_conversation_id": row.parent_id.hex if row.parent_id else None,
        "sub_conversation_ids": children,
        "created_at": rfc3339(row.created_at),
        "updated_at": rfc3339(row.updated_at),
        "sandbox_status": place,
        "execution_status": execution_status(row, is_asked=is_asked) if is_there else None,
        "conversation_url": url_of(row) if is_there else None,
        "session_api_key": conversation_key(conversation=row, user=user) if is_there else None,
    }


def with_open_messages(ids: list[UUID]) -> set[UUID]:
    """Of conversations, those with messages on their way to the agent."""
    rows = OutgoingMessage.objects.filter(conversation_id__in=ids, status__in=OPEN_MESSAGES)
    return set(rows.values_list("conversation_id", flat=True))


def execution_status(row: Conversation, *, is_asked: bool) -> str:
    """What the agent does; ``running`` from the moment a message is on its way that will run it."""
    if is_asked and row.execution_status in PAUSED_BY_NOBODY and row.status != "failed":
        return "running"
    if row.status in ("paused", "stopped") and row.execution_status == "running":
        return "paused"  # its engine was stopped under it
    return row.execution_status


def metrics(model: str, usage: Any) -> dict[str, Any]:
    """A ``MetricsSnapshot``: dollars and tokens so far."""
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


def sandbox_info(conversation: Conversation, user: User) -> dict[str, Any]:
    """A conversation's sandbox; its key is ours, and opens that conversation only."""
    sandbox, place = conversation.sandbox, place_of(conversation)
    if sandbox is None:
        raise ValueError("a conversation without a sandbox has no sandbox to tell of")
    is_up = place == "RUNNING"
    return {
        "id": sandbox.pk.hex,
        "created_by_user_id": str(conversation.created_by_id),
        "sandbox_spec_id": SPEC,
        "status": place,
        "session_api_key": conversation_key(conversation=conversation, user=user)
        if is_up
        else None,
        "exposed_urls": [{"name": "AGENT_SERVER", "url": settings.PUBLIC_URL, "port": _port()}]
        if is_up
        else None,
        "created_at": rfc3339(sandbox.created_at),
    }


def _port() -> int:
    parts = urlsplit(settings.PUBLIC_URL)
    return parts.port or (443 if parts.scheme == "https" else 80)


def start_task(start: StartTask) -> dict[str, Any]:
    """A start as clients poll it; the conversation's id comes with ``READY``."""
    row = start.conversation
    is_ready = start.phase == StartTask.Phase.READY
    return {
        "id": start.pk.hex,
        "created_by_user_id": str(row.created_by_id),
        "status": start.phase,
        "detail": start.error or _waits(start),
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
            **_description(row),
            "parent_conversation_id": row.parent_id.hex if row.parent_id else None,
            "agent_type": "default",
        },
        "created_at": rfc3339(start.created_at),
        "updated_at": rfc3339(start.updated_at),
    }


def _waits(start: StartTask) -> str | None:
    if start.queue_position is None:
        return None
    return f"Waiting for a sandbox: number {start.queue_position} in line."


def runtime_info(conversation: Conversation, usage: Any, *, is_asked: bool) -> dict[str, Any]:
    """The engine's ``ConversationInfo``, as its own clients read it, without secrets or addresses."""
    sandbox = conversation.sandbox
    model = {"model": f"openai/{conversation.model}", "usage_id": "agent", "stream": True}
    is_judged_by_model = conversation.security_analyzer == SecurityAnalyzer.LLM
    return {
        "id": str(conversation.pk),
        "title": conversation.title,
        "created_at": stamp(conversation.created_at),
        "updated_at": stamp(conversation.updated_at),
        "execution_status": execution_status(conversation, is_asked=is_asked),
        "agent": {
            "kind": "Agent",
            "llm": model,
            "tools": [{"name": name} for name in TOOLS],
        },
        "workspace": {
            "kind": "LocalWorkspace",
            "working_dir": (sandbox.workspace if sandbox else "") or WORKSPACE,
        },
        "persistence_dir": None,
        "max_iterations": MAX_ITERATIONS,
        "stuck_detection": True,
        "confirmation_policy": policy_body(conversation.confirmation_policy),
        "security_analyzer": analyzer_body(SecurityAnalyzer.LLM) if is_judged_by_model else None,
        "activated_knowledge_skills": [],
        "invoked_skills": [],
        "blocked_actions": {},
        "blocked_messages": {},
        "stats": {"usage_to_metrics": {"agent": metrics(conversation.model, usage)}},
        "metrics": metrics(conversation.model, usage),
        "secret_registry": {"secret_sources": {}},
        "tags": {},
        "client_tools": [],
        "tool_module_qualnames": TOOLS,
    }


def rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
