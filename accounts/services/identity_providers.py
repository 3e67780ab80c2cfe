"""Services for identity providers, which are database rows. Environment variables can define preset rows."""

from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import BinaryField, DateTimeField

from accounts.models import IdentityProvider
from accounts.services import audit
from lib import crypto
from lib.problems import Problem


class UnknownProvider(Problem):
    """There is no enabled provider with this slug."""

    status = 404
    code = "unknown-provider"
    sentence = "This server has no such identity provider. Choose one on the sign-in page."


def enabled_providers() -> list[IdentityProvider]:
    """Return the enabled providers, ordered by name. First bring the preset rows up to date with ``OIDC_PRESETS``."""
    rows = {row.slug: row for row in IdentityProvider.objects.order_by("name")}
    # A function that reads also writes here, so that a changed environment takes effect without a command.
    for preset in settings.OIDC_PRESETS:
        row = rows.get(preset["slug"])
        if row is None or not _matches_preset(row, preset):
            rows[preset["slug"]] = _write_preset(preset)
    return [row for row in rows.values() if row.is_enabled]


def _matches_preset(row: IdentityProvider, preset: dict[str, Any]) -> bool:
    try:
        return all(getattr(row, name) == value for name, value in preset.items())
    except crypto.Undecryptable:  # the environment has the client secret, so it is stored again
        return False


@transaction.atomic
def _write_preset(preset: dict[str, Any]) -> IdentityProvider:
    # Several processes may see a new preset at the same time: get_or_create, then lock.
    row, is_new = IdentityProvider.objects.get_or_create(
        slug=preset["slug"], defaults={"issuer": preset["issuer"]}
    )
    row = IdentityProvider.objects.select_for_update().get(pk=row.pk)
    before = {} if is_new else describe_provider(row)
    secret = {name: preset[name] for name in ("client_secret",) if name in preset}
    is_secret_new = is_new or not _matches_preset(row, secret)
    for name, value in preset.items():
        setattr(row, name, value)
    row.is_preset = True
    row.save()
    # The caller may be any visitor of the sign-in page. The environment made the change.
    with audit.acting(lambda: audit.Actor("system", id="system", name="environment")):
        _record_change(row, before, is_secret_new=is_secret_new)
    return row


@transaction.atomic
def save_provider(
    *, provider: IdentityProvider, client_secret: str | None = None
) -> IdentityProvider:
    """Create or change an identity provider, and write the audit log.

    ``provider`` is a row with the new values. ``client_secret`` replaces the stored secret unless it is empty.
    The audit log contains the claim rules, but not the secret. Safe to repeat: equal values are not recorded.
    """
    # A new row has a primary key already, because its default creates one.
    stored = IdentityProvider.objects.select_for_update().filter(pk=provider.pk).first()
    before = describe_provider(stored) if stored else {}
    if client_secret:
        provider.client_secret = client_secret
    provider.save()
    _record_change(provider, before, is_secret_new=bool(client_secret))
    return provider


@transaction.atomic
def delete_provider(*, provider: IdentityProvider) -> None:
    """Delete an identity provider. The audit log keeps its values, without the secret."""
    audit.record(
        action="identity_provider.deleted", subject=provider, before=describe_provider(provider)
    )
    provider.delete()


def record_check(*, provider: IdentityProvider, error: str = "") -> None:
    """Record that staff checked the connection to a provider; ``error`` is empty if the check passed."""
    audit.record(
        action="identity_provider.checked", subject=provider, after={"error": error or None}
    )


def describe_provider(provider: IdentityProvider) -> dict[str, Any]:
    """Return the columns of a provider by name. The audit log replaces the value of ``client_secret``."""
    columns = [
        field.attname
        for field in provider._meta.concrete_fields  # noqa: SLF001 - Django's documented API of models
        if not isinstance(field, BinaryField | DateTimeField) and not field.primary_key
    ]
    values = {name: getattr(provider, name) for name in columns}
    return values | {"client_secret": "set" if provider.sealed_client_secret else ""}


def _record_change(
    provider: IdentityProvider, before: dict[str, Any], *, is_secret_new: bool
) -> None:
    after = describe_provider(provider)
    old, new = audit.changes(before, after)
    # A new secret replaces another: the log says "set" before and after.
    if before and is_secret_new:
        old["client_secret"], new["client_secret"] = before["client_secret"], after["client_secret"]
    if new:
        action = "identity_provider.changed" if before else "identity_provider.created"
        audit.record(action=action, subject=provider, before=old, after=new)


def find_provider(*, slug: str) -> IdentityProvider:
    """Return the enabled provider with a slug. Raise ``UnknownProvider``."""
    provider = next((row for row in enabled_providers() if row.slug == slug), None)
    if provider is None:
        raise UnknownProvider
    return provider
