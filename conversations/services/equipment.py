"""What an agent is given besides its task: what settings say, MCP servers, secrets by reference, a name for commits."""

import contextlib
import shlex
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings

from accounts.models import User
from accounts.services import custom_secrets, provider_tokens, user_settings
from accounts.settings.choices import ConfirmationPolicy, SecurityAnalyzer
from billing import services as billing
from billing.models import GatewayToken
from conversations.engine.client import EngineClient, EngineRefused, EngineUnreachable
from conversations.models import Conversation, Sandbox

SEARCH_URL = "https://mcp.tavily.com/mcp/"
HOW_TO_PUSH = (
    "Token of the Git host of this workspace's repository. To push, and to leave the token nowhere: "
    "git -c credential.helper= -c credential.helper='!f() {{ echo username=x-access-token; "
    'echo "password=${name}"; }}; f\' push origin HEAD'
)
"""Told to the agent. The engine gives a command what it names, so the name stands in the command itself."""


def settings_of(conversation: Conversation) -> user_settings.EffectiveSettings:
    """The settings in force for whoever started a conversation, where it was started; two queries."""
    return user_settings.effective_settings(
        user_id=conversation.created_by_id, organization_id=conversation.organization_id
    )


def confirmation_for(
    found: user_settings.EffectiveSettings, *, asked: str | None, analyzer: str | None
) -> tuple[str, str]:
    """The confirmation policy and the analyzer of a new conversation.

    What was asked for counts, else what settings say; but nobody asks less than the organization enforces.
    """
    if analyzer is None or found.set_by["security_analyzer"] == user_settings.ENFORCED:
        analyzer = found.values["security_analyzer"]
    policy: str = ConfirmationPolicy.NEVER
    if found.values["confirmation_mode"]:
        is_unjudged = analyzer == SecurityAnalyzer.NONE
        policy = ConfirmationPolicy.ALWAYS if is_unjudged else ConfirmationPolicy.RISKY
    is_enforced = found.set_by["confirmation_mode"] == user_settings.ENFORCED
    if asked is not None and not (is_enforced and asked == ConfirmationPolicy.NEVER):
        policy = asked
    return policy, analyzer


def check_enforced(conversation: Conversation, changes: Mapping[str, Any]) -> None:
    """Refuse a policy or analyzer that the organization does not leave to people. Raises ``EnforcedSetting``."""
    found = settings_of(conversation)
    is_asked = found.set_by["confirmation_mode"] == user_settings.ENFORCED
    if (
        is_asked
        and found.values["confirmation_mode"]
        and changes.get("confirmation_policy") == ConfirmationPolicy.NEVER
    ):
        raise user_settings.EnforcedSetting("The organization wants agents to ask.")
    is_judged = found.set_by["security_analyzer"] == user_settings.ENFORCED
    analyzer = changes.get("security_analyzer")
    if is_judged and analyzer not in (None, found.values["security_analyzer"]):
        raise user_settings.EnforcedSetting("The organization says who judges risks.")


def start_options(found: user_settings.EffectiveSettings) -> dict[str, Any]:
    """What settings add to the engine's start request, as keywords of ``payloads.build_start_request``."""
    values = found.values
    return {
        "max_iterations": values["max_iterations"],
        "condenser_max_size": values["condenser_max_size"]
        if values["enable_default_condenser"]
        else None,
        "mcp_servers": _mcp_servers(values["mcp_config"] or {}, values["search_api_key"]),
    }


def _mcp_servers(config: dict[str, list[Any]], search_api_key: str | None) -> dict[str, Any]:
    """The servers as the engine names them, each under a name of its own."""
    found: dict[str, Any] = {}
    for server in config.get("stdio_servers", []):
        found[server["name"]] = {k: v for k, v in server.items() if k != "name"}
    for kind, transport in (("sse_servers", "sse"), ("shttp_servers", "http")):
        for server in config.get(kind, []):
            fields = {"url": server} if isinstance(server, str) else server
            entry: dict[str, Any] = {"url": fields["url"], "transport": transport}
            if key := fields.get("api_key"):
                entry["headers"] = {"Authorization": f"Bearer {key}"}
            if seconds := fields.get("timeout"):
                entry["timeout"] = seconds * 1000
            found[_free_name(found, fields["url"])] = entry
    if search_api_key:
        found[_free_name(found, SEARCH_URL)] = {
            "url": SEARCH_URL,
            "transport": "http",
            "headers": {"Authorization": f"Bearer {search_api_key}"},
        }
    return found


def _free_name(taken: dict[str, Any], url: str) -> str:
    host = "".join(c if c.isalnum() else "_" for c in urlsplit(url).hostname or "server")
    name, number = host, 1
    while name in taken:
        number += 1
        name = f"{host}_{number}"
    return name


def secret_sources(conversation: Conversation) -> dict[str, Any]:
    """References to the conversation's secrets, as the engine takes them; no value leaves by this.

    With a repository, the creator's token at its Git host is one of them, so that the agent can push; a custom
    secret of that name counts before it.

    The sandbox asks for a value at each use, with a token of its conversation: so a new value counts at once,
    a deleted secret is gone, and each use is written down. Each call makes another token, if there are any.
    """
    secrets = custom_secrets.secrets_for_conversation(
        user_id=conversation.created_by_id, organization_id=conversation.organization_id
    )
    told = {name: secret.description for name, secret in secrets.items()}
    if (name := _push_secret(conversation)) is not None:
        told.setdefault(name, HOW_TO_PUSH.format(name=name))
    if not told:
        return {}
    token = billing.issue_gateway_token(
        organization_id=conversation.organization_id,
        user_id=conversation.created_by_id,
        conversation_id=conversation.pk,
    )
    return {
        name: {
            "kind": "LookupSecret",
            "url": f"{settings.GATEWAY_URL}/api/sandbox/secrets/{name}",
            "headers": {"Authorization": f"Bearer {token}"},
            "description": description or None,
        }
        for name, description in told.items()
    }


def _push_secret(conversation: Conversation) -> str | None:
    """The name of the creator's token at the Git host of the conversation's repository, if there are both."""
    if not conversation.repository:
        return None
    return provider_tokens.secret_name(
        user_id=conversation.created_by_id,
        organization_id=conversation.organization_id,
        provider=conversation.repository["provider"],
    )


def renew_secrets(conversation: Conversation, client: EngineClient) -> None:
    """Tell a woken engine the conversation's secrets of today. Safe to repeat."""
    if sources := secret_sources(conversation):
        client.set_secrets(conversation.pk, sources)


def hand_out(*, token: GatewayToken, name: str) -> str:
    """The value of a secret for the sandbox that holds a conversation's token; the use is written down.

    A custom secret comes before the token of the repository's Git host, which only its owner's conversations
    get. Raises ``UnknownSecret``, also once the conversation is gone or its sandbox is wanted no more.
    """
    conversation = Conversation.objects.filter(
        pk=token.conversation_id, deleted_at=None, sandbox__desired=Sandbox.Desired.RUNNING
    ).first()
    if conversation is None:
        raise custom_secrets.UnknownSecret
    place: dict[str, UUID] = {
        "user_id": token.user_id,
        "organization_id": token.organization_id,
        "conversation_id": token.conversation_id,
    }
    try:
        return custom_secrets.use_secret(**place, name=name)
    except custom_secrets.UnknownSecret:
        if conversation.created_by_id != token.user_id or name != _push_secret(conversation):
            raise
        provider = (conversation.repository or {})["provider"]
        return provider_tokens.use_in_sandbox(**place, provider=provider)


def introduce(
    found: user_settings.EffectiveSettings, user: User, sandbox: Sandbox, client: EngineClient
) -> None:
    """Tell the workspace's repository who commits; without one, or an engine that refuses, nothing happens."""
    name = found.values["git_user_name"] or user.name or user.get_short_name()
    email = found.values["git_user_email"] or user.email
    command = (
        f"[ -d .git ] && git config user.name {shlex.quote(name)} "
        f"&& git config user.email {shlex.quote(email)}"
    )
    with contextlib.suppress(EngineRefused, EngineUnreachable):
        client.execute(command, cwd=sandbox.workspace, timeout=30)


def owner_of(conversation_id: UUID) -> tuple[UUID, UUID] | None:
    """Whose conversation it is: user and organization. They never change."""
    rows = Conversation.objects.filter(pk=conversation_id)
    return rows.values_list("created_by_id", "organization_id").first()
