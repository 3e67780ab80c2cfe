"""The authentication backend of sessions that began at an identity provider."""

from typing import Any

from django.contrib.auth import get_user_model
from django.http import HttpRequest
from mozilla_django_oidc.auth import OIDCAuthenticationBackend

from accounts.models import User
from accounts.services import sessions

PATH = "accounts.sign_in.backend.ProviderBackend"


class ProviderBackend(OIDCAuthenticationBackend):
    """The backend that loads the user of a session that ``flows.callback`` began.

    We do not use the sign-in of mozilla-django-oidc: it supports only one provider, from the settings, and
    matches users by e-mail address (ADR 5).
    """

    def __init__(self) -> None:
        # Do not call the library's __init__: it requires a provider in the settings, while ours are database rows.
        self.UserModel = get_user_model()

    def authenticate(self, request: HttpRequest | None, **credentials: Any) -> None:
        """Return None: only ``flows.callback`` signs users in.

        The library's method would accept an authorization code in the query string of any page that signs users in.
        """

    def get_user(self, user_id: Any) -> User | None:
        """Return the user of a session, or None for a suspended user. Django calls this on every request."""
        return sessions.find_session_user(user_id)
