"""Services for sessions that began at an identity provider.

They refresh the provider's tokens, end sessions here when the provider requests it, and end sessions at the provider.
"""

import enum
import logging
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from accounts.models import IdentityProvider, ProviderSession, UserSession
from accounts.oidc import providers, tokens
from accounts.services import sessions
from accounts.services.claimed_roles import apply_claims

log = logging.getLogger(__name__)
RETRY_AFTER = timedelta(seconds=10)
"""Pause after a failed refresh, so that at most one request in ten seconds waits for the provider's timeout."""
ENDING_CODES = {"invalid_grant", "invalid_token"}
"""Error codes by which a provider says that the person's session has ended."""


class ProviderSessionState(enum.Enum):
    """The validity of a session according to its provider."""

    VALID = "valid"
    ENDED = "ended"
    UNKNOWN = "unknown"
    """The provider has not confirmed the session for ``OIDC_GRACE_SECONDS``. Requests are refused until it does so."""


def check_provider_session(*, session: UserSession) -> ProviderSessionState:
    """Return whether a session is still valid at its provider; refresh its tokens if they have expired.

    A session without a provider is always valid. The session ends only if the provider reports that the person's
    session there has ended (``ENDING_CODES``). While the provider is unreachable, the session stays valid for
    ``OIDC_GRACE_SECONDS``.
    """
    provider_session = getattr(session, "provider_session", None)
    if provider_session is None:
        return ProviderSessionState.VALID
    now = timezone.now()
    if now < provider_session.access_expires_at:
        return ProviderSessionState.VALID
    # Only one request may refresh, and parallel requests continue with the old tokens. A provider that rotates refresh
    # tokens refuses a second refresh with the same token, and this refusal would end the session.
    is_claimed = _claim_refresh(provider_session)
    if is_claimed and not provider_session.is_readable:
        log.error("a session ends: the provider's tokens of %s cannot be decrypted", session.pk)
        sessions.end_session(session=session, reason="its tokens cannot be decrypted")
        return ProviderSessionState.ENDED
    if is_claimed and not provider_session.refresh_token:
        return _trust_until_expiry(session, provider_session)
    if is_claimed:
        try:
            refresh_session(provider_session=provider_session)
        except providers.ProviderRefused as error:
            return _handle_refusal(session, provider_session, error)
        except (providers.ProviderUnavailable, tokens.BadToken) as error:
            log.warning("a session's tokens were not refreshed: %s", error)
            _release_claim(provider_session)
        else:
            return ProviderSessionState.VALID
    return _unconfirmed_state(provider_session, at=now)


def _unconfirmed_state(provider_session: ProviderSession, *, at: datetime) -> ProviderSessionState:
    """Return the state of a session that the provider has not confirmed: valid during the grace period."""
    grace = timedelta(seconds=settings.OIDC_GRACE_SECONDS)
    is_in_grace = at < provider_session.access_expires_at + grace
    return ProviderSessionState.VALID if is_in_grace else ProviderSessionState.UNKNOWN


def _claim_refresh(provider_session: ProviderSession) -> bool:
    """Claim the refresh by a conditional update; return False if another request has claimed it."""
    now = timezone.now()
    # A refresh calls the provider up to five times: discovery, two methods at the token endpoint, keys, userinfo. The
    # claim outlasts these calls, and it expires in case the process dies.
    duration = timedelta(seconds=settings.OIDC_TIMEOUT_SECONDS * 5 + 5)
    is_free = Q(refresh_until=None) | Q(refresh_until__lt=now)
    rows = ProviderSession.objects.filter(
        is_free, pk=provider_session.pk, generation=provider_session.generation
    )
    return bool(rows.update(refresh_until=now + duration))


def _release_claim(provider_session: ProviderSession) -> None:
    """Release the claim; the next request may try again after ``RETRY_AFTER``."""
    rows = ProviderSession.objects.filter(
        pk=provider_session.pk, generation=provider_session.generation
    )
    rows.update(refresh_until=timezone.now() + RETRY_AFTER)


def _trust_until_expiry(
    session: UserSession, provider_session: ProviderSession
) -> ProviderSessionState:
    """Keep a session valid until it expires here, for a provider that issues no refresh tokens."""
    ProviderSession.objects.filter(pk=provider_session.pk).update(
        access_expires_at=session.expires_at, refresh_until=None
    )
    return ProviderSessionState.VALID


def _handle_refusal(
    session: UserSession, provider_session: ProviderSession, error: providers.ProviderRefused
) -> ProviderSessionState:
    if error.code not in ENDING_CODES:
        # A wrong client secret or a closed endpoint says nothing about the person.
        log.error("a provider refused a refresh: %s", error.code)
        _release_claim(provider_session)
        return _unconfirmed_state(provider_session, at=timezone.now())
    sessions.end_session(session=session, reason="ended at the provider")
    return ProviderSessionState.ENDED


def refresh_session(*, provider_session: ProviderSession) -> None:
    """Fetch new tokens from the provider, store them, and apply the new claims.

    The caller must have claimed the refresh (``_claim_refresh``). Discard the new tokens if another request stored
    newer ones meanwhile. Raise ``ProviderRefused``, ``ProviderUnavailable`` or ``BadToken``; the database then keeps
    the old tokens.
    """
    identity = provider_session.identity
    token_set = tokens.refresh(
        identity.provider, refresh_token=provider_session.refresh_token, sub=identity.sub
    )
    # The transaction begins after the network call, so that a slow provider does not keep the row locked.
    with transaction.atomic():
        row = ProviderSession.objects.select_for_update().get(pk=provider_session.pk)
        # A different generation means that the claim expired during the call, and another request stored newer tokens.
        if row.generation != provider_session.generation:
            return
        row.access_token = token_set.access_token
        # Providers without rotation send no new refresh token: keep the old one.
        row.refresh_token = token_set.refresh_token or provider_session.refresh_token
        row.id_token = token_set.id_token or row.id_token
        row.access_expires_at = timezone.now() + timedelta(seconds=token_set.expires_in)
        row.generation += 1
        row.refresh_until = None
        row.save()
        if token_set.claims:
            # Providers leave out the claim of a person's groups when the last group is gone. Keep an old claim only if
            # the refresh could not read all claims.
            kept = {} if token_set.is_complete else identity.last_claims
            apply_claims(identity=identity, claims=kept | token_set.claims)


@transaction.atomic
def end_by_logout_token(*, provider: IdentityProvider, token: str) -> int:
    """End the sessions that a back-channel logout token names; return their number.

    Raise ``tokens.BadToken`` if the token is not valid or was used before.
    """
    claims = tokens.check_logout_token(provider, token)
    if not tokens.spend(value=f"logout {provider.issuer} {claims['jti']}", seconds=3_600):
        raise tokens.BadToken("the token was used before")
    rows = UserSession.objects.filter(
        ended_at=None, provider_session__identity__issuer=provider.issuer
    )
    # A token contains sub, sid or both (OpenID Connect Back-Channel Logout 1.0, section 2.4).
    if sub := claims.get("sub"):
        rows = rows.filter(provider_session__identity__sub=sub)
    if sid := claims.get("sid"):
        rows = rows.filter(provider_session__sid=sid)
    ended = [sessions.end_session(session=s, reason="signed out at the provider") for s in rows]
    return sum(ended)


def end_at_provider(*, provider_session: ProviderSession) -> bool:
    """Send a session's refresh token to Keycloak, to end the session there; return whether Keycloak confirmed.

    Return False for other providers, and for a session without a refresh token or with one that cannot be decrypted.
    """
    provider = provider_session.identity.provider
    if provider.kind != IdentityProvider.Kind.KEYCLOAK or not provider_session.is_readable:
        return False
    if not provider_session.refresh_token:
        return False
    form = {"refresh_token": provider_session.refresh_token}
    try:
        url = providers.get_metadata(provider).end_session_endpoint
        return bool(url) and providers.send_as_client(provider, url, form).status_code < 300
    except providers.ProviderUnavailable as error:
        log.warning("a session was not ended at its provider: %s", error)
        return False
