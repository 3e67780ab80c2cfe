"""Services for Git hosts: connect a host with a token, clone with the user's token, and open pull requests."""

from typing import Any
from uuid import UUID

from django.db import transaction

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
    *,
    user: User,
    organization: Organization,
    provider_name: str,
    token: str,
    host_name: str | None = None,
) -> tuple[ProviderToken, GitUser]:
    """Check a token at its Git host, then store the token, replacing an earlier token. Safe to repeat.

    A ``host_name`` of None keeps the host of the earlier token; an empty text means the provider's default host.
    Return the stored row and the owner of the token. If the check fails, the token is not stored. Raise
    ``InvalidProviderToken`` if the token is malformed, and ``UnknownProvider``, ``BadHost`` or an exception of
    ``GitProvider``, such as ``TokenRefused``.
    """
    if host_name is None:
        host_name = get_stored_host(
            user_id=user.pk, organization_id=organization.pk, provider_name=provider_name
        )
    # The check calls the Git host, so it runs before the transaction of set_provider_token.
    stored_host, owner = check_token(provider_name=provider_name, token=token, host_name=host_name)
    row = provider_tokens.set_provider_token(
        user=user,
        organization=organization,
        provider=provider_name,
        token=token,
        host=stored_host,
    )
    return row, owner


def get_stored_host(*, user_id: UUID, organization_id: UUID, provider_name: str) -> str | None:
    """Return the host of the user's token, or None for the provider's default host and for a user without a token."""
    hosts = provider_tokens.provider_hosts(user_id=user_id, organization_id=organization_id)
    return hosts.get(provider_name)


def check_token(
    *, provider_name: str, token: str, host_name: str | None = None
) -> tuple[str, GitUser]:
    """Check a token at its Git host without storing it.

    Return the host name as the database stores it (empty for the provider's default host), and the owner of the
    token. Raise the exceptions of ``connect``.
    """
    if provider_name not in registry.PROVIDERS:
        raise registry.UnknownProvider
    stored_host = registry.normalize_host(provider_name, host_name)
    plain = provider_tokens.clean_token(token)
    git_provider = registry.get_provider(provider_name, host=stored_host, token=plain)
    return stored_host, git_provider.user()


def provider_for(*, user_id: UUID, organization_id: UUID, provider_name: str) -> GitProvider:
    """Return the ``GitProvider`` for a Git host that the user has connected in the organization.

    Raise ``UnknownProvider`` if this server does not support the Git host, and ``NotConnected`` if the user has no
    token for the Git host.
    """
    if provider_name not in registry.PROVIDERS:
        raise registry.UnknownProvider
    try:
        credential = provider_tokens.use_token(
            user_id=user_id, organization_id=organization_id, provider=provider_name
        )
    except provider_tokens.NoProviderToken as error:
        raise NotConnected from error
    return registry.get_provider(provider_name, host=credential.host, token=credential.token)


def connected_providers(*, user_id: UUID, organization_id: UUID) -> list[str]:
    """Return the names of the supported Git hosts that a user has connected."""
    rows = provider_tokens.provider_tokens(user_id=user_id, organization_id=organization_id)
    return [row.provider for row in rows if row.provider in registry.PROVIDERS]


def clone_source(
    *, repository: dict[str, Any], user_id: UUID, organization_id: UUID
) -> CloneSource:
    """Return the URL and credentials for cloning a repository.

    ``repository`` is a dict with the keys ``provider`` and ``full_name``. If the user has not connected the Git host,
    return the public URL without credentials.
    """
    try:
        git_provider = provider_for(
            user_id=user_id, organization_id=organization_id, provider_name=repository["provider"]
        )
    except (NotConnected, registry.UnknownProvider):
        return public_source(
            repository=repository, user_id=user_id, organization_id=organization_id
        )
    return git_provider.clone_source(repository=repository["full_name"])


def open_pull_request(
    *,
    user: User,
    organization: Organization,
    provider_name: str,
    repository_name: str,
    source_branch: str,
    target_branch: str,
    title: str,
    body: str = "",
    draft: bool = True,
    labels: list[str] | None = None,
    conversation: Conversation | None = None,
) -> PullRequest:
    """Open a pull request at a Git host with the user's token.

    If ``conversation`` is not None, the conversation stores the number of the pull request; the caller has checked
    that the user may steer the conversation. ``repository_name`` is ``owner/name``. Not safe to repeat: the Git host
    rejects a second pull request for the same branches with ``NotAccepted``. Raise ``UnknownProvider``,
    ``NotConnected`` or another exception of ``GitProvider``, such as ``NoSuchRepository`` or ``NotAllowed``.
    """
    git_provider = provider_for(
        user_id=user.pk, organization_id=organization.pk, provider_name=provider_name
    )
    # Outside the transaction: a rollback cannot close the pull request again, and a slow Git host would keep rows
    # locked for as long as the request takes.
    opened = git_provider.create_pull_request(
        repository=repository_name,
        source_branch=source_branch,
        target_branch=target_branch,
        title=title,
        body=body,
        draft=draft,
        labels=labels or [],
    )
    # Store both or neither: a number without an audit entry would hide who opened the pull request.
    with transaction.atomic():
        if conversation is not None:
            record_pull_request(conversation_id=conversation.pk, number=opened.number)
        audit.record(
            action="pull_request.opened",
            organization_id=organization.pk,
            subject=conversation,
            subject_name=f"{repository_name}#{opened.number}",
            after={
                "repository": repository_name,
                "number": opened.number,
                "source": source_branch,
                "target": target_branch,
            },
        )
    return opened
