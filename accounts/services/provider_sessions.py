"""Sessions that began at a provider: refresh its tokens, end them at its request, and end its own session."""

import enum
import logging
from datetime import timedelta

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
"""Pause after a provider did not answer, so that only one request in ten seconds waits for its timeout."""
ENDING_CODES = {"invalid_grant", "invalid_token"}


class Vouching(enum.Enum):
    """Whether the provider of a session still vouches for it."""

    GOOD = "good"
    ENDED = "ended"
    UNKNOWN = "unknown"
    """The provider has not answered for ``OIDC_GRACE_SECONDS``: the session pauses."""


def keep_vouched_for(*, session: UserSession) -> Vouching:
    """Refresh the tokens of a session whose access token has expired; at most one request does so at a time.

    A local session is always good. The request that finds an expired access token claims the refresh by a
    conditional update. The others go on meanwhile, so parallel and late requests never sign anybody out. Only
    a refusal about the person ends the session; no answer is tolerated for ``OIDC_GRACE_SECONDS``.
    """
    held = getattr(session, "provider_session", None)
    if held is None:
        return Vouching.GOOD
    now = timezone.now()
    if now < held.access_expires_at:
        return Vouching.GOOD
    is_claimed = _claim_refresh(held)
    if is_claimed and not held.refresh_token:
        return _without_refresh(session, held)
    if is_claimed:
        try:
            refresh_session(held=held)
        except providers.ProviderRefused as error:
            return _refused(session, held, error)
        except (providers.ProviderUnavailable, tokens.BadToken) as error:
            log.warning("a session's tokens were not refreshed: %s", error)
            _release(held)
        else:
            return Vouching.GOOD
    grace = timedelta(seconds=settings.OIDC_GRACE_SECONDS)
    return Vouching.GOOD if now < held.access_expires_at + grace else Vouching.UNKNOWN


def _claim_refresh(held: ProviderSession) -> bool:
    now = timezone.now()
    lasts = timedelta(seconds=settings.OIDC_TIMEOUT_SECONDS * 3 + 5)
    free = Q(refresh_until=None) | Q(refresh_until__lt=now)
    found = ProviderSession.objects.filter(free, pk=held.pk, generation=held.generation)
    return bool(found.update(refresh_until=now + lasts))


def _release(held: ProviderSession) -> None:
    """Release the claim, and let no request try again before ``RETRY_AFTER``."""
    found = ProviderSession.objects.filter(pk=held.pk, generation=held.generation)
    found.update(refresh_until=timezone.now() + RETRY_AFTER)


def _without_refresh(session: UserSession, held: ProviderSession) -> Vouching:
    """Trust a provider that gives no refresh tokens until our own session expires."""
    far = session.expires_at
    ProviderSession.objects.filter(pk=held.pk).update(access_expires_at=far, refresh_until=None)
    return Vouching.GOOD


def _refused(
    session: UserSession, held: ProviderSession, error: providers.ProviderRefused
) -> Vouching:
    if error.code not in ENDING_CODES:
        # A wrong client secret or a closed endpoint says nothing about the person.
        log.error("a provider refused a refresh: %s", error.code)
        _release(held)
        grace = held.access_expires_at + timedelta(seconds=settings.OIDC_GRACE_SECONDS)
        return Vouching.GOOD if timezone.now() < grace else Vouching.UNKNOWN
    sessions.end_session(session=session, reason="ended at the provider")
    return Vouching.ENDED


def refresh_session(*, held: ProviderSession) -> None:
    """Fetch new tokens for a session whose refresh the caller has claimed, and apply the new claims.

    Raises ``ProviderRefused``, ``ProviderUnavailable`` and ``BadToken``, and then keeps the old tokens.
    """
    identity = held.identity
    found = tokens.refresh(identity.provider, refresh_token=held.refresh_token, sub=identity.sub)
    with transaction.atomic():
        row = ProviderSession.objects.select_for_update().get(pk=held.pk)
        if row.generation != held.generation:
            return
        row.access_token = found.access_token
        row.refresh_token = found.refresh_token or held.refresh_token
        row.id_token = found.id_token or row.id_token
        row.access_expires_at = timezone.now() + timedelta(seconds=found.expires_in)
        row.generation += 1
        row.refresh_until = None
        row.save()
        if found.claims:
            apply_claims(identity=identity, claims=identity.last_claims | found.claims)


@transaction.atomic
def end_by_logout_token(*, provider: IdentityProvider, token: str) -> int:
    """End the sessions that a back-channel logout token names; return how many.

    Raises ``tokens.BadToken``, also for a token that was used before.
    """
    claims = tokens.check_logout_token(provider, token)
    if not tokens.spend(value=f"logout {provider.issuer} {claims['jti']}", seconds=3_600):
        raise tokens.BadToken("it was used before")
    found = UserSession.objects.filter(
        ended_at=None, provider_session__identity__issuer=provider.issuer
    )
    if sub := claims.get("sub"):
        found = found.filter(provider_session__identity__sub=sub)
    if sid := claims.get("sid"):
        found = found.filter(provider_session__sid=sid)
    ended = [sessions.end_session(session=s, reason="signed out at the provider") for s in found]
    return sum(ended)


def end_at_provider(*, held: ProviderSession) -> bool:
    """End a session at Keycloak by its refresh token; return False if Keycloak was not reached or refused."""
    provider = held.identity.provider
    if provider.kind != IdentityProvider.Kind.KEYCLOAK or not held.refresh_token:
        return False
    form = {"client_id": provider.client_id, "refresh_token": held.refresh_token}
    if secret := provider.client_secret:
        form["client_secret"] = secret
    try:
        url = providers.get_metadata(provider).end_session_endpoint
        return bool(url) and providers.send_request("POST", url, data=form).status_code < 300
    except providers.ProviderUnavailable as error:
        log.warning("a provider could not be asked to end a session: %s", error)
        return False
