"""Services for identity providers, which are database rows. Environment variables can define preset rows."""

from typing import Any

from django.conf import settings
from django.db import transaction

from accounts.models import IdentityProvider
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
    return all(getattr(row, name) == value for name, value in preset.items())


@transaction.atomic
def _write_preset(preset: dict[str, Any]) -> IdentityProvider:
    # Several processes may see a new preset at the same time: get_or_create, then lock.
    row, _ = IdentityProvider.objects.get_or_create(
        slug=preset["slug"], defaults={"issuer": preset["issuer"]}
    )
    row = IdentityProvider.objects.select_for_update().get(pk=row.pk)
    for name, value in preset.items():
        setattr(row, name, value)
    row.is_preset = True
    row.save()
    return row


def find_provider(*, slug: str) -> IdentityProvider:
    """Return the enabled provider with a slug. Raise ``UnknownProvider``."""
    provider = next((row for row in enabled_providers() if row.slug == slug), None)
    if provider is None:
        raise UnknownProvider
    return provider
