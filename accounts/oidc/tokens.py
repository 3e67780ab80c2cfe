"""The tokens of a provider: fetched, and checked in full (signature, issuer, audience, party, times, kind).

OpenID Connect Core 3.1.3.7 (ID tokens), Back-Channel Logout 2.6 (logout tokens), RFC 9068 and Keycloak's
``typ`` claim (access tokens). Only asymmetric algorithms count, so a public key cannot be used as a secret.
"""

import hashlib
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import jwt
from django.db import IntegrityError, transaction
from django.utils import timezone

from accounts.models import IdentityProvider, SpentToken
from accounts.oidc import providers

ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
LEEWAY_SECONDS = 30
LOGOUT_MAX_AGE_SECONDS = 300
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"
TOKEN_MAX_BYTES = 32_768
ACCESS_KINDS = ("Bearer", None)
ROLE_CLAIMS = ("realm_access", "resource_access")
"""Claims that hold Keycloak's roles, by default in the access token only."""


class BadToken(Exception):
    """A token that is not believed; the text says why, for the log, and holds nothing of the token."""


@dataclass(frozen=True, slots=True)
class TokenSet:
    """The response of a token endpoint, checked.

    ``claims`` are those of the ID token, the userinfo endpoint and, with Keycloak, the access token's roles.
    """

    claims: dict[str, Any]
    id_token: str
    access_token: str
    refresh_token: str
    expires_in: int


def exchange(
    provider: IdentityProvider,
    *,
    code: str,
    code_verifier: str,
    nonce: str,
    redirect_uri: str,
    authenticated_after: float | None = None,
) -> TokenSet:
    """Exchange an authorization code for tokens, and check them.

    A code works once. Raises ``ProviderUnavailable``, ``ProviderRefused`` and ``BadToken``.
    """
    response = providers.token_request(
        provider,
        grant_type="authorization_code",
        code=code,
        code_verifier=code_verifier,
        redirect_uri=redirect_uri,
    )
    claims = check_id_token(
        provider, response.get("id_token"), nonce=nonce, authenticated_after=authenticated_after
    )
    added = providers.userinfo(provider, str(response.get("access_token") or ""))
    if added is not None:
        if not isinstance(added, dict) or added.get("sub") != claims["sub"]:  # Core 5.3.2
            raise BadToken("the userinfo is somebody else's")
        claims = added | claims
    return _token_set(provider, response, claims, sub=claims["sub"])


def refresh(provider: IdentityProvider, *, refresh_token: str, sub: str) -> TokenSet:
    """Exchange the refresh token of the person ``sub`` for new tokens, and check them.

    A token that the provider does not send is empty. Raises ``ProviderUnavailable``, ``ProviderRefused`` and
    ``BadToken``.
    """
    response = providers.token_request(
        provider, grant_type="refresh_token", refresh_token=refresh_token
    )
    id_token = response.get("id_token")
    claims = check_refreshed_id_token(provider, id_token, sub=sub) if id_token else {}
    return _token_set(provider, response, claims, sub=sub)


def _token_set(
    provider: IdentityProvider, response: dict[str, Any], claims: dict[str, Any], *, sub: str
) -> TokenSet:
    access_token = str(response.get("access_token") or "")
    if provider.kind == IdentityProvider.Kind.KEYCLOAK:
        own = check_own_access_token(provider, access_token, sub=sub)
        for name in ROLE_CLAIMS:
            if name in own:
                claims[name] = own[name]
    expires_in = response.get("expires_in")
    if not (isinstance(expires_in, int) and 0 < expires_in <= 86_400):
        expires_in = 300
    return TokenSet(
        claims=claims,
        id_token=str(response.get("id_token") or ""),
        access_token=access_token,
        refresh_token=str(response.get("refresh_token") or ""),
        expires_in=expires_in,
    )


def spend(*, what: str, seconds: int) -> bool:
    """Mark a one-time value, such as a state or the id of a logout token, as used for this many seconds.

    Return False if it was used before, in this process or another.
    """
    now = timezone.now()
    SpentToken.objects.filter(expires_at__lt=now).delete()
    digest = hashlib.sha256(what.encode(errors="surrogatepass")).hexdigest()
    try:
        with transaction.atomic():
            SpentToken.objects.create(digest=digest, expires_at=now + timedelta(seconds=seconds))
    except IntegrityError:
        return False
    return True


def check_id_token(
    provider: IdentityProvider, token: Any, *, nonce: str, authenticated_after: float | None = None
) -> dict[str, Any]:
    """The claims of an ID token for this client and this very sign-in.

    ``authenticated_after`` (epoch seconds) asks for a sign-in at the provider since then (``auth_time``).
    Raises ``BadToken`` and ``providers.ProviderUnavailable``.
    """
    claims = _decode(provider, token, audience=provider.client_id, party=provider.client_id)
    if not nonce or claims.get("nonce") != nonce:
        raise BadToken("its nonce is not the one of this sign-in")
    if "events" in claims:
        raise BadToken("it is a logout token")
    if authenticated_after is not None:
        at = claims.get("auth_time")
        if not isinstance(at, int) or at < authenticated_after - LEEWAY_SECONDS:
            raise BadToken("its sign-in at the provider is older than was asked for")
    return claims


def check_refreshed_id_token(provider: IdentityProvider, token: Any, *, sub: str) -> dict[str, Any]:
    """The claims of an ID token that came with a refresh (Core 12.2): the same person as before."""
    claims = _decode(provider, token, audience=provider.client_id, party=provider.client_id)
    if claims["sub"] != sub:
        raise BadToken("it is somebody else's")
    return claims


def check_access_token(provider: IdentityProvider, token: str) -> dict[str, Any]:
    """The claims of an access token that a program brings to the API.

    It must be meant for us (``aud``) and made for a client that the provider's row lists (``azp``).
    Raises ``BadToken`` and ``providers.ProviderUnavailable``.
    """
    claims = _decode(provider, token, audience=provider.audience or provider.client_id)
    if claims.get("typ") not in ACCESS_KINDS or {"nonce", "at_hash", "events"} & claims.keys():
        raise BadToken("it is no access token")
    if claims.get("azp", claims.get("client_id")) not in provider.bearer_clients:
        raise BadToken("it was made for another client")
    return claims


def check_own_access_token(provider: IdentityProvider, token: str, *, sub: str) -> dict[str, Any]:
    """The claims of an access token that the provider just gave us, for the roles that are only in there."""
    claims = _decode(provider, token, audience=None)
    if claims["sub"] != sub:
        raise BadToken("it is somebody else's")
    return claims


def check_logout_token(provider: IdentityProvider, token: str) -> dict[str, Any]:
    """The claims of a logout token: the event, no nonce, a ``sub`` or ``sid``, made just now.

    The caller spends its ``jti``. Raises ``BadToken`` and
    ``providers.ProviderUnavailable``.
    """
    claims = _decode(provider, token, audience=provider.client_id, needs=("iat", "exp", "jti"))
    events = claims.get("events")
    if not isinstance(events, dict) or not isinstance(events.get(LOGOUT_EVENT), dict):
        raise BadToken("it is no logout token")
    if "nonce" in claims:
        raise BadToken("a logout token has no nonce")
    if not all(isinstance(claims[name], str) for name in ("sub", "sid", "jti") if name in claims):
        raise BadToken("its claims are malformed")
    if not claims.get("sub") and not claims.get("sid"):
        raise BadToken("it names nobody")
    if claims["iat"] < time.time() - LOGOUT_MAX_AGE_SECONDS:
        raise BadToken("it is old")
    return claims


def issuer_of(token: str) -> str:
    """What a token says of its issuer, unchecked: to find whose keys to check it with. Raises ``BadToken``."""
    if len(token) > TOKEN_MAX_BYTES or token.count(".") != 2:
        raise BadToken("it is not a signed token")
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        raise BadToken(type(error).__name__) from error
    return str(claims.get("iss", ""))


def _decode(
    provider: IdentityProvider,
    token: Any,
    *,
    audience: str | None,
    party: str | None = None,
    needs: tuple[str, ...] = ("iat", "exp", "sub"),
) -> dict[str, Any]:
    if not isinstance(token, str) or len(token) > TOKEN_MAX_BYTES:
        raise BadToken("there is none")
    try:
        header = jwt.get_unverified_header(token)
        if header.get("alg") not in ALGORITHMS:
            raise BadToken("its algorithm is not taken")
        if "crit" in header:
            raise BadToken("its header asks for what is not understood")
        key = providers.signing_key(provider, key_id=header.get("kid"))
        claims = jwt.decode(
            token,
            key,
            algorithms=list(ALGORITHMS),
            audience=audience,
            issuer=provider.issuer,
            leeway=LEEWAY_SECONDS,
            options={"require": ["iss", *needs], "verify_aud": audience is not None},
        )
    except (jwt.PyJWTError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise BadToken(type(error).__name__) from error
    if "sub" in needs and not (isinstance(claims["sub"], str) and 0 < len(claims["sub"]) <= 255):
        raise BadToken("its sub is malformed")
    if party is not None:
        audiences = claims.get("aud")
        if isinstance(audiences, list) and len(audiences) > 1 and "azp" not in claims:
            raise BadToken("it has several audiences and names no party")
        if claims.get("azp", party) != party:
            raise BadToken("it was made for another client")
    return claims
