"""Tokens of identity providers: fetch them, and check their signature, issuer, audience, times and type.

The checks follow OpenID Connect Core 3.1.3.7 (ID tokens), Back-Channel Logout 2.6 (logout tokens), and RFC 9068
with Keycloak's ``typ`` claim (access tokens). Only asymmetric algorithms are accepted: otherwise an attacker could
sign a token with HMAC and the provider's public key as the secret.
"""

import hashlib
import re
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import jwt
from django.db import IntegrityError, transaction
from django.utils import timezone

from accounts.models import IdentityProvider, SpentToken
from accounts.oidc import providers
from accounts.oidc.claims import merge_claims, read_number, read_text

ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
LEEWAY_SECONDS = 30
"""The tolerated difference between the clocks of a provider and of this server."""
LOGOUT_MAX_AGE_SECONDS = 300
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"
TOKEN_MAX_BYTES = 32_768
ACCESS_KINDS = ("Bearer", None)
"""Accepted values of the claim ``typ``: Keycloak sets it to Bearer, and other providers do not set it."""
UNSTORABLE = re.compile("[\0\ud800-\udfff]")
"""Characters that PostgreSQL cannot store or search for."""
ROLE_CLAIMS = ("realm_access", "resource_access")
"""Claims with the roles of Keycloak. By default Keycloak puts them into the access token only."""


class BadToken(Exception):
    """A token failed a check. The message is the reason, for the log; it contains no part of the token."""


@dataclass(frozen=True, slots=True)
class TokenSet:
    """Tokens from a token endpoint, after all checks. A missing token is an empty string.

    ``claims`` contains the claims of the ID token, the claims of the userinfo endpoint and, for Keycloak, the roles in
    the access token. ``expires_in`` is in seconds. ``is_complete`` is False if a refresh could not read all sources of
    claims that a sign-in reads: then a missing claim says nothing.
    """

    claims: dict[str, Any]
    id_token: str
    access_token: str
    refresh_token: str
    expires_in: int
    is_complete: bool = True


def exchange(
    provider: IdentityProvider,
    *,
    code: str,
    code_verifier: str,
    nonce: str,
    redirect_uri: str,
    authenticated_after: float | None = None,
) -> TokenSet:
    """Exchange an authorization code for tokens and check them. A code works once.

    ``authenticated_after`` (seconds since 1970) requires that the person signed in at the provider after this
    time. Raise ``ProviderUnavailable`` or ``ProviderRefused`` if the provider sends no tokens, and ``BadToken`` if a
    token fails a check.
    """
    response = providers.request_tokens(
        provider,
        grant_type="authorization_code",
        code=code,
        code_verifier=code_verifier,
        redirect_uri=redirect_uri,
    )
    claims = check_id_token(
        provider, response.get("id_token"), nonce=nonce, authenticated_after=authenticated_after
    )
    userinfo = providers.fetch_userinfo(provider, str(response.get("access_token") or ""))
    if userinfo is not None:
        claims = merge_claims(_check_userinfo(userinfo, sub=claims["sub"]), claims)
    return _token_set(provider, response, claims, sub=claims["sub"])


def refresh(provider: IdentityProvider, *, refresh_token: str, sub: str) -> TokenSet:
    """Exchange the refresh token of the person ``sub`` for new tokens and check them.

    Raise the same exceptions as ``exchange``, but continue without the claims of the userinfo endpoint if only this
    endpoint does not respond: the new refresh token must be stored, because the old one may no longer work.
    """
    response = providers.request_tokens(
        provider, grant_type="refresh_token", refresh_token=refresh_token
    )
    id_token = response.get("id_token")
    claims = check_refreshed_id_token(provider, id_token, sub=sub) if id_token else {}
    has_userinfo = bool(providers.get_metadata(provider).userinfo_endpoint)
    try:
        userinfo = providers.fetch_userinfo(provider, str(response.get("access_token") or ""))
    except providers.ProviderUnavailable:
        userinfo = None
    if userinfo is not None:
        claims = merge_claims(_check_userinfo(userinfo, sub=sub), claims)
    token_set = _token_set(provider, response, claims, sub=sub)
    is_complete = bool(id_token) and (userinfo is not None or not has_userinfo)
    return replace(token_set, is_complete=is_complete)


def _check_userinfo(userinfo: Any, *, sub: str) -> dict[str, Any]:
    """Return the claims of the userinfo endpoint. Raise ``BadToken`` if they belong to another user.

    They are not signed, so their ``sub`` must equal the ``sub`` of the ID token (Core 5.3.2). Some providers send a
    number.
    """
    if not isinstance(userinfo, dict) or read_text(userinfo.get("sub")) != sub:
        raise BadToken("the userinfo belongs to another user")
    return userinfo | {"sub": sub}


def _token_set(
    provider: IdentityProvider, response: dict[str, Any], claims: dict[str, Any], *, sub: str
) -> TokenSet:
    access_token = str(response.get("access_token") or "")
    if provider.kind == IdentityProvider.Kind.KEYCLOAK:
        access_claims = check_own_access_token(provider, access_token, sub=sub)
        for name in ROLE_CLAIMS:
            # Keycloak leaves a claim out if the person has no role. An empty value makes a refresh replace the old one.
            claims[name] = access_claims.get(name, claims.get(name, {}))
    # RFC 6749 only recommends expires_in. Without a plausible value, refresh after five minutes.
    # Some providers send it as text.
    expires_in = int(read_number(response.get("expires_in")) or 0)
    if not 0 < expires_in <= 86_400:
        expires_in = 300
    return TokenSet(
        claims=claims,
        id_token=str(response.get("id_token") or ""),
        access_token=access_token,
        refresh_token=str(response.get("refresh_token") or ""),
        expires_in=expires_in,
    )


def spend(*, value: str, seconds: int) -> bool:
    """Mark a one-time value, such as a state or the id of a logout token, as used.

    Return False if the value is already marked. The mark expires after ``seconds`` seconds.
    """
    now = timezone.now()
    SpentToken.objects.filter(expires_at__lt=now).delete()
    digest = hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()
    try:
        # The unique constraint decides: of two concurrent requests, only one gets True.
        with transaction.atomic():
            SpentToken.objects.create(digest=digest, expires_at=now + timedelta(seconds=seconds))
    except IntegrityError:
        return False
    return True


def check_id_token(
    provider: IdentityProvider, token: Any, *, nonce: str, authenticated_after: float | None = None
) -> dict[str, Any]:
    """Check an ID token and return its claims. The token must be issued to this client, for the sign-in with ``nonce``.

    With ``authenticated_after`` (seconds since 1970), the claim ``auth_time`` must show that the person signed in at
    the provider after this time. Raise ``BadToken`` if a check fails, and ``providers.ProviderUnavailable`` if the
    provider's keys cannot be fetched.
    """
    claims = _decode(provider, token, audience=provider.client_id, party=provider.client_id)
    if not nonce or claims.get("nonce") != nonce:
        raise BadToken("the nonce of the token belongs to another sign-in")
    if "events" in claims:
        raise BadToken("the token is a logout token")
    if authenticated_after is not None:
        at = read_number(claims.get("auth_time"))
        if at is None or at < authenticated_after - LEEWAY_SECONDS:
            raise BadToken("the auth_time of the token is missing or older than required")
    return claims


def check_refreshed_id_token(provider: IdentityProvider, token: Any, *, sub: str) -> dict[str, Any]:
    """Check an ID token from a refresh response (Core 12.2) and return its claims.

    Raise ``BadToken`` if the token is invalid or belongs to a user other than ``sub``, and
    ``providers.ProviderUnavailable`` if the provider's keys cannot be fetched.
    """
    claims = _decode(provider, token, audience=provider.client_id, party=provider.client_id)
    if claims["sub"] != sub:
        raise BadToken("the token belongs to another user")
    return claims


def check_access_token(provider: IdentityProvider, token: str) -> dict[str, Any]:
    """Check an access token that a client sent to the API, and return its claims.

    The token must name this server as its audience (``aud``) and must be issued to one of the provider's
    ``bearer_clients`` (``azp``). Raise ``BadToken`` if a check fails, and ``providers.ProviderUnavailable`` if the
    provider's keys cannot be fetched.
    """
    claims = _decode(provider, token, audience=provider.audience or provider.client_id)
    # An ID token or a logout token can have the right signature and audience; reject both here.
    if claims.get("typ") not in ACCESS_KINDS or {"nonce", "at_hash", "events"} & claims.keys():
        raise BadToken("the token is not an access token")
    if claims.get("azp", claims.get("client_id")) not in provider.bearer_clients:
        raise BadToken("the token was issued to another client")
    return claims


def check_own_access_token(provider: IdentityProvider, token: str, *, sub: str) -> dict[str, Any]:
    """Check an access token from our own token request, and return its claims, which include Keycloak's roles.

    The audience is not checked: the token came directly from the provider. Raise ``BadToken`` if the token is invalid
    or belongs to a user other than ``sub``, and ``providers.ProviderUnavailable`` if the provider's keys cannot be
    fetched.
    """
    claims = _decode(provider, token, audience=None)
    if claims["sub"] != sub:
        raise BadToken("the token belongs to another user")
    return claims


def check_logout_token(provider: IdentityProvider, token: str) -> dict[str, Any]:
    """Check a logout token and return its claims.

    The token must contain ``sub`` or ``sid`` and be at most five minutes old. The caller must pass the claim ``jti``
    to ``spend``, to reject a token that is sent twice. Raise ``BadToken`` if a check fails, and
    ``providers.ProviderUnavailable`` if the provider's keys cannot be fetched.
    """
    claims = _decode(provider, token, audience=provider.client_id, needs=("iat", "exp", "jti"))
    events = claims.get("events")
    if not isinstance(events, dict) or not isinstance(events.get(LOGOUT_EVENT), dict):
        raise BadToken("the token is not a logout token")
    if "nonce" in claims:  # forbidden, so that an ID token cannot pass as a logout token
        raise BadToken("the token has a nonce")
    if not all(isinstance(claims[name], str) for name in ("sub", "sid", "jti") if name in claims):
        raise BadToken("the claims of the token are malformed")
    if not claims.get("sub") and not claims.get("sid"):
        raise BadToken("the token has neither a sub nor a sid")
    if claims["iat"] < time.time() - LOGOUT_MAX_AGE_SECONDS:
        raise BadToken("the token is too old")
    return claims


def read_issuer(token: str) -> str:
    """Return the issuer that a token claims to have. The token is not checked: use the issuer only to select the keys.

    Raise ``BadToken`` if the text is not a JWT.
    """
    if len(token) > TOKEN_MAX_BYTES or token.count(".") != 2:
        raise BadToken("the text is not a signed token")
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
        raise BadToken("the token is missing or too long")
    try:
        header = jwt.get_unverified_header(token)
        if header.get("alg") not in ALGORITHMS:
            raise BadToken("the algorithm of the token is not accepted")
        if "crit" in header:  # RFC 7515 4.1.11: reject critical extensions that we do not implement
            raise BadToken("the header of the token has critical extensions")
        key = providers.get_signing_key(provider, key_id=header.get("kid"))
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
        raise BadToken("the sub of the token is malformed")
    # The database is searched for both claims, and such a search would fail.
    for name in ("sub", "sid"):
        if isinstance(value := claims.get(name), str) and UNSTORABLE.search(value):
            raise BadToken(f"the {name} of the token is malformed")
    # Core 3.1.3.7: azp is the id of the client that the token was issued to. It must be our client id.
    if party is not None:
        audiences = claims.get("aud")
        if isinstance(audiences, list) and len(audiences) > 1 and "azp" not in claims:
            raise BadToken("the token has several audiences and no azp")
        if claims.get("azp", party) != party:
            raise BadToken("the token was issued to another client")
    return claims
