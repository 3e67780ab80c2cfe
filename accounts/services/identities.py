"""Identities, which connect a user to an account at a provider: sign in, link, unlink."""

from typing import Any

from django.db import IntegrityError, transaction

from accounts.models import Identity, IdentityProvider, Membership, User, UserSession
from accounts.services import people, sessions
from accounts.services.audit import record
from accounts.services.claimed_roles import apply_claims
from lib.problems import Problem


class SignInRefused(Problem):
    """The provider's claims do not let this person in; ``detail`` is a sentence for them."""

    status = 403
    code = "sign-in-refused"
    sentence = "You cannot sign in this way."


class AccountExists(SignInRefused):
    """A local account has this e-mail address, and an e-mail address alone never links."""

    status = 409
    code = "account-exists"
    sentence = (
        "An account with your e-mail address exists here already. Sign in to it as you always do, then "
        "connect this provider under Settings, Sign-in."
    )


class IdentityTaken(Problem):
    """The provider's account is linked to another user, or the user has linked another account of it."""

    status = 409
    code = "identity-taken"
    sentence = "That account is connected to another user here."


class LastWayIn(Problem):
    """Without this identity, its user would have no way to sign in."""

    status = 409
    code = "last-way-in"
    sentence = "This is your only way to sign in. Set a password first."


@transaction.atomic
def sign_in_identity(*, provider: IdentityProvider, claims: dict[str, Any]) -> Identity:
    """Return the identity that checked claims name, with its user; create an account if the provider may.

    Match by (issuer, sub) alone, and apply the claims to roles. Safe to repeat. Raises ``SignInRefused`` and
    its subclass ``AccountExists``.
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
    """Link a provider's account to a signed-in user who has just agreed to it there.

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
    """Unlink a provider's account from its user; end the sessions and take back the roles that it gave.

    Raises ``LastWayIn``.
    """
    # Lock this row before the audit chain, as apply_claims does.
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
