"""Connect a Git host, act there on behalf of a user, clone with the token of that user."""

from typing import Any
from uuid import UUID

from accounts.models import Organization, ProviderToken, User
from accounts.services import audit, provider_tokens
from conversations.models import Conversation
from conversations.repositories import CloneSource, public_source
from conversations.services.pull_requests import record_pull_request
from integrations import registry
from integrations.provider import GitProvider, GitUser, PullRequest
from lib.problems import Problem


class NotConnected(Problem):
    """The user has given no token for this Git host."""

    status = 409
    code = "provider-not-connected"
    sentence = "No token for this Git host is connected. Connect it under Settings → Git hosts."


def connect(
    *, user: User, organization: Organization, provider: str, token: str, host: str | None = None
) -> tuple[ProviderToken, GitUser]:
    """Ask the host whose token it is, then keep it in place of an earlier one. Safe to repeat.

    Raises what ``GitProvider`` raises, ``UnknownProvider``, ``BadHost``, ``InvalidProviderToken``; then nothing
    is kept.
    """
    host, owner = check_token(provider=provider, token=token, host=host)
    row = provider_tokens.set_provider_token(
        user=user, organization=organization, provider=provider, token=token, host=host
    )
    return row, owner


def check_token(*, provider: str, token: str, host: str | None = None) -> tuple[str, GitUser]:
    """The host as it is kept, and whose token it is. Raises like ``connect``; keeps nothing."""
    if provider not in registry.PROVIDERS:
        raise registry.UnknownProvider
    kept = registry.normal_host(provider, host)
    plain = provider_tokens.checked_token(token)
    return kept, registry.get_provider(provider, host=kept, token=plain).user()


def provider_for(*, user_id: UUID, organization_id: UUID, provider: str) -> GitProvider:
    """The Git host on a user's behalf. Raises ``NotConnected`` and ``UnknownProvider``."""
    if provider not in registry.PROVIDERS:
        raise registry.UnknownProvider
    try:
        found = provider_tokens.token_for(
            user_id=user_id, organization_id=organization_id, provider=provider
        )
    except provider_tokens.NoProviderToken as error:
        raise NotConnected from error
    return registry.get_provider(provider, host=found.host, token=found.token)


def connected(*, user_id: UUID, organization_id: UUID) -> list[str]:
    """The names of the Git hosts that a user has connected and this server speaks to."""
    rows = provider_tokens.provider_tokens(user_id=user_id, organization_id=organization_id)
    return [row.provider for row in rows if row.provider in registry.PROVIDERS]


def clone_source(
    *, repository: dict[str, Any], user_id: UUID, organization_id: UUID
) -> CloneSource:
    """Where a repository is cloned from: at the connected host with the user's token, else publicly."""
    try:
        host = provider_for(
            user_id=user_id, organization_id=organization_id, provider=repository["provider"]
        )
    except (NotConnected, registry.UnknownProvider):
        return public_source(
            repository=repository, user_id=user_id, organization_id=organization_id
        )
    return host.clone_source(repository=repository["full_name"])


def open_pull_request(
    *,
    user: User,
    organization: Organization,
    provider: str,
    repository: str,
    source: str,
    target: str,
    title: str,
    body: str = "",
    draft: bool = True,
    labels: list[str] | None = None,
    conversation: Conversation | None = None,
) -> PullRequest:
    """Open a pull request with the user's token; ``conversation`` remembers its number.

    Repeating it is refused by the host (``NotAccepted``).
    """
    host = provider_for(user_id=user.pk, organization_id=organization.pk, provider=provider)
    opened = host.create_pull_request(
        repository=repository,
        source=source,
        target=target,
        title=title,
        body=body,
        draft=draft,
        labels=labels or [],
    )
    if conversation is not None:
        record_pull_request(conversation_id=conversation.pk, number=opened.number)
    audit.record(
        action="pull_request.opened",
        organization_id=organization.pk,
        subject=conversation,
        subject_name=f"{repository}#{opened.number}",
        after={
            "repository": repository,
            "number": opened.number,
            "source": source,
            "target": target,
        },
    )
    return opened
