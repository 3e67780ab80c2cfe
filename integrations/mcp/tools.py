"""The MCP tools: their arguments, their permissions and their service calls."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import orjson

from accounts.models import Organization
from accounts.permissions import MissingPermission, require, require_on
from accounts.roles import STOP
from conversations import services as conversations
from conversations.log.records import build_record, build_records
from conversations.models import Conversation
from integrations import services
from lib.api import dumps
from lib.problems import Problem

EVENTS_MAX, PAYLOAD_MAX = 50, 4_000
"""The maximum number of events in a response, and the maximum number of characters of each payload."""
TEXT = {"type": "string", "minLength": 1, "maxLength": 100_000}
NAME = {"type": "string", "minLength": 1, "maxLength": 300}
ID = {"type": "string", "format": "uuid", "description": "The conversation's id."}


class NoSuchConversation(Problem):
    """The conversation does not exist or is not visible to the caller."""

    status = 404
    code = "not-found"
    sentence = "The conversation does not exist, or you have no access to it."


@dataclass(frozen=True)
class Caller:
    """The user and the organization of an MCP request.

    ``conversation_id`` is the id of the conversation whose agent sent the request; empty for other clients.
    """

    user: Any
    organization: Organization
    conversation_id: str = ""

    def get_conversation(self, text: str, permission: str) -> Conversation:
        """Return a conversation by its id, which comes from the client.

        Raise ``NoSuchConversation`` if the conversation is not visible to the caller, and ``MissingPermission`` if the
        caller lacks the permission in the organization of the conversation.
        """
        try:
            conversation_id = UUID(text)
        except ValueError as error:
            raise NoSuchConversation from error
        row = Conversation.objects.visible_to(self.user).filter(pk=conversation_id).first()
        if row is None:
            raise NoSuchConversation
        self._check_scope("conversations.steer" if permission == STOP else permission)
        require_on(self.user, row, permission)
        return row

    def require(self, permission: str, organization_id: UUID) -> None:
        """Raise ``MissingPermission`` if the user lacks a permission in an organization, or if the API key lacks it."""
        self._check_scope(permission)
        require(self.user, organization_id, permission)

    def _check_scope(self, permission: str) -> None:
        # None means no limit, for a client without an API key or with a key without scopes.
        scopes = getattr(self.user, "key_scopes", None)
        if scopes is not None and permission not in scopes:
            raise MissingPermission(
                f"This API key lacks the scope {permission}.", permission=permission
            )


@dataclass(frozen=True)
class Tool:
    """An MCP tool. ``run`` is a synchronous function that receives the caller and the tool's arguments as keywords."""

    name: str
    description: str
    properties: dict[str, Any]
    required: list[str]
    run: Callable[..., Any]

    @property
    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": self.properties,
            "required": self.required,
            "additionalProperties": False,
        }


def _plain(value: Any) -> Any:
    """Return a value with UUIDs and times as text, because the MCP SDK serializes plain JSON values only."""
    return orjson.loads(dumps(value))


def list_conversations(caller: Caller, *, limit: int = 20, q: str = "") -> dict[str, Any]:
    """List the conversations that the caller can see, newest first. ``q`` contains words of the title."""
    caller.require("conversations.view", caller.organization.pk)
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
    """Start a conversation with a first message, in a sandbox of its own."""
    caller.require("conversations.create", caller.organization.pk)
    source = {"provider": provider, "full_name": repository} if repository else None
    if source and branch:
        source["branch"] = branch
    conversation = conversations.create_conversation(
        user=caller.user,
        organization=caller.organization,
        message=message,
        title=title,
        repository=source,
        trigger=Conversation.Trigger.API,
    )
    return build_record(conversation)


def send_message(caller: Caller, *, conversation_id: str, text: str) -> dict[str, Any]:
    """Append a message to the conversation's log and queue it for the agent. Return the event's ``seq`` and id."""
    conversation = caller.get_conversation(conversation_id, "conversations.steer")
    event = conversations.post_message(
        conversation_id=conversation.pk, text=text, message_id=str(uuid4()), by=caller.user
    )
    return {"seq": event.seq, "event_id": event.event_id}


def interrupt(caller: Caller, *, conversation_id: str) -> dict[str, Any]:
    """Stop the current work of a conversation's agent."""
    conversation = caller.get_conversation(conversation_id, STOP)
    conversations.interrupt(conversation_id=conversation.pk, by=caller.user)
    return {"interrupted": str(conversation.pk)}


def get_conversation(caller: Caller, *, conversation_id: str, events: int = 20) -> dict[str, Any]:
    """Return the record of a conversation and its newest events, oldest first.

    Payloads are truncated to ``PAYLOAD_MAX`` characters.
    """
    conversation = caller.get_conversation(conversation_id, "conversations.view")
    newest = reversed(conversation.events.order_by("-seq")[:events])
    items = [
        {
            "seq": event.seq,
            "kind": event.kind,
            "source": event.source,
            "payload": event.payload[:PAYLOAD_MAX],
            "is_cut": len(event.payload) > PAYLOAD_MAX,
        }
        for event in newest
    ]
    return {"conversation": build_record(conversation), "events": items}


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
    """Open a pull request on GitHub with the caller's token.

    If an agent sent the request, its conversation stores the number of the pull request.
    """
    caller.require("pull_requests.create", caller.organization.pk)
    conversation, organization = None, caller.organization
    if caller.conversation_id:
        conversation = caller.get_conversation(caller.conversation_id, "conversations.steer")
        organization = conversation.organization
    opened = services.open_pull_request(
        user=caller.user,
        organization=organization,
        provider_name="github",
        repository_name=repo_name,
        source_branch=source_branch,
        target_branch=target_branch,
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
                "q": {
                    "type": "string",
                    "maxLength": 200,
                    "description": "Words that the title contains.",
                },
            },
            [],
            list_conversations,
        ),
        Tool(
            "start_conversation",
            "Start a coding agent on a task in a new sandbox, in a clone of the repository if one is named.",
            {
                "message": TEXT | {"description": "The task for the agent."},
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
            "Send a message to the agent of a conversation.",
            {"conversation_id": ID, "text": TEXT},
            ["conversation_id", "text"],
            send_message,
        ),
        Tool(
            "interrupt",
            "Stop the current work of a conversation's agent.",
            {"conversation_id": ID},
            ["conversation_id"],
            interrupt,
        ),
        Tool(
            "get_conversation",
            "Get the state of a conversation and its newest events.",
            {
                "conversation_id": ID,
                "events": {"type": "integer", "minimum": 0, "maximum": EVENTS_MAX},
            },
            ["conversation_id"],
            get_conversation,
        ),
        Tool(
            "create_pr",
            "Open a pull request on GitHub from a branch that is already pushed.",
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
    """Run a tool and return its result as plain JSON values.

    Raise ``NoSuchTool``. The tool may raise another ``Problem``; its ``detail`` is a sentence for the agent.
    """
    tool = TOOLS.get(name)
    if tool is None:
        raise NoSuchTool(
            f"There is no tool named {name[:60]!r}. List the tools to see their names."
        )
    for field, value in arguments.items():
        if any("\0" in text for text in _texts(value)):
            raise UnstorableArgument(
                f"The argument {field[:60]!r} contains a NUL character. Remove it and try again."
            )
    result: dict[str, Any] = _plain(tool.run(caller, **arguments))
    return result


def _texts(value: Any) -> list[str]:
    """Return the texts of an argument, which is a plain value or a list of texts."""
    return [
        text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)
    ]


class UnstorableArgument(Problem):
    """An argument of a tool contains NUL, which PostgreSQL cannot store."""

    code = "unstorable-argument"


class NoSuchTool(Problem):
    """There is no tool with the requested name."""

    code = "no-such-tool"
