"""Authentication of API requests by access tokens of identity providers."""

from collections.abc import Callable
from typing import Any

from accounts.models import Identity, IdentityProvider, ProviderSession, User
from accounts.oidc import tokens
from accounts.services.identities import SignInRefused, sign_in_identity
from accounts.services.identity_providers import enabled_providers


def authenticate_access_token(token: str) -> tuple[User, dict[str, Any]]:
    """Return the user of a provider's access token, and the token's claims.

    Create an account for an unknown person if the provider creates users and the token contains the e-mail
    address. The user's roles are the only limit of the token's permissions. Raise ``tokens.BadToken`` or
    ``providers.ProviderUnavailable``.
    """
    issuer = tokens.read_issuer(token)
    rows = [row for row in enabled_providers() if row.issuer == issuer and row.bearer_clients]
    if not rows:
        raise tokens.BadToken("its issuer is not an identity provider of this server")
    provider, claims = _first_accepting(rows, lambda row: tokens.check_access_token(row, token))
    if _is_signed_out(provider, claims):
        raise tokens.BadToken("its session has ended")
    known = Identity.objects.select_related("user").filter(issuer=issuer, sub=claims["sub"]).first()
    try:
        identity = known or sign_in_identity(provider=provider, claims=claims)
    except SignInRefused as error:
        raise tokens.BadToken(error.detail) from error
    if not identity.user.is_active:
        raise tokens.BadToken("its user is suspended")
    return identity.user, claims


def _first_accepting(
    rows: list[IdentityProvider], check: Callable[[IdentityProvider], dict[str, Any]]
) -> tuple[IdentityProvider, dict[str, Any]]:
    """Return the first provider that accepts a token, and the token's claims.

    Several providers can have the same issuer with different client ids.
    """
    # The last check runs outside the loop, so that its error reaches the caller.
    for row in rows[:-1]:
        try:
            return row, check(row)
        except tokens.BadToken:
            continue
    return rows[-1], check(rows[-1])


def _is_signed_out(provider: IdentityProvider, claims: dict[str, Any]) -> bool:
    """Return whether this server has ended a session with the token's ``sid``."""
    # A signed access token stays valid at the provider until it expires, so check for the sign-out here.
    sid = claims.get("sid")
    if not sid:
        return False
    rows = ProviderSession.objects.filter(
        sid=sid, identity__issuer=provider.issuer, identity__sub=claims["sub"]
    )
    return rows.exclude(session__ended_at=None).exists()
