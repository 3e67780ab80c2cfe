"""Identity providers that people may sign in with: rows, and presets from the environment."""

from typing import Any

from django.conf import settings
from django.db import transaction

from accounts.models import IdentityProvider
from lib.problems import Problem


class UnknownProvider(Problem):
    """No provider of this name is enabled."""

    status = 404
    code = "unknown-provider"
    sentence = "There is no such way to sign in here."


def enabled_providers() -> list[IdentityProvider]:
    """Return the providers that people may sign in with, by name, after writing the presets to their rows."""
    rows = {row.slug: row for row in IdentityProvider.objects.order_by("name")}
    for preset in settings.OIDC_PRESETS:
        row = rows.get(preset["slug"])
        if row is None or not _equals(row, preset):
            rows[preset["slug"]] = _write_preset(preset)
    return [row for row in rows.values() if row.is_enabled]


def _equals(row: IdentityProvider, preset: dict[str, Any]) -> bool:
    return all(getattr(row, name) == value for name, value in preset.items())


@transaction.atomic
def _write_preset(preset: dict[str, Any]) -> IdentityProvider:
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
    """Return the enabled provider of a name. Raises ``UnknownProvider``."""
    found = next((row for row in enabled_providers() if row.slug == slug), None)
    if found is None:
        raise UnknownProvider
    return found
