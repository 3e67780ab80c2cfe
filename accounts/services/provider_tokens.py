"""Services for provider tokens, the users' own tokens at Git hosts.

This module does not call Git hosts; ``integrations`` checks whether a token works.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from accounts.models import Organization, ProviderToken, User
from accounts.services import audit
from lib.masks import is_mask
from lib.problems import Problem

_HOST = re.compile(r"(?=.{1,255}$)[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:\d{1,5})?")
_TOKEN = re.compile(r"[\x21-\x7e]{1,4000}")
SECRET_NAMES = {
    "github": "GITHUB_TOKEN",
    "gitlab": "GITLAB_TOKEN",
    "bitbucket": "BITBUCKET_TOKEN",
    "azure_devops": "AZURE_DEVOPS_TOKEN",
}
"""The environment variable in which agents and existing programs expect the token of each provider."""


class InvalidProviderToken(Problem):
    """The provider, host or token is not valid. ``field`` is one of these three, and ``detail`` is the reason."""

    code = "invalid-provider-token"


class NoProviderToken(Problem):
    """The user has no token for this provider in the organization."""

    status = 404
    code = "no-provider-token"
    sentence = (
        "You have not connected this Git host in this organization. Add a token in your settings."
    )


@dataclass(frozen=True, repr=False)
class Credential:
    """A plain token with its provider and host; ``host`` is empty for the provider's public host.

    ``repr()`` is disabled, so that the token does not appear in logs.
    """

    provider: str
    host: str
    token: str


def has_provider_token(*, user_id: UUID, providers: Iterable[str]) -> bool:
    """Return whether a user has connected one of the Git hosts in any organization."""
    return ProviderToken.objects.filter(user_id=user_id, provider__in=providers).exists()


@transaction.atomic
def set_provider_token(
    *, user: User, organization: Organization, provider: str, token: str, host: str = ""
) -> ProviderToken:
    """Store a token for the user's work in an organization, replacing an earlier token. Safe to repeat.

    ``host`` is a host name with or without ``https://``; empty for the provider's public host. Raise
    ``InvalidProviderToken``.
    """
    if provider not in ProviderToken.Provider.values:
        raise InvalidProviderToken(
            f"There is no provider {provider[:40]!r}. "
            f"The providers are: {', '.join(ProviderToken.Provider.values)}.",
            field="provider",
        )
    host, token = clean_host(host), clean_token(token)
    # Without the lock, two concurrent first requests would both insert a row.
    Organization.objects.select_for_update().get(pk=organization.pk)
    rows = ProviderToken.objects.filter(user=user, organization=organization, provider=provider)
    row = rows.first() or ProviderToken(user=user, organization=organization, provider=provider)
    row.host, row.token, row.last_used_at = host, token, None
    row.save()
    _record("provider_token.set", row, after={"provider": provider, "host": host, "token": token})
    return row


@transaction.atomic
def remove_provider_token(*, user: User, organization: Organization, provider: str) -> None:
    """Delete the user's token for a provider in an organization. Safe to repeat."""
    rows = ProviderToken.objects.filter(user=user, organization=organization, provider=provider)
    for row in rows.select_for_update():
        _record("provider_token.removed", row, before={"provider": provider, "host": row.host})
        row.delete()


def provider_tokens(*, user_id: UUID, organization_id: UUID) -> list[ProviderToken]:
    """Return the user's tokens in an organization, ordered by provider. Runs one database query."""
    rows = ProviderToken.objects.filter(user_id=user_id, organization_id=organization_id)
    return list(rows.order_by("provider"))


def provider_hosts(*, user_id: UUID, organization_id: UUID) -> dict[str, str | None]:
    """Return the hosts of the user's tokens, as a dict from provider to host. None is the provider's public host."""
    rows = provider_tokens(user_id=user_id, organization_id=organization_id)
    return {row.provider: row.host or None for row in rows}


def use_token(*, user_id: UUID, organization_id: UUID, provider: str) -> Credential:
    """Return the user's plain token for a provider, and store the time of its use.

    Raise ``NoProviderToken`` if the user has no token.
    """
    rows = ProviderToken.objects.filter(
        user_id=user_id, organization_id=organization_id, provider=provider
    )
    row = rows.first()
    if row is None:
        raise NoProviderToken
    rows.update(last_used_at=timezone.now())
    return Credential(row.provider, row.host, row.token)


def secret_name(*, user_id: UUID, organization_id: UUID, provider: str) -> str | None:
    """Return the name of the environment variable that contains the user's token for a provider, or None.

    None means that the user has no token for the provider, or that the provider's tokens have no environment variable.
    Runs one database query.
    """
    name = SECRET_NAMES.get(provider)
    rows = ProviderToken.objects.filter(
        user_id=user_id, organization_id=organization_id, provider=provider
    )
    return name if name is not None and rows.exists() else None


@transaction.atomic
def use_in_sandbox(
    *,
    user_id: UUID,
    organization_id: UUID,
    conversation_id: UUID,
    provider: str,
    posted_by_id: UUID | None = None,
) -> str:
    """Return the user's plain token for the sandbox of a conversation, and record the use in the audit log.

    ``posted_by_id`` is the user who posted the message on which the agent works. Each call records another use.
    Raise ``NoProviderToken`` if the user has no token.
    """
    credential = use_token(user_id=user_id, organization_id=organization_id, provider=provider)
    # A sandbox's request has no signed-in user, so the audit log names the sandbox as the actor.
    sandbox = audit.Actor(
        "system", id="sandbox", name="sandbox", address=audit.current_actor().address
    )
    with audit.acting(lambda: sandbox):
        audit.record(
            action="provider_token.used",
            organization_id=organization_id,
            subject_name=provider,
            after={
                "conversation": conversation_id,
                "user": user_id,
                "host": credential.host,
                "posted_by": posted_by_id,
            },
        )
    return credential.token


def clean_host(host: str) -> str:
    """Return a host name in lower case without ``https://``. Raise ``InvalidProviderToken``."""
    name = host.strip().removeprefix("https://").removesuffix("/").lower()
    if name and not _HOST.fullmatch(name):
        raise InvalidProviderToken("Enter a host name such as git.example.com.", field="host")
    return name


def clean_token(token: str) -> str:
    """Return a token without surrounding white space. Raise ``InvalidProviderToken`` if it is not valid."""
    token = token.strip()
    if is_mask(token):
        raise InvalidProviderToken(
            "This is a mask, not a token. Enter the token itself.", field="token"
        )
    if not _TOKEN.fullmatch(token):
        raise InvalidProviderToken(
            "A token has 1 to 4000 visible ASCII characters and no spaces. Copy it again.",
            field="token",
        )
    return token


def _record(action: str, row: ProviderToken, **more: Any) -> None:
    audit.record(
        action=action,
        organization_id=row.organization_id,
        subject=row,
        subject_name=row.provider,
        **more,
    )
