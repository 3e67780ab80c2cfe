"""Authentication of API requests by access tokens that identity providers issue."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from accounts.models import Identity, IdentityProvider, ProviderSession, User
from accounts.oidc import tokens
from accounts.services.identities import SignInRefused, sign_in_identity
from accounts.services.identity_providers import enabled_providers


def authenticate_access_token(token: str) -> tuple[User, dict[str, Any]]:
    """Return the user of an access token, and the claims of the token.

    For an unknown person, create a user if the provider creates users and the token contains an e-mail address.
    The token has all permissions of the user's roles. Raise ``tokens.BadToken`` if the token is not valid or the user
    cannot sign in, and ``providers.ProviderUnavailable`` if the provider's keys cannot be fetched.
    """
    # The issuer is not verified yet: it only selects the providers whose keys check the token.
    issuer = tokens.read_issuer(token)
    rows = [row for row in enabled_providers() if row.issuer == issuer and row.bearer_clients]
    if not rows:
        raise tokens.BadToken("the issuer of the token is not an identity provider of this server")
    provider, claims = _first_accepting(rows, lambda row: tokens.check_access_token(row, token))
    if _is_signed_out(provider, claims):
        raise tokens.BadToken("the session of the token has ended")
    known = Identity.objects.select_related("user").filter(issuer=issuer, sub=claims["sub"]).first()
    try:
        identity = known or sign_in_identity(provider=provider, claims=claims)
    except SignInRefused as error:
        raise tokens.BadToken(error.detail) from error
    if not identity.user.is_active:
        raise tokens.BadToken("the user of the token is suspended")
    # Keys that this request creates must not outlive the token.
    identity.user.credential_expires_at = datetime.fromtimestamp(claims["exp"], UTC)
    return identity.user, claims


def _first_accepting(
    rows: list[IdentityProvider], check: Callable[[IdentityProvider], dict[str, Any]]
) -> tuple[IdentityProvider, dict[str, Any]]:
    """Return the first provider that accepts a token, and the token's claims.

    Several providers can have the same issuer with different client ids.
    """
    # The check of the last provider runs outside the loop, so that its BadToken reaches the caller.
    for row in rows[:-1]:
        try:
            return row, check(row)
        except tokens.BadToken:
            continue
    return rows[-1], check(rows[-1])


def _is_signed_out(provider: IdentityProvider, claims: dict[str, Any]) -> bool:
    """Return whether a session with the token's ``sid`` has ended on this server."""
    # The signature stays valid until the token expires, even after the person signed out. Check the session here.
    sid = claims.get("sid")
    if not sid:
        return False
    rows = ProviderSession.objects.filter(
        sid=sid, identity__issuer=provider.issuer, identity__sub=claims["sub"]
    )
    return rows.exclude(session__ended_at=None).exists()
