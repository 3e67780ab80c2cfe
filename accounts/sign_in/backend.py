"""The Django backend of OpenID Connect: mozilla-django-oidc's, made strict and for several providers.

The library's own answers are replaced where they fall short: the audience and issuer are checked, people are
found by (issuer, sub) and not by e-mail, keys and addresses are cached, every call has a deadline, and every
failure is an exception that the view turns into a sentence (`docs/adr/0010-oidc.md`).
"""

from typing import Any

from django.contrib.auth import get_user_model
from django.http import HttpRequest
from mozilla_django_oidc.auth import OIDCAuthenticationBackend

from accounts.models import IdentityProvider, User
from accounts.oidc import providers, tokens
from accounts.services import identity as identities
from accounts.services.identity import TokenSet

PATH = "accounts.sign_in.backend.ProviderBackend"


class ProviderBackend(OIDCAuthenticationBackend):
    """Signs in whoever a provider's authorization code is of."""

    def __init__(self) -> None:
        # Not the library's: it reads one provider from the settings, and ours are rows.
        self.UserModel = get_user_model()

    def authenticate(
        self,
        request: HttpRequest | None,
        provider: IdentityProvider | None = None,
        **flow: Any,
    ) -> User | None:
        """The user, with what signed them in as ``user.vouched_for_by``; None for other ways to sign in.

        Raises ``ProviderUnavailable``, ``ProviderRefused``, ``BadToken`` and ``SignInRefused``.
        """
        if provider is None:
            return None
        found = exchange(provider, **flow)
        identity = identities.sign_in_identity(provider=provider, claims=found.claims)
        user = identity.user
        user.vouched_for_by = identity, found  # type: ignore[attr-defined]
        return user

    def get_user(self, user_id: Any) -> User | None:
        """The user of a session, asked at every request; a suspended one is nobody."""
        user = super().get_user(user_id)
        return user if user is not None and self.user_can_authenticate(user) else None


def exchange(
    provider: IdentityProvider,
    *,
    code: str,
    code_verifier: str,
    nonce: str,
    redirect_uri: str,
    authenticated_after: float | None = None,
) -> TokenSet:
    """Trade an authorization code for tokens, and check all that they say.

    The claims are those of the ID token, the userinfo address and, with Keycloak, the access token's roles.
    A code works once. Raises ``ProviderUnavailable``, ``ProviderRefused`` and ``BadToken``.
    """
    answer = providers.token_request(
        provider,
        grant_type="authorization_code",
        code=code,
        code_verifier=code_verifier,
        redirect_uri=redirect_uri,
    )
    claims = tokens.check_id_token(
        provider, answer.get("id_token"), nonce=nonce, authenticated_after=authenticated_after
    )
    access_token = str(answer.get("access_token") or "")
    claims = userinfo(provider, access_token, sub=claims["sub"]) | claims
    claims |= identities.role_claims(provider, access_token, sub=claims["sub"])
    return TokenSet(
        claims=claims,
        id_token=str(answer["id_token"]),
        access_token=access_token,
        refresh_token=str(answer.get("refresh_token") or ""),
        expires_in=identities.lifetime(answer),
    )


def userinfo(provider: IdentityProvider, access_token: str, *, sub: str) -> dict[str, Any]:
    """What the userinfo address adds; nothing where there is none or it gives no JSON.

    Raises ``BadToken`` for an answer about somebody else (Core 5.3.2), and ``ProviderUnavailable``.
    """
    url = providers.metadata(provider).userinfo_endpoint
    if not url or not access_token:
        return {}
    response = providers.call("GET", url, headers={"Authorization": f"Bearer {access_token}"})
    is_json = response.headers.get("content-type", "").startswith("application/json")
    if response.status_code != 200 or not is_json:
        return {}
    try:
        found = response.json()
    except ValueError:
        return {}
    if not isinstance(found, dict) or found.get("sub") != sub:
        raise tokens.BadToken("the userinfo is somebody else's")
    return found
