"""The verbs of provider tokens: people's own tokens at Git hosts. Whether one works is asked above accounts."""

import re
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
"""What agents call a token by, where existing clients and programs expect it."""


class InvalidProviderToken(Problem):
    """A provider, host or token that cannot be; ``detail`` says which and why."""

    code = "invalid-provider-token"


class NoProviderToken(Problem):
    """The user has given no token for this provider."""

    status = 404
    code = "no-provider-token"
    sentence = "You have given no token for this provider here."


@dataclass(frozen=True, repr=False)
class Credential:
    """A plain token and where it belongs; ``host`` is empty for the provider's own. Not for logs."""

    provider: str
    host: str
    token: str


@transaction.atomic
def set_provider_token(
    *, user: User, organization: Organization, provider: str, token: str, host: str = ""
) -> ProviderToken:
    """Keep a token for the user's work in an organization, in place of an earlier one. Safe to repeat.

    ``host`` is a host name with or without ``https://``. Raises ``InvalidProviderToken``.
    """
    if provider not in ProviderToken.Provider.values:
        raise InvalidProviderToken(f"There is no provider {provider[:40]!r}.", field="provider")
    host, token = checked_host(host), checked_token(token)
    Organization.objects.select_for_update().get(pk=organization.pk)  # two first ones at once
    found = ProviderToken.objects.filter(user=user, organization=organization, provider=provider)
    row = found.first() or ProviderToken(user=user, organization=organization, provider=provider)
    row.host, row.token, row.last_used_at = host, token, None
    row.save()
    _note("provider_token.set", row, after={"provider": provider, "host": host, "token": token})
    return row


@transaction.atomic
def remove_provider_token(*, user: User, organization: Organization, provider: str) -> None:
    """Forget a token. Safe to repeat."""
    found = ProviderToken.objects.filter(user=user, organization=organization, provider=provider)
    for row in found.select_for_update():
        _note("provider_token.removed", row, before={"provider": provider, "host": row.host})
        row.delete()


def provider_tokens(*, user_id: UUID, organization_id: UUID) -> list[ProviderToken]:
    """The tokens that a user has given in an organization, by provider; one query."""
    found = ProviderToken.objects.filter(user_id=user_id, organization_id=organization_id)
    return list(found.order_by("provider"))


def provider_tokens_set(*, user_id: UUID, organization_id: UUID) -> dict[str, str | None]:
    """Which providers have a token, with their host; None for the provider's own."""
    rows = provider_tokens(user_id=user_id, organization_id=organization_id)
    return {row.provider: row.host or None for row in rows}


def token_for(*, user_id: UUID, organization_id: UUID, provider: str) -> Credential:
    """The plain token, its use noted on its row. Raises ``NoProviderToken``."""
    found = ProviderToken.objects.filter(
        user_id=user_id, organization_id=organization_id, provider=provider
    )
    row = found.first()
    if row is None:
        raise NoProviderToken
    found.update(last_used_at=timezone.now())
    return Credential(row.provider, row.host, row.token)


def secret_name(*, user_id: UUID, organization_id: UUID, provider: str) -> str | None:
    """What a conversation at a provider calls its creator's token; None without one. One query."""
    name = SECRET_NAMES.get(provider)
    found = ProviderToken.objects.filter(
        user_id=user_id, organization_id=organization_id, provider=provider
    )
    return name if name is not None and found.exists() else None


@transaction.atomic
def use_in_sandbox(
    *, user_id: UUID, organization_id: UUID, conversation_id: UUID, provider: str
) -> str:
    """The plain token for the sandbox of a conversation, in the audit log. Each call is another use.

    Raises ``NoProviderToken``.
    """
    found = token_for(user_id=user_id, organization_id=organization_id, provider=provider)
    sandbox = audit.Actor(
        "system", id="sandbox", name="sandbox", address=audit.current_actor().address
    )
    with audit.acting(lambda: sandbox):
        audit.record(
            action="provider_token.used",
            organization_id=organization_id,
            subject_name=provider,
            after={"conversation": conversation_id, "user": user_id, "host": found.host},
        )
    return found.token


def checked_host(host: str) -> str:
    """A host's name in lower case. Raises ``InvalidProviderToken``."""
    name = host.strip().removeprefix("https://").removesuffix("/").lower()
    if name and not _HOST.fullmatch(name):
        raise InvalidProviderToken("A host is a name such as git.example.com.", field="host")
    return name


def checked_token(token: str) -> str:
    """A token that may be kept. Raises ``InvalidProviderToken``."""
    token = token.strip()
    if is_mask(token):
        raise InvalidProviderToken("This is a mask, not a token.", field="token")
    if not _TOKEN.fullmatch(token):
        raise InvalidProviderToken("A token has visible characters and no spaces.", field="token")
    return token


def _note(action: str, row: ProviderToken, **more: Any) -> None:
    audit.record(
        action=action,
        organization_id=row.organization_id,
        subject=row,
        subject_name=row.provider,
        **more,
    )
