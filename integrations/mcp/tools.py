"""The tools: what each takes, which permission it needs, and the one service call behind it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import orjson

from accounts.models import Organization
from accounts.permissions import MissingPermission, require
from conversations import services as conversations
from conversations.log.records import build_record, build_records
from conversations.models import Conversation
from integrations import services
from lib.api import dumps
from lib.problems import Problem

EVENTS_MAX, PAYLOAD_MAX = 50, 4_000
TEXT = {"type": "string", "minLength": 1, "maxLength": 100_000}
NAME = {"type": "string", "minLength": 1, "maxLength": 300}
ID = {"type": "string", "format": "uuid", "description": "The conversation's id."}


class NoSuchConversation(Problem):
    """There is none that the caller may see."""

    status = 404
    code = "not-found"
    sentence = "There is no such conversation."


@dataclass(frozen=True)
class Caller:
    """Who calls, where they work, and the conversation that the request names as its own."""

    user: Any
    organization: Organization
    conversation_id: str = ""

    def conversation(self, given: str, permission: str) -> Conversation:
        """A conversation that the caller sees, with the permission there. Raises ``NoSuchConversation``."""
        try:
            wanted = UUID(given)
        except ValueError as error:
            raise NoSuchConversation from error
        found = Conversation.objects.visible_to(self.user).filter(pk=wanted).first()
        if found is None:
            raise NoSuchConversation
        self.may(permission, found.organization_id)
        return found

    def may(self, permission: str, organization_id: UUID) -> None:
        """Raise ``MissingPermission`` where the user or the key lacks it."""
        scopes = getattr(self.user, "key_scopes", None)
        if scopes is not None and permission not in scopes:
            raise MissingPermission(
                f"This key lacks the scope {permission}.", permission=permission
            )
        require(self.user, organization_id, permission)


@dataclass(frozen=True)
class Tool:
    """One tool; ``carry_out`` is safe to call in any thread that may use the database."""

    name: str
    description: str
    properties: dict[str, Any]
    required: list[str]
    carry_out: Callable[..., Any]

    @property
    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": self.properties,
            "required": self.required,
            "additionalProperties": False,
        }


def _plain(value: Any) -> Any:
    return orjson.loads(dumps(value))


def list_conversations(caller: Caller, *, limit: int = 20, q: str = "") -> dict[str, Any]:
    """Newest first."""
    caller.may("conversations.view", caller.organization.pk)
    rows = Conversation.objects.visible_to(caller.user).order_by("-created_at", "-pk")
    for word in q.split():
        rows = rows.filter(title__icontains=word)
    return {"items": build_records(list(rows[:limit]))}


def start_conversation(
    caller: Caller,
    *,
    message: str,
    title: str | None = None,
    repository: str | None = None,
    branch: str | None = None,
    provider: str = "github",
) -> Any:
    """One with a first message, in its own sandbox."""
    caller.may("conversations.create", caller.organization.pk)
    wanted = {"provider": provider, "full_name": repository} if repository else None
    if wanted and branch:
        wanted["branch"] = branch
    made = conversations.create_conversation(
        user=caller.user,
        organization=caller.organization,
        message=message,
        title=title,
        repository=wanted,
        trigger=Conversation.Trigger.API,
    )
    return build_record(made)


def send_message(caller: Caller, *, conversation_id: str, text: str) -> dict[str, Any]:
    """It is in the log when this answers."""
    found = caller.conversation(conversation_id, "conversations.steer")
    event = conversations.post_message(conversation_id=found.pk, text=text, message_id=str(uuid4()))
    return {"seq": event.seq, "event_id": event.event_id}


def interrupt(caller: Caller, *, conversation_id: str) -> dict[str, Any]:
    """Stops what runs now."""
    found = caller.conversation(conversation_id, "conversations.steer")
    conversations.interrupt(conversation_id=found.pk)
    return {"interrupted": str(found.pk)}


def get_conversation(caller: Caller, *, conversation_id: str, events: int = 20) -> dict[str, Any]:
    """The record, and its newest events in order; long payloads are cut."""
    found = caller.conversation(conversation_id, "conversations.view")
    newest = reversed(found.events.order_by("-seq")[:events])
    told = [
        {
            "seq": event.seq,
            "kind": event.kind,
            "source": event.source,
            "payload": event.payload[:PAYLOAD_MAX],
            "is_cut": len(event.payload) > PAYLOAD_MAX,
        }
        for event in newest
    ]
    return {"conversation": build_record(found), "events": told}


def create_pr(
    caller: Caller,
    *,
    repo_name: str,
    source_branch: str,
    target_branch: str,
    title: str,
    body: str = "",
    draft: bool = True,
    labels: list[str] | None = None,
) -> dict[str, Any]:
    """At GitHub, with the caller's token; the conversation of the request remembers it."""
    caller.may("pull_requests.create", caller.organization.pk)
    conversation, organization = None, caller.organization
    if caller.conversation_id:
        conversation = caller.conversation(caller.conversation_id, "conversations.steer")
        organization = conversation.organization
    opened = services.open_pull_request(
        user=caller.user,
        organization=organization,
        provider="github",
        repository=repo_name,
        source=source_branch,
        target=target_branch,
        title=title,
        body=body,
        draft=draft,
        labels=labels,
        conversation=conversation,
    )
    return {"number": opened.number, "url": opened.url}


TOOLS = {
    tool.name: tool
    for tool in (
        Tool(
            "list_conversations",
            "List conversations with coding agents, newest first.",
            {
                "limit": {"type": "integer", "minimum": 1, "maximum": 100},
                "q": {"type": "string", "maxLength": 200, "description": "Words of the title."},
            },
            [],
            list_conversations,
        ),
        Tool(
            "start_conversation",
            "Start a coding agent on a task in a sandbox of its own, in a clone of a repository if one is named.",
            {
                "message": TEXT | {"description": "What the agent should do."},
                "title": {"type": "string", "minLength": 1, "maxLength": 200},
                "repository": {
                    "type": "string",
                    "pattern": r"^(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+$(?!\n)",
                },
                "branch": {"type": "string", "pattern": r"^(?!-)[A-Za-z0-9_./+@#-]{1,200}$(?!\n)"},
                "provider": {"enum": ["github", "gitlab", "bitbucket"]},
            },
            ["message"],
            start_conversation,
        ),
        Tool(
            "send_message",
            "Say something to a conversation's agent.",
            {"conversation_id": ID, "text": TEXT},
            ["conversation_id", "text"],
            send_message,
        ),
        Tool(
            "interrupt",
            "Stop what a conversation's agent is doing now.",
            {"conversation_id": ID},
            ["conversation_id"],
            interrupt,
        ),
        Tool(
            "get_conversation",
            "A conversation's state and its newest events.",
            {
                "conversation_id": ID,
                "events": {"type": "integer", "minimum": 0, "maximum": EVENTS_MAX},
            },
            ["conversation_id"],
            get_conversation,
        ),
        Tool(
            "create_pr",
            "Open a pull request at GitHub from a branch that is pushed already.",
            {
                "repo_name": NAME | {"description": "owner/name"},
                "source_branch": NAME,
                "target_branch": NAME,
                "title": NAME,
                "body": {"type": "string", "maxLength": 60_000},
                "draft": {"type": "boolean"},
                "labels": {"type": "array", "items": NAME, "maxItems": 20},
            },
            ["repo_name", "source_branch", "target_branch", "title"],
            create_pr,
        ),
    )
}


def call(caller: Caller, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Carry a tool out; its answer as plain JSON values. Raises ``Problem`` with a sentence for the agent."""
    tool = TOOLS.get(name)
    if tool is None:
        raise NoSuchTool(f"There is no tool named {name[:60]!r}.")
    answer: dict[str, Any] = _plain(tool.carry_out(caller, **arguments))
    return answer


class NoSuchTool(Problem):
    """A tool that this server does not have."""

    code = "no-such-tool"
