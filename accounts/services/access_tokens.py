"""Access tokens of identity providers, as programs send them to the API."""

from collections.abc import Callable
from typing import Any

from accounts.models import Identity, IdentityProvider, ProviderSession, User
from accounts.oidc import tokens
from accounts.services.identities import SignInRefused, sign_in_identity
from accounts.services.identity_providers import enabled_providers


def authenticate_access_token(token: str) -> tuple[User, dict[str, Any]]:
    """Return the user whom a provider's access token names, and its claims.

    Create an account for an unknown person if the provider's row allows it and the token has the e-mail
    address. The token gives no more than the user's roles. Raises ``tokens.BadToken`` and
    ``providers.ProviderUnavailable``.
    """
    issuer = tokens.read_issuer(token)
    found = [row for row in enabled_providers() if row.issuer == issuer and row.bearer_clients]
    if not found:
        raise tokens.BadToken("its issuer is not one of ours")
    claims = _first_good(found, lambda row: tokens.check_access_token(row, token))
    provider, checked = claims
    if _is_signed_out(provider, checked):
        raise tokens.BadToken("its session has ended")
    known = (
        Identity.objects.select_related("user").filter(issuer=issuer, sub=checked["sub"]).first()
    )
    try:
        identity = known or sign_in_identity(provider=provider, claims=checked)
    except SignInRefused as error:
        raise tokens.BadToken(error.detail) from error
    if not identity.user.is_active:
        raise tokens.BadToken("its user is suspended")
    return identity.user, checked


def _first_good(
    rows: list[IdentityProvider], check: Callable[[IdentityProvider], dict[str, Any]]
) -> tuple[IdentityProvider, dict[str, Any]]:
    """Check a token against each row of its issuer; return the first row that accepts it, and the claims."""
    for row in rows[:-1]:
        try:
            return row, check(row)
        except tokens.BadToken:
            continue
    return rows[-1], check(rows[-1])


def _is_signed_out(provider: IdentityProvider, claims: dict[str, Any]) -> bool:
    """Return whether the provider's session of this token has ended here."""
    sid = claims.get("sid")
    if not sid:
        return False
    found = ProviderSession.objects.filter(
        sid=sid, identity__issuer=provider.issuer, identity__sub=claims["sub"]
    )
    return found.exclude(session__ended_at=None).exists()
