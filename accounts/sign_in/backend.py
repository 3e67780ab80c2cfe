"""The Django backend of sessions that began at an identity provider."""

from typing import Any

from django.contrib.auth import get_user_model
from django.http import HttpRequest
from mozilla_django_oidc.auth import OIDCAuthenticationBackend

from accounts.models import User

PATH = "accounts.sign_in.backend.ProviderBackend"


class ProviderBackend(OIDCAuthenticationBackend):
    """Return the users of sessions that began at a provider. ``flows.callback`` begins such sessions.

    The library exchanges codes for the one provider of its settings, and finds people by e-mail address
    (``docs/adr/0010-oidc.md``).
    """

    def __init__(self) -> None:
        # The library's own reads its provider from the settings; ours are rows.
        self.UserModel = get_user_model()

    def authenticate(self, request: HttpRequest | None, **credentials: Any) -> None:
        """Return nobody: no credentials sign in here, also none in the query of another page."""

    def get_user(self, user_id: Any) -> User | None:
        """Return the user of a session, asked at every request; None for a suspended one."""
        user = super().get_user(user_id)
        return user if user is not None and self.user_can_authenticate(user) else None
