"""The verbs of custom secrets: values that agents use by name and that nobody reads back."""

import re
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet

from accounts.models import CustomSecret, CustomSecretUse, Organization, ProviderToken, User
from accounts.services import audit
from lib.masks import is_mask
from lib.problems import Problem

SECRETS_MAX = 200
"""Of one user in one organization, and shared ones of one organization."""
VALUE_MAX = 50_000
HIDDEN_FROM = 6
"""Shorter values are not searched for in events: they would be found everywhere."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_RESERVED = re.compile(r"(?i:PATH|HOME|SHELL|IFS|ENV|BASH_ENV|PS4|LD_\w+|PYTHON\w*|OH_\w+)")


class SecretExists(Problem):
    """There is a secret of this name in this scope."""

    status = 409
    code = "secret-exists"


class InvalidSecret(Problem):
    """A name, description or value that a secret cannot have; ``detail`` says which and why."""

    code = "invalid-secret"


class TooManySecrets(Problem):
    """There are as many secrets as there may be."""

    status = 409
    code = "too-many-secrets"
    sentence = f"There are {SECRETS_MAX} secrets already. Delete those no longer used."


class UnknownSecret(Problem):
    """The conversation has no secret of this name."""

    status = 404
    code = "unknown-secret"
    sentence = "There is no secret of this name here."


@transaction.atomic
def create_secret(
    *,
    organization: Organization,
    by: User,
    name: str,
    value: str,
    description: str = "",
    is_shared: bool = False,
) -> CustomSecret:
    """Keep a secret of one's own or, with ``is_shared``, of the organization. Not safe to repeat.

    Raises ``SecretExists``, ``InvalidSecret``, ``TooManySecrets``.
    """
    secret = CustomSecret(
        organization=organization,
        user=None if is_shared else by,
        name=_checked_name(name),
        description=_checked_description(description),
        created_by=by,
    )
    secret.value = _checked_value(value)
    Organization.objects.select_for_update().get(pk=organization.pk)  # two at once
    if _scope(secret).count() >= SECRETS_MAX:
        raise TooManySecrets
    _save(secret)
    _note("secret.created", secret, after={"name": secret.name, "scope": secret.scope})
    return secret


@transaction.atomic
def change_secret(
    *,
    secret: CustomSecret,
    name: str | None = None,
    description: str | None = None,
    value: str | None = None,
) -> CustomSecret:
    """Give a secret another name, description or value; None leaves it. Safe to repeat.

    Sandboxes that run get a new value at their next use of it. Raises ``SecretExists``, ``InvalidSecret``.
    """
    secret = CustomSecret.objects.select_for_update().get(pk=secret.pk)
    before = {"name": secret.name, "description": secret.description}
    if name is not None:
        secret.name = _checked_name(name)
    if description is not None:
        secret.description = _checked_description(description)
    if value is not None:
        secret.value = _checked_value(value)
    _save(secret)
    old, new = audit.changes(before, {"name": secret.name, "description": secret.description})
    if value is not None:
        new["value_replaced"] = True
    if old or new:
        _note("secret.changed", secret, before=old, after=new)
    return secret


@transaction.atomic
def delete_secret(*, secret: CustomSecret) -> None:
    """Forget a secret and the log of its uses; sandboxes get it no more. Safe to repeat."""
    found = CustomSecret.objects.select_for_update().filter(pk=secret.pk).first()
    if found is not None:
        _note("secret.deleted", found, before={"name": found.name, "scope": found.scope})
        found.delete()


def secrets_for_conversation(*, user_id: UUID, organization_id: UUID) -> dict[str, CustomSecret]:
    """The secrets that a user's conversation in an organization has, by name: one's own before shared ones."""
    rows = CustomSecret.objects.filter(
        Q(user_id=user_id) | Q(user=None), organization_id=organization_id
    )
    found: dict[str, CustomSecret] = {}
    for secret in rows.order_by("name"):
        if secret.user_id is not None or secret.name not in found:
            found[secret.name] = secret
    return found


def use_secret(*, user_id: UUID, organization_id: UUID, conversation_id: UUID, name: str) -> str:
    """The value of a conversation's secret, the use written down. Each call is another use.

    Raises ``UnknownSecret``.
    """
    secret = secrets_for_conversation(user_id=user_id, organization_id=organization_id).get(name)
    if secret is None:
        raise UnknownSecret
    CustomSecretUse.objects.create(
        organization_id=organization_id, secret=secret, conversation_id=conversation_id
    )
    return secret.value


def values_to_hide(*, user_id: UUID, organization_id: UUID) -> list[str]:
    """Plain values that may stand in what a user's sandbox writes and that nobody should read there.

    Custom secrets of the user and the organization, and the user's provider tokens; two queries.
    """
    secrets = CustomSecret.objects.filter(
        Q(user_id=user_id) | Q(user=None), organization_id=organization_id
    ).only("pk", "sealed_value")
    tokens = ProviderToken.objects.filter(user_id=user_id, organization_id=organization_id)
    found = {row.value for row in secrets} | {
        row.token for row in tokens.only("pk", "sealed_token")
    }
    return sorted(value for value in found if len(value) >= HIDDEN_FROM)


def _scope(secret: CustomSecret) -> QuerySet[CustomSecret]:
    found = CustomSecret.objects.filter(organization_id=secret.organization_id)
    if secret.user_id is None:
        return found.filter(user=None)
    return found.filter(user_id=secret.user_id)


def _save(secret: CustomSecret) -> None:
    if _scope(secret).filter(name=secret.name).exclude(pk=secret.pk).exists():
        raise SecretExists(f"There is a secret {secret.name} already.")
    try:
        with transaction.atomic():
            secret.save()
    except IntegrityError as error:
        raise SecretExists(f"There is a secret {secret.name} already.") from error


def _checked_name(name: str) -> str:
    name = name.strip()
    if not _NAME.fullmatch(name):
        raise InvalidSecret(
            "A name has letters, digits and _, up to 100, and does not begin with a digit: "
            "agents get it as an environment variable.",
            field="name",
        )
    if _RESERVED.fullmatch(name):
        raise InvalidSecret(f"{name} means something to the sandbox itself.", field="name")
    return name


def _checked_description(text: str) -> str:
    text = " ".join(text.split())
    if len(text) > 500 or not text.isprintable():
        raise InvalidSecret(
            "A description has up to 500 printable characters.", field="description"
        )
    return text


def _checked_value(value: str) -> str:
    if is_mask(value):
        raise InvalidSecret("This is a mask, not a secret.", field="value")
    if not value or len(value) > VALUE_MAX:
        raise InvalidSecret(f"A value has 1 to {VALUE_MAX} characters.", field="value")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidSecret("A value is text without NUL.", field="value")
    return value


def _note(action: str, secret: CustomSecret, **more: Any) -> None:
    audit.record(
        action=action,
        organization_id=secret.organization_id,
        subject=secret,
        subject_name=secret.name,
        **more,
    )
