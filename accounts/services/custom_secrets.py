"""Services for custom secrets: values that agents use by name and that users cannot read back."""

import logging
import re
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Model, Q, QuerySet

from accounts.models import (
    CustomSecret,
    CustomSecretUse,
    Organization,
    OrganizationSettings,
    ProviderToken,
    User,
    UserSettings,
)
from accounts.models.settings import StoredSettings
from accounts.services import audit
from accounts.settings import mcp_servers
from lib import crypto
from lib.masks import is_mask
from lib.problems import Problem

log = logging.getLogger(__name__)
SECRETS_MAX = 200
"""The maximum number of secrets that one user, or the organization itself, has in an organization."""
VALUE_MAX = 50_000
"""The maximum length of a value in characters."""
REDACTED_LENGTH_MIN = 6
"""The minimum length of a value that is redacted in events. Shorter values occur in too much ordinary text."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
# Variables that control the sandbox's shell, dynamic loader and Python, and this server's own OH_ variables.
_RESERVED = re.compile(r"(?i:PATH|HOME|SHELL|IFS|ENV|BASH_ENV|PS4|LD_\w+|PYTHON\w*|OH_\w+)")


class SecretExists(Problem):
    """The user or the organization already has a secret with this name."""

    status = 409
    code = "secret-exists"


class InvalidSecret(Problem):
    """The name, description or value is not valid. ``field`` is one of these three, and ``detail`` is the reason."""

    code = "invalid-secret"


class TooManySecrets(Problem):
    """The user or the organization has the maximum number of secrets."""

    status = 409
    code = "too-many-secrets"
    sentence = (
        f"The limit of {SECRETS_MAX} secrets is reached. Delete secrets that you no longer use."
    )


class UnreadableSecret(Problem):
    """The stored value of the secret cannot be decrypted."""

    status = 409
    code = "unreadable-secret"


class UnknownSecret(Problem):
    """The conversation has no secret with this name."""

    status = 404
    code = "unknown-secret"
    sentence = "This conversation has no secret with this name."


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
    """Create a secret of the user ``by``, or a secret of the organization if ``is_shared``.

    Not safe to repeat: a second call raises ``SecretExists``. Raise ``InvalidSecret`` or ``TooManySecrets``.
    """
    secret = CustomSecret(
        organization=organization,
        user=None if is_shared else by,
        name=_clean_name(name),
        description=_clean_description(description),
        created_by=by,
    )
    secret.value = _clean_value(value)
    # Without the lock, concurrent requests could exceed the limit.
    Organization.objects.select_for_update().get(pk=organization.pk)
    if _scope(secret).count() >= SECRETS_MAX:
        raise TooManySecrets
    _save(secret)
    _record("secret.created", secret, after={"name": secret.name, "scope": secret.scope})
    return secret


@transaction.atomic
def change_secret(
    *,
    secret: CustomSecret,
    name: str | None = None,
    description: str | None = None,
    value: str | None = None,
) -> CustomSecret:
    """Change a secret's name, description or value; None means no change. Safe to repeat.

    A running sandbox gets the new value when it fetches the secret the next time. Raise ``SecretExists`` or
    ``InvalidSecret``.
    """
    secret = CustomSecret.objects.select_for_update().get(pk=secret.pk)
    before = {"name": secret.name, "description": secret.description}
    if name is not None:
        secret.name = _clean_name(name)
    if description is not None:
        secret.description = _clean_description(description)
    if value is not None:
        secret.value = _clean_value(value)
    _save(secret)
    old, new = audit.changes(before, {"name": secret.name, "description": secret.description})
    if value is not None:
        new["value_replaced"] = True
    if old or new:
        _record("secret.changed", secret, before=old, after=new)
    return secret


@transaction.atomic
def delete_secret(*, secret: CustomSecret) -> None:
    """Delete a secret and the log of its uses. Sandboxes can no longer fetch the value. Safe to repeat."""
    row = CustomSecret.objects.select_for_update().filter(pk=secret.pk).first()
    if row is not None:
        _record("secret.deleted", row, before={"name": row.name, "scope": row.scope})
        row.delete()


def secrets_for_conversation(
    *, user_id: UUID | None, organization_id: UUID
) -> dict[str, CustomSecret]:
    """Return the secrets for a user's conversations in an organization, as a dict from name to secret.

    A user's own secret takes precedence over a shared secret with the same name. Without a user, return only the
    secrets that the organization shares.
    """
    rows = CustomSecret.objects.filter(
        Q(user_id=user_id) | Q(user=None), organization_id=organization_id
    )
    by_name: dict[str, CustomSecret] = {}
    for secret in rows.order_by("name"):
        if secret.user_id is not None or secret.name not in by_name:
            by_name[secret.name] = secret
    return by_name


def use_secret(
    *,
    user_id: UUID | None,
    organization_id: UUID,
    conversation_id: UUID,
    name: str,
    posted_by_id: UUID | None = None,
) -> str:
    """Return the value of a conversation's secret and record the use. Each call records another use.

    Without a user, look only at the secrets that the organization shares. ``posted_by_id`` is the user who posted the
    message on which the agent works. Raise ``UnknownSecret`` if the conversation has no secret with this name, and
    ``UnreadableSecret`` if its value cannot be decrypted.
    """
    secret = secrets_for_conversation(user_id=user_id, organization_id=organization_id).get(name)
    if secret is None:
        raise UnknownSecret
    value = _read_value(secret)
    CustomSecretUse.objects.create(
        organization_id=organization_id,
        secret=secret,
        conversation_id=conversation_id,
        posted_by_id=posted_by_id,
    )
    return value


def values_to_hide(*, user_id: UUID, organization_id: UUID) -> list[str]:
    """Return the sorted plain values that must be redacted in the output of a user's sandbox.

    The values are the user's secrets and provider tokens, the secrets that the organization shares, and the search keys
    and the secrets of MCP servers in the settings of both. Runs four database queries.
    """
    # The primary key is needed too, because each sealed value is bound to its row.
    secrets = CustomSecret.objects.filter(
        Q(user_id=user_id) | Q(user=None), organization_id=organization_id
    ).only("pk", "sealed_value")
    tokens = ProviderToken.objects.filter(user_id=user_id, organization_id=organization_id)
    values = {_read_or_skip(row, "value") for row in secrets} | {
        _read_or_skip(row, "token") for row in tokens.only("pk", "sealed_token")
    }
    place = {"organization_id": organization_id}
    own = UserSettings.objects.filter(user_id=user_id, **place).only("pk", "sealed_secrets")
    shared = OrganizationSettings.objects.filter(**place).only("pk", "sealed_secrets")
    for row in (*own, *shared):
        values |= _secrets_of_settings(row)
    return sorted(value for value in values if len(value) >= REDACTED_LENGTH_MIN)


_reported: set[tuple[str, Any]] = set()


def _read_or_skip(row: CustomSecret | ProviderToken, name: str) -> str:
    """Return a row's plain value, or "" if it cannot be decrypted: its plain text is then in no sandbox either."""
    try:
        return str(getattr(row, name))
    except crypto.Undecryptable as error:
        _report_once(row, error)
        return ""


def _secrets_of_settings(row: StoredSettings) -> set[str]:
    """Return the secret texts in a row's settings, or none if they cannot be decrypted."""
    try:
        secrets = row.read_secrets()
    except crypto.Undecryptable as error:
        _report_once(row, error)
        return set()
    servers = mcp_servers.secret_values(secrets.get("mcp_config") or {})
    return servers | {text for text in secrets.values() if isinstance(text, str)}


def _report_once(row: Model, error: crypto.Undecryptable) -> None:
    """Log the first failure of each row."""
    key = (row._meta.db_table, row.pk)  # noqa: SLF001 - Django documents _meta
    if key not in _reported:
        _reported.add(key)
        log.error("A stored secret is skipped: %s. Enter its value again.", error)


def _read_value(secret: CustomSecret) -> str:
    """Return the value of a secret. Raise ``UnreadableSecret`` if it cannot be decrypted."""
    try:
        return secret.value
    except crypto.Undecryptable as error:
        log.error("The secret %s (%s) cannot be decrypted: %s", secret.name, secret.pk, error)  # noqa: TRY400
        raise UnreadableSecret(
            f"The stored value of the secret {secret.name} cannot be decrypted, probably because the server's "
            "encryption key changed. Enter its value again under Settings, Secrets.",
        ) from error


def _scope(secret: CustomSecret) -> QuerySet[CustomSecret]:
    """Return the secrets among which a secret's name must be unique."""
    rows = CustomSecret.objects.filter(organization_id=secret.organization_id)
    if secret.user_id is None:
        return rows.filter(user=None)
    return rows.filter(user_id=secret.user_id)


def _save(secret: CustomSecret) -> None:
    if _scope(secret).filter(name=secret.name).exclude(pk=secret.pk).exists():
        raise SecretExists(f"A secret with the name {secret.name} already exists.")
    # A concurrent request may use the name after the check: the unique constraint decides.
    try:
        with transaction.atomic():
            secret.save()
    except IntegrityError as error:
        raise SecretExists(f"A secret with the name {secret.name} already exists.") from error


def _clean_name(name: str) -> str:
    name = name.strip()
    if not _NAME.fullmatch(name):
        raise InvalidSecret(
            "Enter a name of up to 100 letters, digits and underscores that does not begin with a "
            "digit. Agents use it as the name of an environment variable.",
            field="name",
        )
    if _RESERVED.fullmatch(name):
        raise InvalidSecret(
            f"The name {name} is reserved for the sandbox. Choose another name.", field="name"
        )
    return name


def _clean_description(text: str) -> str:
    text = " ".join(text.split())
    if len(text) > 500 or not text.isprintable():
        raise InvalidSecret(
            "Enter a description of up to 500 printable characters.", field="description"
        )
    return text


def _clean_value(value: str) -> str:
    if is_mask(value):
        raise InvalidSecret("This is a mask, not a secret. Enter the secret itself.", field="value")
    if not value or len(value) > VALUE_MAX:
        raise InvalidSecret(f"Enter a value of 1 to {VALUE_MAX} characters.", field="value")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidSecret(
            "Enter a value without NUL characters and without unpaired Unicode surrogates.",
            field="value",
        )
    return value


def _record(action: str, secret: CustomSecret, **more: Any) -> None:
    audit.record(
        action=action,
        organization_id=secret.organization_id,
        subject=secret,
        subject_name=secret.name,
        **more,
    )
