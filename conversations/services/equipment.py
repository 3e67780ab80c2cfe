"""The settings, MCP servers, secrets and Git author that an agent gets in addition to its task."""

import contextlib
import shlex
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from accounts.models import User
from accounts.services import custom_secrets, provider_tokens, user_settings
from accounts.settings.choices import ConfirmationPolicy, SecurityAnalyzer
from accounts.settings.fields import FIELDS
from billing import services as billing
from billing.models import GatewayToken
from conversations.engine.client import EngineClient
from conversations.engine.errors import EngineRefused, EngineUnreachable
from conversations.models import Conversation, OutgoingMessage, Sandbox
from conversations.sandboxes.provider import get_provider

SEARCH_URL = "https://mcp.tavily.com/mcp/"
PUSH_INSTRUCTIONS = (
    "Token for the Git host of this workspace's repository. To push without storing the token, run: "
    "git -c credential.helper= -c credential.helper='!f() {{ echo username=x-access-token; "
    'echo "password=${name}"; }}; f\' push origin HEAD'
)
"""The description of the Git host's token, which the agent reads. The engine passes a secret to a command only if the
command contains the secret's name, so the example command contains the name."""


def get_creator_settings(conversation: Conversation) -> user_settings.EffectiveSettings:
    """Return the settings of a conversation's creator in the conversation's organization. Runs two database queries."""
    return user_settings.effective_settings(
        user_id=conversation.created_by_id, organization_id=conversation.organization_id
    )


def get_lent_settings(conversation: Conversation) -> user_settings.EffectiveSettings:
    """Return the creator's settings, with secret values only from the lender. Runs three database queries at most.

    If only the organization lends, the MCP servers and the key of the web search are those of the organization.
    """
    effective = get_creator_settings(conversation)
    if conversation.lender == Conversation.Lender.CREATOR:
        return effective
    shared = user_settings.shared_settings(organization_id=conversation.organization_id)
    secret = {name: shared.values[name] for name, field in FIELDS.items() if field.is_secret}
    return user_settings.EffectiveSettings(
        effective.values | secret, effective.set_by, effective.version
    )


def issue_run_token(conversation: Conversation) -> str:
    """Return a new gateway token for a run of the conversation, for the lender's model and secrets.

    Raise ``NoOrganizationModel`` if only the organization lends and it has no model.
    """
    is_lent = conversation.lender == Conversation.Lender.ORGANIZATION
    owner = {
        "organization_id": conversation.organization_id,
        "user_id": conversation.created_by_id,
    }
    if is_lent:
        billing.get_lent_access(**owner)
    return billing.issue_gateway_token(
        **owner, conversation_id=conversation.pk, is_lent_by_organization=is_lent
    )


def choose_confirmation(
    effective: user_settings.EffectiveSettings, *, policy: str | None, analyzer: str | None
) -> tuple[str, str]:
    """Return the confirmation policy and the security analyzer of a new conversation.

    ``policy`` and ``analyzer`` are the requested values. None means the value from the settings. A value that the
    organization enforces overrides the request.
    """
    if analyzer is None or effective.set_by["security_analyzer"] == user_settings.ENFORCED:
        analyzer = effective.values["security_analyzer"]
    chosen: str = ConfirmationPolicy.NEVER
    if effective.values["confirmation_mode"]:
        # Without an analyzer no action has a risk rating, so ask about every action.
        has_no_ratings = analyzer == SecurityAnalyzer.NONE
        chosen = ConfirmationPolicy.ALWAYS if has_no_ratings else ConfirmationPolicy.RISKY
    is_enforced = effective.set_by["confirmation_mode"] == user_settings.ENFORCED
    if policy is not None and not (is_enforced and policy == ConfirmationPolicy.NEVER):
        chosen = policy
    return chosen, analyzer


def check_enforced(conversation: Conversation, changes: Mapping[str, Any]) -> None:
    """Raise ``EnforcedSetting`` if a changed policy or analyzer differs from a value that the organization enforces."""
    effective = get_creator_settings(conversation)
    is_mode_enforced = effective.set_by["confirmation_mode"] == user_settings.ENFORCED
    if (
        is_mode_enforced
        and effective.values["confirmation_mode"]
        and changes.get("confirmation_policy") == ConfirmationPolicy.NEVER
    ):
        raise user_settings.EnforcedSetting(
            "Your organization requires agents to ask for confirmation. Choose another policy."
        )
    is_analyzer_enforced = effective.set_by["security_analyzer"] == user_settings.ENFORCED
    analyzer = changes.get("security_analyzer")
    if is_analyzer_enforced and analyzer not in (None, effective.values["security_analyzer"]):
        raise user_settings.EnforcedSetting(
            "Your organization sets the security analyzer, so it cannot be changed here."
        )


def build_start_options(effective: user_settings.EffectiveSettings) -> dict[str, Any]:
    """Return the settings for the engine's start request, as keyword arguments of ``payloads.build_start_request``."""
    values = effective.values
    return {
        "max_iterations": values["max_iterations"],
        "condenser_max_size": values["condenser_max_size"]
        if values["enable_default_condenser"]
        else None,
        "mcp_servers": _mcp_servers(values["mcp_config"] or {}, values["search_api_key"]),
    }


def _mcp_servers(config: dict[str, list[Any]], search_api_key: str | None) -> dict[str, Any]:
    """Return a dict from a unique name to an MCP server in the engine's format."""
    servers: dict[str, Any] = {}
    for server in config.get("stdio_servers", []):
        servers[server["name"]] = {k: v for k, v in server.items() if k != "name"}
    for kind, transport in (("sse_servers", "sse"), ("shttp_servers", "http")):
        for server in config.get(kind, []):
            fields = {"url": server} if isinstance(server, str) else server
            entry: dict[str, Any] = {"url": fields["url"], "transport": transport}
            if key := fields.get("api_key"):
                entry["headers"] = {"Authorization": f"Bearer {key}"}
            # Our settings store seconds; the engine expects milliseconds.
            if seconds := fields.get("timeout"):
                entry["timeout"] = seconds * 1000
            servers[_unused_name(servers, fields["url"])] = entry
    if search_api_key:
        servers[_unused_name(servers, SEARCH_URL)] = {
            "url": SEARCH_URL,
            "transport": "http",
            "headers": {"Authorization": f"Bearer {search_api_key}"},
        }
    return servers


def _unused_name(servers: dict[str, Any], url: str) -> str:
    host = "".join(c if c.isalnum() else "_" for c in urlsplit(url).hostname or "server")
    name, number = host, 1
    while name in servers:
        number += 1
        name = f"{host}_{number}"
    return name


def build_secret_sources(conversation: Conversation, sandbox: Sandbox) -> dict[str, Any]:
    """Return a dict from secret name to a reference in the engine's format. References contain no secret values.

    If the creator lends and the conversation has a repository, the creator's token for its Git host is included, so
    that the agent can push. A custom secret with the same name replaces this token. If there are secrets, each call
    issues a new gateway token.
    """
    # The sandbox fetches a value at each use, so that changed and deleted secrets take effect immediately and
    # every use is audited.
    secrets = custom_secrets.secrets_for_conversation(
        user_id=find_personal_lender(conversation), organization_id=conversation.organization_id
    )
    descriptions = {name: secret.description for name, secret in secrets.items()}
    if (name := _find_git_token_name(conversation)) is not None:
        descriptions.setdefault(name, PUSH_INSTRUCTIONS.format(name=name))
    if not descriptions:
        return {}
    token = issue_run_token(conversation)
    gateway_url = get_provider(sandbox.provider).gateway_url()
    return {
        name: {
            "kind": "LookupSecret",
            "url": f"{gateway_url}/api/sandbox/secrets/{name}",
            "headers": {"Authorization": f"Bearer {token}"},
            "description": description or None,
        }
        for name, description in descriptions.items()
    }


def find_personal_lender(conversation: Conversation) -> UUID | None:
    """Return the id of the creator if the run gets the creator's own secrets and tokens, else None."""
    is_personal = conversation.lender == Conversation.Lender.CREATOR
    return conversation.created_by_id if is_personal else None


def _find_git_token_name(conversation: Conversation) -> str | None:
    """Return the name under which the agent gets the creator's token for the repository's Git host.

    Return None if the conversation has no repository, if the creator has no token, or if only the organization lends.
    """
    if not conversation.repository or find_personal_lender(conversation) is None:
        return None
    return provider_tokens.secret_name(
        user_id=conversation.created_by_id,
        organization_id=conversation.organization_id,
        provider=conversation.repository["provider"],
    )


def renew_secrets(conversation: Conversation, sandbox: Sandbox, client: EngineClient) -> None:
    """Send the current references to the conversation's secrets to a restarted engine. Safe to repeat."""
    if sources := build_secret_sources(conversation, sandbox):
        client.set_secrets(conversation.pk, sources)


def reveal_secret(*, token: GatewayToken, name: str) -> str:
    """Return the value of a secret to the sandbox that sent its conversation's token, and record the use.

    Look for a custom secret first, then for the creator's token for the repository's Git host. Personal secrets are
    only given to a run that the creator lends them to, whatever the token was issued for: the sharing may have changed
    a moment ago. Raise ``UnknownSecret`` if neither exists, if the conversation was deleted, or if its sandbox should
    not be running.
    """
    conversation = Conversation.objects.filter(
        pk=token.conversation_id, deleted_at=None, sandbox__desired=Sandbox.Desired.RUNNING
    ).first()
    if conversation is None:
        raise custom_secrets.UnknownSecret
    is_personal = not token.is_lent_by_organization and token.user_id == find_personal_lender(
        conversation
    )
    use: dict[str, Any] = {
        "organization_id": token.organization_id,
        "conversation_id": token.conversation_id,
        "posted_by_id": find_driver(conversation),
    }
    try:
        user_id = token.user_id if is_personal else None
        return custom_secrets.use_secret(**use, user_id=user_id, name=name)
    except custom_secrets.UnknownSecret:
        if not is_personal or name != _find_git_token_name(conversation):
            raise
        provider = (conversation.repository or {})["provider"]
        return provider_tokens.use_in_sandbox(**use, user_id=token.user_id, provider=provider)


def find_driver(conversation: Conversation) -> UUID | None:
    """Return the id of the user who posted the newest message that reached the agent, or None if that is unknown."""
    sent = (OutgoingMessage.Status.SENDING, OutgoingMessage.Status.DELIVERED)
    rows = OutgoingMessage.objects.filter(conversation=conversation, status__in=sent)
    return rows.order_by("-seq").values_list("posted_by_id", flat=True).first()


def set_git_author(
    effective: user_settings.EffectiveSettings, user: User, sandbox: Sandbox, client: EngineClient
) -> None:
    """Set the user's name and e-mail address in the workspace's Git configuration.

    Do nothing if the workspace has no repository. Ignore errors of the engine.
    """
    name = effective.values["git_user_name"] or user.name or user.get_short_name()
    email = effective.values["git_user_email"] or user.email
    command = (
        f"[ -d .git ] && git config user.name {shlex.quote(name)} "
        f"&& git config user.email {shlex.quote(email)}"
    )
    # A missing author affects only later commits, so it must not make the start fail.
    with contextlib.suppress(EngineRefused, EngineUnreachable):
        client.execute(command, cwd=sandbox.workspace, timeout=30)
