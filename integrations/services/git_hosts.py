"""Connections to Git hosts: connect with a token, act on behalf of a user, and clone with the user's token."""

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
    """The user has no token for a Git host."""

    status = 409
    code = "provider-not-connected"
    sentence = "You have not connected this Git host. Connect it under Settings → Git hosts."


def connect(
    *, user: User, organization: Organization, provider: str, token: str, host: str | None = None
) -> tuple[ProviderToken, GitUser]:
    """Check a token at its Git host and store it, replacing an earlier token. Safe to repeat.

    Return the stored row and the owner of the token. Raise the problems of ``GitProvider``, ``UnknownProvider``,
    ``BadHost`` or ``InvalidProviderToken``; the token is then not stored.
    """
    host, owner = check_token(provider=provider, token=token, host=host)
    row = provider_tokens.set_provider_token(
        user=user, organization=organization, provider=provider, token=token, host=host
    )
    return row, owner


def check_token(*, provider: str, token: str, host: str | None = None) -> tuple[str, GitUser]:
    """Check a token at its Git host without storing it; return the normalized host and the token's owner.

    Raise the exceptions of ``connect``.
    """
    if provider not in registry.PROVIDERS:
        raise registry.UnknownProvider
    host = registry.normalize_host(provider, host)
    plain = provider_tokens.clean_token(token)
    return host, registry.get_provider(provider, host=host, token=plain).user()


def provider_for(*, user_id: UUID, organization_id: UUID, provider: str) -> GitProvider:
    """Return the provider for a user's connected Git host. Raise ``NotConnected`` or ``UnknownProvider``."""
    if provider not in registry.PROVIDERS:
        raise registry.UnknownProvider
    try:
        row = provider_tokens.use_token(
            user_id=user_id, organization_id=organization_id, provider=provider
        )
    except provider_tokens.NoProviderToken as error:
        raise NotConnected from error
    return registry.get_provider(provider, host=row.host, token=row.token)


def connected_providers(*, user_id: UUID, organization_id: UUID) -> list[str]:
    """Return the names of the supported Git hosts that a user has connected."""
    rows = provider_tokens.provider_tokens(user_id=user_id, organization_id=organization_id)
    return [row.provider for row in rows if row.provider in registry.PROVIDERS]


def clone_source(
    *, repository: dict[str, Any], user_id: UUID, organization_id: UUID
) -> CloneSource:
    """Return the clone source of a repository: with the user's token if its host is connected, else the public URL."""
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
    """Open a pull request with the user's token, and store its number on ``conversation`` if given.

    Not safe to repeat: the host rejects a second pull request for the same branches (``NotAccepted``).
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
