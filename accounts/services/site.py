"""The public configuration of this installation, which clients read before sign-in."""

from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from django.conf import settings
from django.utils import timezone

from accounts.models import IdentityProvider
from accounts.services.maintenance import maintenance

FEATURES = {
    "billing": False,
    "hide_llm_settings": False,
    "jira": False,
    "jira_dc": False,
    "linear": False,
}
"""Optional features of clients, and whether this server supports them."""


@dataclass(frozen=True)
class SiteConfig:
    """The public configuration of this installation.

    ``providers`` are the names of the sign-in buttons that clients display. ``auth_url`` is the origin of the
    Keycloak server. Both are empty if no Keycloak provider is enabled.
    """

    app_mode: str
    providers: list[str]
    auth_url: str
    features: dict[str, bool]
    maintenance_at: datetime | None


def site_config() -> SiteConfig:
    """Return the public configuration of this installation."""
    keycloaks = IdentityProvider.objects.filter(is_enabled=True, kind="keycloak")
    # With several Keycloak providers, prefer a preset from the environment.
    issuer = keycloaks.order_by("-is_preset", "slug").values_list("issuer", flat=True).first()
    parts = urlsplit(issuer or "")
    planned = maintenance().planned_for
    return SiteConfig(
        app_mode=settings.APP_MODE,
        providers=list(settings.KEYCLOAK_IDP_HINTS) if issuer else [],
        auth_url=f"{parts.scheme}://{parts.netloc}" if issuer else "",
        features=dict(FEATURES),
        maintenance_at=planned if planned and planned > timezone.now() else None,
    )
