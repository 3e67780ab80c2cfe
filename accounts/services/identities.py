"""Services for identities, which connect a user to an account at an identity provider: sign in, link, unlink."""

from typing import Any

from django.db import IntegrityError, transaction

from accounts.models import (
    Identity,
    IdentityProvider,
    Membership,
    Organization,
    User,
    UserSession,
)
from accounts.oidc.claims import is_email_verified, read_email, read_text
from accounts.services import memberships, people, sessions
from accounts.services.audit import record
from accounts.services.claimed_roles import apply_claims
from lib.problems import Problem


class SignInRefused(Problem):
    """The person cannot sign in with an identity provider. ``detail`` is the reason, for the person."""

    status = 403
    code = "sign-in-refused"
    sentence = "You cannot sign in with this provider."


class AccountExists(SignInRefused):
    """Another account has the person's e-mail address.

    An e-mail address alone never links accounts: a provider could claim any address.
    """

    status = 409
    code = "account-exists"
    sentence = (
        "An account with your e-mail address already exists. Sign in to that account the usual way, "
        "then connect this provider under Settings, Sign-in."
    )


class IdentityTaken(Problem):
    """The account at the provider is linked to another user, or the user is linked to another account there."""

    status = 409
    code = "identity-taken"
    sentence = (
        "This account at the provider is already connected to another user of this server. "
        "Sign in as that user to disconnect it."
    )


class LastWayIn(Problem):
    """The identity is the user's only way to sign in."""

    status = 409
    code = "last-way-in"
    sentence = "This is your only way to sign in. Set a password first."


@transaction.atomic
def sign_in_identity(*, provider: IdentityProvider, claims: dict[str, Any]) -> Identity:
    """Return the identity for the verified claims of a person, and update the user's roles from the claims.

    Only the issuer and ``sub`` identify the person. For a new person, create a user and the identity if the provider
    creates users. Safe to repeat. Raise ``SignInRefused``, or its subclass ``AccountExists`` if another account has
    the e-mail address.
    """
    known = Identity.objects.select_related("user", "provider").filter(
        issuer=provider.issuer, sub=claims["sub"]
    )
    identity = known.first() or _create_user_and_identity(provider, claims)
    if not identity.user.is_active:
        raise SignInRefused("Your account is suspended. Ask an administrator of this server.")
    apply_claims(identity=identity, claims=claims)
    return identity


def _create_user_and_identity(provider: IdentityProvider, claims: dict[str, Any]) -> Identity:
    if not provider.creates_users:
        raise SignInRefused(
            "You have no account on this server, and signing in with this provider does not create "
            "one. Ask an administrator of this server for an account."
        )
    email = read_email(claims, trusts_email=provider.trusts_email)
    if not email or "\0" in email:
        raise SignInRefused(
            "An account needs an e-mail address, but the provider did not send yours. "
            "Add an address to your account at the provider, then sign in again."
        )
    # An unverified address could belong to another person.
    if provider.requires_verified_email and not is_email_verified(
        claims, trusts_email=provider.trusts_email
    ):
        raise SignInRefused(
            "The provider has not verified your e-mail address. Verify it there, then sign in again."
        )
    try:
        with transaction.atomic():
            user = people.create_user(email=email, name=_name(claims))
            return _create_identity(user, provider, claims)
    except people.EmailTaken as error:
        raise AccountExists from error
    except people.NotAnAddress as error:
        raise SignInRefused(
            "The provider sent an e-mail address that is not valid. "
            "Correct it in your account at the provider, then sign in again."
        ) from error
    except IntegrityError:
        # A concurrent first sign-in of this person has created the identity: return that identity.
        return Identity.objects.select_related("user", "provider").get(
            issuer=provider.issuer, sub=claims["sub"]
        )


def _create_identity(user: User, provider: IdentityProvider, claims: dict[str, Any]) -> Identity:
    identity = Identity.objects.create(
        user=user, provider=provider, issuer=provider.issuer, sub=claims["sub"]
    )
    record(action="identity.linked", subject=user, after={"provider": provider.slug})
    return identity


def _name(claims: dict[str, Any]) -> str:
    name = read_text(claims.get("name")) or read_text(claims.get("preferred_username"))
    # A provider may send control characters, which cannot be displayed.
    return "".join(letter for letter in name if letter.isprintable())[:120]


@transaction.atomic
def link_identity(*, user: User, provider: IdentityProvider, claims: dict[str, Any]) -> Identity:
    """Link a signed-in user to an account at the provider. ``claims`` describe this account.

    The caller has checked that the person just signed in at the provider. Safe to repeat. Raise ``IdentityTaken``.
    """
    identity = Identity.objects.filter(issuer=provider.issuer, sub=claims["sub"]).first()
    if identity and identity.user_id != user.pk:
        raise IdentityTaken
    if not identity:
        if user.identities.filter(provider=provider).exists():
            raise IdentityTaken(
                "You have already connected another account at this provider. Disconnect it first."
            )
        try:
            with transaction.atomic():
                identity = _create_identity(user, provider, claims)
        except IntegrityError as error:
            raise IdentityTaken from error
    apply_claims(identity=identity, claims=claims)
    return identity


@transaction.atomic
def unlink_identity(*, identity: Identity) -> list[Organization]:
    """Unlink an account at a provider from its user; return the organizations of which the user stays an owner.

    Also end the sessions that began at the provider, and remove the memberships and the staff status that the
    provider's claims gave; the user's API keys in these organizations are revoked. The last active owner of an
    organization stays its owner. Raise ``LastWayIn`` if the user has no password and no other identity.
    """
    # Lock this row before the audit chain, in the order of apply_claims, to prevent deadlocks.
    identity = Identity.objects.select_for_update().get(pk=identity.pk)
    user = User.objects.select_for_update().get(pk=identity.user_id)
    if not user.has_usable_password() and user.identities.count() == 1:
        raise LastWayIn
    for session in UserSession.objects.filter(provider_session__identity=identity):
        sessions.end_session(session=session, reason="provider disconnected")
    kept = []
    claimed = Membership.objects.filter(claimed_role__identity=identity)
    # A fixed order of the locks prevents deadlocks.
    for membership in claimed.select_related("organization").order_by("organization_id"):
        memberships.lock_organization(membership.organization_id)
        # As in apply_claims, the last owner of an organization stays an owner.
        if memberships.is_last_owner(membership):
            kept.append(membership.organization)
            continue
        memberships.end_membership(membership)
        record(
            action="member.removed",
            organization_id=membership.organization_id,
            subject=user,
            before={"role": membership.role},
            reason="provider disconnected",
        )
    if identity.is_staff_by_claims:
        User.objects.filter(pk=user.pk).update(is_staff=False)
    provider = identity.provider.slug
    identity.delete()
    sessions.announce_access_change(user_id=user.pk)
    record(action="identity.unlinked", subject=user, before={"provider": provider})
    return kept
