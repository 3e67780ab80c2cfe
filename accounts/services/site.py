"""What clients are told about this installation before anybody signs in."""

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
"""What parts of clients have something behind them here."""


@dataclass(frozen=True)
class SiteConfig:
    """``providers`` are buttons to sign in with, in the words of clients; ``auth_url`` is their Keycloak."""

    app_mode: str
    providers: list[str]
    auth_url: str
    features: dict[str, bool]
    maintenance_at: datetime | None


def site_config() -> SiteConfig:
    """The configuration of clients; one query."""
    keycloaks = IdentityProvider.objects.filter(is_enabled=True, kind="keycloak")
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
