"""The verbs of identity: providers, signing in with them, roles by claims, tokens kept fresh, leaving."""

import enum
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F, Q
from django.utils import timezone

from accounts.models import (
    ClaimedRole,
    Identity,
    IdentityProvider,
    Membership,
    OfflineToken,
    Organization,
    ProviderSession,
    SpentToken,
    User,
    UserSession,
)
from accounts.oidc import claims as claim_rules
from accounts.oidc import providers, tokens
from accounts.services import people, sessions
from accounts.services.audit import record
from lib.problems import Problem

log = logging.getLogger(__name__)
RETRY_AFTER = timedelta(seconds=10)
"""Pause after a provider did not answer, so that its absence costs one request in a while its timeout."""
ENDING_CODES = {"invalid_grant", "invalid_token"}


class UnknownProvider(Problem):
    """No provider of this name is switched on."""

    status = 404
    code = "unknown-provider"
    sentence = "There is no such way to sign in here."


class SignInRefused(Problem):
    """The provider's word does not let this person in; ``detail`` is a sentence for them."""

    status = 403
    code = "sign-in-refused"
    sentence = "You cannot sign in this way."


class AccountExists(SignInRefused):
    """A local account has this e-mail address, and an e-mail address never links by itself."""

    status = 409
    code = "account-exists"
    sentence = (
        "An account with your e-mail address exists here already. Sign in to it as you always do, then "
        "connect this provider under Settings, Sign-in."
    )


class IdentityTaken(Problem):
    """The provider's account belongs to somebody else here, or the user has another one there."""

    status = 409
    code = "identity-taken"
    sentence = "That account is connected to another user here."


class LastWayIn(Problem):
    """Taking this identity away would leave its user no way to sign in."""

    status = 409
    code = "last-way-in"
    sentence = "This is your only way to sign in. Set a password first."


class Vouching(enum.Enum):
    """How a session stands with the provider that vouched for it."""

    GOOD = "good"
    ENDED = "ended"
    UNKNOWN = "unknown"
    """The provider has been away for longer than ``OIDC_GRACE_SECONDS``: nobody is let in on its old word."""


@dataclass(frozen=True, slots=True)
class TokenSet:
    """What the token endpoint gave, checked."""

    claims: dict[str, Any]
    id_token: str
    access_token: str
    refresh_token: str
    expires_in: int


# --- Providers --------------------------------------------------------------------


def enabled_providers() -> list[IdentityProvider]:
    """The providers one may sign in with, by name; those of the environment are written down first."""
    rows = {row.slug: row for row in IdentityProvider.objects.order_by("name")}
    for preset in settings.OIDC_PRESETS:
        row = rows.get(preset["slug"])
        if row is None or not _equals(row, preset):
            rows[preset["slug"]] = _write_preset(preset)
    return [row for row in rows.values() if row.is_enabled]


def _equals(row: IdentityProvider, preset: dict[str, Any]) -> bool:
    return all(getattr(row, name) == value for name, value in preset.items())


@transaction.atomic
def _write_preset(preset: dict[str, Any]) -> IdentityProvider:
    row, _ = IdentityProvider.objects.get_or_create(
        slug=preset["slug"], defaults={"issuer": preset["issuer"]}
    )
    row = IdentityProvider.objects.select_for_update().get(pk=row.pk)
    for name, value in preset.items():
        setattr(row, name, value)
    row.is_preset = True
    row.save()
    return row


def find_provider(*, slug: str) -> IdentityProvider:
    """The enabled provider of a name. Raises ``UnknownProvider``."""
    found = next((row for row in enabled_providers() if row.slug == slug), None)
    if found is None:
        raise UnknownProvider
    return found


# --- Signing in -------------------------------------------------------------------


@transaction.atomic
def sign_in_identity(*, provider: IdentityProvider, claims: dict[str, Any]) -> Identity:
    """The identity that checked claims are of, with its user; unknown people get an account if they may.

    Matched by (issuer, sub) alone. Roles follow the claims. Safe to repeat. Raises ``SignInRefused`` with
    its form ``AccountExists``.
    """
    known = Identity.objects.select_related("user", "provider").filter(
        issuer=provider.issuer, sub=claims["sub"]
    )
    identity = known.first() or _create_user(provider, claims)
    if not identity.user.is_active:
        raise SignInRefused("Your account here is suspended. Ask an administrator.")
    apply_claims(identity=identity, claims=claims)
    return identity


def _create_user(provider: IdentityProvider, claims: dict[str, Any]) -> Identity:
    if not provider.creates_users:
        raise SignInRefused(
            "You have no account here, and this provider makes none. Ask for an invitation."
        )
    email = claims.get("email")
    if not isinstance(email, str) or not email or "\0" in email:
        raise SignInRefused("The provider did not say your e-mail address, which an account needs.")
    if provider.requires_verified_email and claims.get("email_verified") is not True:
        raise SignInRefused(
            "The provider has not verified your e-mail address. Verify it there first."
        )
    try:
        with transaction.atomic():
            user = people.create_user(email=email, name=_name(claims))
            return _connect(user, provider, claims)
    except people.EmailTaken as error:
        raise AccountExists from error
    except people.NotAnAddress as error:
        raise SignInRefused("The provider's e-mail address for you is not one.") from error
    except IntegrityError:  # two first sign-ins of one person at once
        return Identity.objects.select_related("user", "provider").get(
            issuer=provider.issuer, sub=claims["sub"]
        )


def _connect(user: User, provider: IdentityProvider, claims: dict[str, Any]) -> Identity:
    identity = Identity.objects.create(
        user=user, provider=provider, issuer=provider.issuer, sub=claims["sub"]
    )
    record(action="identity.linked", subject=user, after={"provider": provider.slug})
    return identity


def _name(claims: dict[str, Any]) -> str:
    name = claims.get("name") or claims.get("preferred_username") or ""
    return "".join(letter for letter in str(name) if letter.isprintable())[:120]


@transaction.atomic
def link_identity(*, user: User, provider: IdentityProvider, claims: dict[str, Any]) -> Identity:
    """Connect a provider's account to a user who is signed in and just agreed to it there.

    Safe to repeat. Raises ``IdentityTaken``.
    """
    found = Identity.objects.filter(issuer=provider.issuer, sub=claims["sub"]).first()
    if found and found.user_id != user.pk:
        raise IdentityTaken
    if not found:
        if user.identities.filter(provider=provider).exists():
            raise IdentityTaken("You have connected another account of this provider already.")
        try:
            with transaction.atomic():
                found = _connect(user, provider, claims)
        except IntegrityError as error:
            raise IdentityTaken from error
    apply_claims(identity=found, claims=claims)
    return found


@transaction.atomic
def unlink_identity(*, identity: Identity) -> None:
    """Take a provider's account away from its user, with the sessions and roles it gave.

    Raises ``LastWayIn``.
    """
    # This row before the audit chain, as in apply_claims.
    identity = Identity.objects.select_for_update().get(pk=identity.pk)
    user = User.objects.select_for_update().get(pk=identity.user_id)
    if not user.has_usable_password() and user.identities.count() == 1:
        raise LastWayIn
    for session in UserSession.objects.filter(provider_session__identity=identity):
        sessions.end_session(session=session, reason="provider disconnected")
    Membership.objects.filter(claimed_role__identity=identity).delete()
    if identity.is_staff_by_claims:
        User.objects.filter(pk=user.pk).update(is_staff=False)
    provider = identity.provider.slug
    identity.delete()
    sessions.announce_access_change(user_id=user.pk)
    record(action="identity.unlinked", subject=user, before={"provider": provider})


# --- Roles by claims --------------------------------------------------------------


def preview_claims(*, provider: IdentityProvider, claims: dict[str, Any]) -> claim_rules.Wanted:
    """What claims would give somebody, changing nothing. Raises ``claims.BadRule``."""
    return claim_rules.wanted(provider.claim_rules, claims)


@transaction.atomic
def apply_claims(*, identity: Identity, claims: dict[str, Any]) -> None:
    """Make the roles that rules gave equal to what the claims now say. Safe to repeat.

    Only memberships that claims gave are changed or taken back: one that a person gave stays as it is, and
    the last owner of an organization stays owner.
    """
    identity = Identity.objects.select_for_update().get(pk=identity.pk)
    provider = identity.provider
    try:
        wanted = claim_rules.wanted(provider.claim_rules, claims)
    except claim_rules.BadRule as error:
        log.error("claim rules of %s are not applied: %s", provider.slug, error)  # noqa: TRY400
        wanted = None
    if wanted is not None:
        changed = _apply_roles(identity, wanted.roles)
        changed |= _apply_staff(identity, wanted.is_staff)
        if changed:
            sessions.announce_access_change(user_id=identity.user_id)
    identity.email = str(claims.get("email") or identity.email)[:254].replace("\0", "")
    identity.last_claims = _storable(claim_rules.kept(claims, provider.claim_rules))
    identity.last_seen_at = timezone.now()
    identity.save(update_fields=["email", "last_claims", "last_seen_at", "is_staff_by_claims"])


def _apply_roles(identity: Identity, roles: dict[UUID, str]) -> bool:
    given = {
        row.organization_id: row.membership
        for row in identity.claimed_roles.select_related("membership")
    }
    changed: dict[UUID, tuple[str | None, str | None]] = {}
    for organization_id, membership in given.items():
        role = roles.get(organization_id)
        if role == membership.role or _is_last_owner(membership):
            continue
        changed[organization_id] = (membership.role, role)
        if role is None:
            Membership.objects.filter(pk=membership.pk).delete()
        else:
            Membership.objects.filter(pk=membership.pk).update(role=role)
    for organization in Organization.objects.filter(pk__in=roles.keys() - given.keys()):
        membership, is_new = Membership.objects.get_or_create(
            organization=organization,
            user_id=identity.user_id,
            defaults={"role": roles[organization.pk]},
        )
        if is_new:
            ClaimedRole.objects.create(
                identity=identity, organization=organization, membership=membership
            )
            changed[organization.pk] = (None, membership.role)
    for organization_id in sorted(
        changed
    ):  # chains are locked in one order, so that none waits in a ring
        _record_role(identity, organization_id, *changed[organization_id])
    return bool(changed)


def _record_role(
    identity: Identity, organization_id: UUID, before: str | None, after: str | None
) -> None:
    record(
        action="membership.claimed",
        organization_id=organization_id,
        subject=identity.user,
        before={"role": before} if before else None,
        after={"role": after} if after else None,
        reason=f"claims of {identity.provider.slug}",
    )


def _is_last_owner(membership: Membership) -> bool:
    owners = Membership.objects.filter(
        organization_id=membership.organization_id, role=Membership.Role.OWNER
    )
    is_owner = membership.role == Membership.Role.OWNER
    return is_owner and not owners.exclude(pk=membership.pk).exists()


def _apply_staff(identity: Identity, is_staff: bool | None) -> bool:  # noqa: FBT001 - one of three
    """Staff by claims comes and goes with them; staff that an administrator gave is not touched."""
    user = identity.user
    if is_staff and not user.is_staff:
        identity.is_staff_by_claims = True
    elif not is_staff and identity.is_staff_by_claims:
        identity.is_staff_by_claims = False
    else:
        return False
    User.objects.filter(pk=user.pk).update(is_staff=bool(is_staff))
    record(
        action="user.staff_claimed",
        subject=user,
        before={"is_staff": user.is_staff},
        after={"is_staff": bool(is_staff)},
        reason=f"claims of {identity.provider.slug}",
    )
    return True


def _storable(claims: dict[str, Any]) -> dict[str, Any]:
    """PostgreSQL's JSON cannot hold NUL or lone surrogates, which a claim may."""
    import json

    text = json.dumps(claims)
    is_odd = "\\u0000" in text or "\\ud8" in text.lower() or len(text) > 65_536
    return {"sub": str(claims.get("sub", ""))[:255]} if is_odd else claims


# --- The provider's session and its tokens ----------------------------------------


@transaction.atomic
def hold_provider_session(
    *, session: UserSession, identity: Identity, found: TokenSet
) -> ProviderSession:
    """Keep the provider's tokens of a session that just began, sealed."""
    held = ProviderSession(
        session=session,
        identity=identity,
        sid=str(found.claims.get("sid") or "")[:255],
        access_expires_at=timezone.now() + timedelta(seconds=found.expires_in),
    )
    held.access_token, held.id_token = found.access_token, found.id_token
    held.refresh_token = found.refresh_token
    held.save()
    return held


def keep_vouched_for(*, session: UserSession) -> Vouching:
    """Ask the provider again when its word on a session runs out; at most one request asks at a time.

    A local session is always good. Whoever finds the access token old claims the refresh by one conditional
    update; everybody else carries on meanwhile, so parallel requests and late ones never sign anybody out.
    Only the provider's clear no ends the session; silence is waited out for ``OIDC_GRACE_SECONDS``.
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
    """Nobody tries again before the pause is over."""
    found = ProviderSession.objects.filter(pk=held.pk, generation=held.generation)
    found.update(refresh_until=timezone.now() + RETRY_AFTER)


def _without_refresh(session: UserSession, held: ProviderSession) -> Vouching:
    """A provider that gives no refresh tokens vouches once; our own session's life is the limit."""
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
    """Fetch new tokens for a session whose refresh the caller has claimed, and apply its claims.

    Raises ``ProviderRefused``, ``ProviderUnavailable`` and ``BadToken``; the old tokens stay then.
    """
    identity = held.identity
    provider = identity.provider
    answer = providers.token_request(
        provider, grant_type="refresh_token", refresh_token=held.refresh_token
    )
    claims: dict[str, Any] = {}
    id_token = answer.get("id_token")
    if id_token:
        claims = tokens.check_refreshed_id_token(provider, id_token, sub=identity.sub)
    access_token = str(answer.get("access_token") or "")
    claims |= role_claims(provider, access_token, sub=identity.sub)
    with transaction.atomic():
        row = ProviderSession.objects.select_for_update().get(pk=held.pk)
        if row.generation != held.generation:
            return
        row.access_token = access_token
        row.refresh_token = str(answer.get("refresh_token") or held.refresh_token)
        if id_token:
            row.id_token = str(id_token)
        row.access_expires_at = timezone.now() + timedelta(seconds=lifetime(answer))
        row.generation += 1
        row.refresh_until = None
        row.save()
        if claims:
            apply_claims(identity=identity, claims=identity.last_claims | claims)


def lifetime(answer: dict[str, Any]) -> int:
    """Seconds that an access token lives by the token endpoint's word; five minutes where it says none."""
    given = answer.get("expires_in")
    is_sane = isinstance(given, int) and 0 < given <= 86_400
    return given if is_sane else 300  # type: ignore[return-value]


def role_claims(provider: IdentityProvider, access_token: str, *, sub: str) -> dict[str, Any]:
    """Keycloak's roles, which by default are in the access token only; nothing for other providers."""
    if provider.kind != IdentityProvider.Kind.KEYCLOAK:
        return {}
    found = tokens.check_own_access_token(provider, access_token, sub=sub)
    return {name: found[name] for name in ("realm_access", "resource_access") if name in found}


# --- Leaving ----------------------------------------------------------------------


@transaction.atomic
def end_by_logout_token(*, provider: IdentityProvider, token: str) -> int:
    """End the sessions that a back-channel logout token names; gives how many.

    Raises ``tokens.BadToken``, also for a token that was used before.
    """
    claims = tokens.check_logout_token(provider, token)
    if not spend(what=f"logout {provider.issuer} {claims['jti']}", seconds=3_600):
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


def spend(*, what: str, seconds: int) -> bool:
    """Use something up that counts once; False when it was used before, also in another process."""
    now = timezone.now()
    SpentToken.objects.filter(expires_at__lt=now).delete()
    digest = hashlib.sha256(what.encode(errors="surrogatepass")).hexdigest()
    try:
        with transaction.atomic():
            SpentToken.objects.create(digest=digest, expires_at=now + timedelta(seconds=seconds))
    except IntegrityError:
        return False
    return True


def end_at_provider(*, held: ProviderSession) -> bool:
    """Tell a Keycloak that a session is over, by its refresh token; best effort, False when it was not told."""
    provider = held.identity.provider
    if provider.kind != IdentityProvider.Kind.KEYCLOAK or not held.refresh_token:
        return False
    form = {"client_id": provider.client_id, "refresh_token": held.refresh_token}
    if secret := provider.client_secret:
        form["client_secret"] = secret
    try:
        url = providers.metadata(provider).end_session_endpoint
        return bool(url) and providers.call("POST", url, data=form).status_code < 300
    except providers.ProviderUnavailable as error:
        log.warning("a provider was not told of a sign-out: %s", error)
        return False


# --- Work while the user is away --------------------------------------------------


@transaction.atomic
def keep_offline_token(*, identity: Identity, token: str) -> None:
    """Keep an offline refresh token, sealed, in the place of an earlier one. Safe to repeat."""
    Identity.objects.select_for_update().get(pk=identity.pk)
    row = OfflineToken.objects.filter(identity=identity).first() or OfflineToken(identity=identity)
    row.token = token
    row.generation += 1
    row.refreshed_at = timezone.now()
    row.save()


def offline_access_token(*, identity: Identity) -> str:
    """A fresh access token of somebody who is away, by their offline token.

    The row is not locked over the call: where two ask at once, both get an access token and the newest
    refresh token is kept. Raises ``SignInRefused`` (none is kept, or it no longer counts, and is then
    removed) and ``ProviderUnavailable``.
    """
    row = OfflineToken.objects.filter(identity=identity).first()
    if row is None or not identity.user.is_active:
        raise SignInRefused("There is no permission to work for this user while they are away.")
    try:
        answer = providers.token_request(
            identity.provider, grant_type="refresh_token", refresh_token=row.token
        )
    except providers.ProviderRefused as error:
        if error.code in ENDING_CODES:
            OfflineToken.objects.filter(pk=row.pk, generation=row.generation).delete()
        raise SignInRefused(
            "The provider no longer allows work while this user is away."
        ) from error
    if fresh := answer.get("refresh_token"):
        sealed = OfflineToken(pk=row.pk)
        sealed.token = str(fresh)
        OfflineToken.objects.filter(pk=row.pk, generation=row.generation).update(
            sealed_token=sealed.sealed_token,
            generation=F("generation") + 1,
            refreshed_at=timezone.now(),
        )
    return str(answer.get("access_token") or "")


# --- Bearer tokens ----------------------------------------------------------------


def authenticate_access_token(token: str) -> tuple[User, dict[str, Any]]:
    """The user that a provider's access token is of, and its claims.

    Somebody unknown gets an account where the provider's row allows it and the token has the e-mail address.
    Nobody gets more than their role. Raises ``tokens.BadToken`` and ``providers.ProviderUnavailable``.
    """
    issuer = tokens.issuer_of(token)
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
    """Two rows may share an issuer with different clients; the first that takes the token counts."""
    for row in rows[:-1]:
        try:
            return row, check(row)
        except tokens.BadToken:
            continue
    return rows[-1], check(rows[-1])


def _is_signed_out(provider: IdentityProvider, claims: dict[str, Any]) -> bool:
    """Whether the provider's session of this token is one that ended here."""
    sid = claims.get("sid")
    if not sid:
        return False
    found = ProviderSession.objects.filter(
        sid=sid, identity__issuer=provider.issuer, identity__sub=claims["sub"]
    )
    return found.exclude(session__ended_at=None).exists()
