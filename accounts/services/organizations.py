"""Services for organizations and their members, roles, ownership and invitations."""

import secrets
from collections.abc import Iterable
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.mail import send_mail
from django.core.validators import validate_email
from django.db import transaction
from django.db.models import F
from django.utils import timezone
from uuid_utils.compat import uuid7

from accounts.models import Invitation, Membership, Organization, User
from accounts.roles import RANKS
from accounts.services import memberships
from accounts.services.audit import record
from accounts.services.sessions import announce_access_change
from lib import crypto
from lib.problems import Problem

INVITATION_PURPOSE = "invitation"
INVITATION_DAYS_MAX = 30
INVITATION_USES_MAX = 500
NAME_MAX = 120
MAIL = """\
{inviter} invites you to the organization “{organization}” on {public_url}. Your role: {role}.

To join, open this link before {until:%d %B %Y %H:%M} UTC:

{link}

If you did not expect this invitation, ignore this mail.
"""


class BadName(Problem):
    """The name is empty, too long, or has characters that cannot be printed."""

    code = "bad-name"
    sentence = f"Enter a name of 1 to {NAME_MAX} printable characters."


class TooManyOrganizations(Problem):
    """The user owns the maximum number of organizations (``ORGANIZATIONS_PER_USER``)."""

    status = 409
    code = "too-many-organizations"
    sentence = (
        "You own the maximum number of organizations. Transfer an organization to another member, "
        "or ask an administrator of this server to raise the limit."
    )


class PersonalOrganization(Problem):
    """The action is not possible in a personal organization, which always has exactly one member."""

    status = 409
    code = "personal-organization"
    sentence = (
        "This is a personal organization, which has only one member. "
        "Create an organization to work with others."
    )


class RoleAboveYours(Problem):
    """The user tries to give a role above their own, or to change or remove a member whose role is above it."""

    status = 403
    code = "role-above-yours"
    sentence = (
        "You cannot give, change or remove a role above your own. "
        "Ask a member with a higher role to do it."
    )


class LastOwner(Problem):
    """The action would leave the organization without an owner."""

    status = 409
    code = "last-owner"
    sentence = (
        "An organization needs an owner, and this is the last owner. "
        "Make another member an owner first, or transfer the ownership."
    )


class UnknownMember(Problem):
    """The user is not a member of the organization."""

    status = 404
    code = "unknown-member"
    sentence = "This user is not a member of the organization."


class IsServiceAccount(Problem):
    """The member is a service account, which only the functions of ``service_accounts`` may change."""

    status = 409
    code = "is-service-account"
    sentence = "This member is a service account. Manage it under Service accounts."


class BadInvitation(Problem):
    """The invitation cannot be created. ``detail`` is the reason."""

    code = "bad-invitation"


class InvalidInvitation(Problem):
    """The link of the invitation is not valid.

    The link is unknown, used up, expired or revoked; or its organization is suspended; or the inviting member has left
    the organization or may no longer give the role.
    """

    status = 404
    code = "invalid-invitation"
    sentence = "This invitation was already used, has expired or was revoked. Ask for a new one."


class OthersInvitation(Problem):
    """The invitation was made for another person: its e-mail address is not the address of the user."""

    status = 403
    code = "others-invitation"
    sentence = (
        "This invitation is for another e-mail address. "
        "Sign in with the account that has this address, or ask for a new invitation."
    )


# --- Organizations ------------------------------------------------------------------


@transaction.atomic
def create_organization(*, user: User, name: str) -> Organization:
    """Create an organization with the user as its owner. Not safe to repeat: each call creates another.

    Raise ``BadName`` or ``TooManyOrganizations``.
    """
    name = clean_name(name)
    # Without the lock, concurrent requests could exceed the limit.
    User.objects.select_for_update().get(pk=user.pk)
    # Personal organizations do not count towards the limit.
    owned = user.memberships.filter(role=Membership.Role.OWNER, organization__personal_of=None)
    if owned.count() >= settings.ORGANIZATIONS_PER_USER:
        raise TooManyOrganizations
    organization = Organization.objects.create(name=name)
    Membership.objects.create(organization=organization, user=user, role=Membership.Role.OWNER)
    _record("organization.created", organization, after={"name": name})
    return organization


@transaction.atomic
def create_empty_organization(*, name: str) -> Organization:
    """Create an organization without members, on behalf of a server administrator who then adds its owner.

    Not safe to repeat: each call creates another. Raise ``BadName``.
    """
    organization = Organization.objects.create(name=clean_name(name))
    _record("organization.created", organization, after={"name": organization.name})
    return organization


@transaction.atomic
def rename_organization(*, organization: Organization, name: str) -> Organization:
    """Change the name of an organization. Safe to repeat. Raise ``BadName``."""
    name = clean_name(name)
    organization = Organization.objects.select_for_update().get(pk=organization.pk)
    before, organization.name = organization.name, name
    if before != name:
        organization.save(update_fields=["name"])
        _record("organization.renamed", organization, before={"name": before}, after={"name": name})
    return organization


@transaction.atomic
def suspend_organization(*, organization: Organization, reason: str = "") -> None:
    """Suspend an organization: its API keys stop working, its members lose all permissions, open sockets close.

    Safe to repeat: ``suspended_at`` keeps the time of the first call.
    """
    rows = Organization.objects.filter(pk=organization.pk, suspended_at=None)
    if rows.update(suspended_at=timezone.now()):
        _announce_to_members(organization)
        _record("organization.suspended", organization, reason=reason)


@transaction.atomic
def activate_organization(*, organization: Organization, reason: str = "") -> None:
    """Activate a suspended organization again. Safe to repeat."""
    rows = Organization.objects.filter(pk=organization.pk).exclude(suspended_at=None)
    if rows.update(suspended_at=None):
        _record("organization.activated", organization, reason=reason)


# --- Members ------------------------------------------------------------------------


@transaction.atomic
def add_member(*, organization: Organization, user: User, role: str) -> Membership:
    """Add a user to an organization without an invitation, on behalf of a server administrator.

    Safe to repeat: the role of an existing member does not change. Raise ``PersonalOrganization`` or
    ``IsServiceAccount``.
    """
    _refuse_personal(organization)
    if user.is_service_account:
        raise IsServiceAccount
    members = _lock_members(organization)
    if existing := next((member for member in members if member.user_id == user.pk), None):
        return existing
    membership = Membership.objects.create(organization=organization, user=user, role=role)
    _record("member.added", organization, subject=user, after={"role": role})
    return membership


@transaction.atomic
def change_role(
    *, organization: Organization, by: User | None, user_id: UUID, role: str
) -> Membership:
    """Change the role of a member. Safe to repeat. ``by`` is None for an administrator on the admin site.

    Raise ``UnknownMember``, ``RoleAboveYours``, ``LastOwner``, ``PersonalOrganization`` or
    ``IsServiceAccount``.
    """
    _refuse_personal(organization)
    members = _lock_members(organization)
    membership = _member(members, user_id)
    if membership.user.is_service_account:
        raise IsServiceAccount
    check_rank(members, by=by, roles=(membership.role, role))
    before = membership.role
    if before == role:
        return membership
    if before == Membership.Role.OWNER:
        _refuse_last_owner(members, membership)
    membership.role = role
    membership.save(update_fields=["role"])
    announce_access_change(user_id=user_id)
    _record(
        "member.role_changed",
        organization,
        subject=membership.user,
        before={"role": before},
        after={"role": role},
    )
    return membership


@transaction.atomic
def remove_member(
    *, organization: Organization, by: User | None, user_id: UUID, reason: str = ""
) -> None:
    """Remove a member and revoke the member's API keys in the organization.

    ``by`` is None for an administrator on the admin site. Raise ``UnknownMember`` (also on a second call),
    ``RoleAboveYours``, ``LastOwner``, ``PersonalOrganization`` or ``IsServiceAccount``.
    """
    _refuse_personal(organization)
    members = _lock_members(organization)
    membership = _member(members, user_id)
    if membership.user.is_service_account:
        raise IsServiceAccount
    check_rank(members, by=by, roles=(membership.role,))
    if membership.role == Membership.Role.OWNER:
        _refuse_last_owner(members, membership)
    _end_membership(membership)
    _record(
        "member.removed",
        organization,
        subject=membership.user,
        before={"role": membership.role},
        reason=reason,
    )


@transaction.atomic
def leave_organization(*, organization: Organization, user: User) -> None:
    """End the user's own membership and revoke the user's API keys in the organization.

    Raise ``LastOwner``, ``UnknownMember`` (also on a second call), ``PersonalOrganization`` or
    ``IsServiceAccount``.
    """
    _refuse_personal(organization)
    members = _lock_members(organization)
    membership = _member(members, user.pk)
    if membership.user.is_service_account:
        raise IsServiceAccount
    if membership.role == Membership.Role.OWNER:
        _refuse_last_owner(members, membership)
    _end_membership(membership)
    _record("member.left", organization, subject=user, before={"role": membership.role})


@transaction.atomic
def transfer_organization(*, organization: Organization, by: User, user_id: UUID) -> None:
    """Transfer the ownership: another member becomes an owner, and the user ``by`` becomes an admin.

    Raise ``UnknownMember``, ``PersonalOrganization`` or ``IsServiceAccount``. Raise ``RoleAboveYours`` if ``by`` is not
    an owner.
    """
    _refuse_personal(organization)
    members = _lock_members(organization)
    old_owner, new_owner = _member(members, by.pk), _member(members, user_id)
    if new_owner.user.is_service_account:
        raise IsServiceAccount
    if old_owner.role != Membership.Role.OWNER:
        raise RoleAboveYours
    if old_owner.pk == new_owner.pk:
        return
    new_owner.role, old_owner.role = Membership.Role.OWNER, Membership.Role.ADMIN
    Membership.objects.bulk_update([new_owner, old_owner], ["role"])
    for changed_id in (new_owner.user_id, old_owner.user_id):
        announce_access_change(user_id=changed_id)
    _record(
        "organization.transferred",
        organization,
        subject=new_owner.user,
        before={"owner": str(by)},
        after={"owner": str(new_owner.user)},
    )


# --- Invitations --------------------------------------------------------------------


@transaction.atomic
def invite(
    *,
    organization: Organization,
    by: User,
    role: str,
    email: str = "",
    days: int = 7,
    max_uses: int = 1,
) -> tuple[Invitation, str]:
    """Create an invitation; return it with the URL of its link, which cannot be read again.

    With ``email``, only the user with this address can accept the invitation, and only once. This function sends no
    mail: call ``mail_invitation`` after the commit. Not safe to repeat: each call creates an invitation. Raise
    ``RoleAboveYours``, ``BadInvitation`` or ``PersonalOrganization``.
    """
    _refuse_personal(organization)
    check_rank(_lock_members(organization), by=by, roles=(role,))
    email = email.strip()
    if email:
        # A mailed invitation is for one person.
        max_uses = 1
        try:
            validate_email(email)
        except ValidationError as error:
            raise BadInvitation(
                "This is not an e-mail address. Check it for typing errors."
            ) from error
    if not 1 <= days <= INVITATION_DAYS_MAX or not 1 <= max_uses <= INVITATION_USES_MAX:
        raise BadInvitation(
            f"An invitation must be valid for 1 to {INVITATION_DAYS_MAX} days "
            f"and for 1 to {INVITATION_USES_MAX} people."
        )
    # The token contains the id: ``find_invitation`` looks the row up by the id, then checks the digest with the
    # pepper that the row names.
    invitation_id, secret = uuid7(), secrets.token_urlsafe(24)
    token = f"{invitation_id.hex}.{secret}"
    pepper_id, digest = crypto.digest(token, purpose=INVITATION_PURPOSE)
    invitation = Invitation.objects.create(
        id=invitation_id,
        organization=organization,
        role=role,
        email=email,
        digest=digest,
        pepper_id=pepper_id,
        max_uses=max_uses,
        created_by=by,
        expires_at=timezone.now() + timedelta(days=days),
    )
    link = f"{settings.PUBLIC_URL}/invitations/{token}"
    after = {
        "role": role,
        "email": email,
        "max_uses": max_uses,
        "expires_at": invitation.expires_at,
    }
    _record("invitation.created", organization, subject=invitation, after=after)
    return invitation, link


def mail_invitation(*, invitation: Invitation, link: str) -> bool:
    """Mail an invitation's link to the invited person; return whether the mail server accepted the mail.

    Return False if the invitation has no e-mail address, or if no mail server is configured. Call this function after
    the commit: before it, a slow mail server would keep the transaction's rows locked. Each call sends another mail.
    """
    if not invitation.email or not settings.EMAIL_HOST:
        return False
    text = MAIL.format(
        inviter=invitation.created_by or "A member",
        organization=invitation.organization.name,
        public_url=settings.PUBLIC_URL,
        role=invitation.get_role_display().lower(),
        until=invitation.expires_at,
        link=link,
    )
    try:
        sent = send_mail("Invitation to an organization", text, None, [invitation.email])
    except OSError:  # refused, unreachable, timed out: smtplib's errors are OSErrors
        return False
    return bool(sent)


def find_invitation(token: str) -> Invitation:
    """Return the open invitation whose link contains ``token``. Raise ``InvalidInvitation``."""
    try:
        invitation_id = UUID(token.partition(".")[0])
    except ValueError as error:
        raise InvalidInvitation from error
    rows = Invitation.objects.open().filter(pk=invitation_id, organization__suspended_at=None)
    invitation = rows.select_related("organization", "created_by").first()
    invitation = crypto.verify_row(token, invitation, purpose=INVITATION_PURPOSE)
    if invitation is None:
        raise InvalidInvitation
    return invitation


@transaction.atomic
def accept_invitation(*, token: str, user: User) -> Membership:
    """Make the user a member of the organization that an invitation is for. ``token`` is the last part of the link.

    Safe to repeat: an existing member keeps the present role, and the call does not use up the invitation.
    Raise ``InvalidInvitation`` if the link is not valid or the inviting member may no longer give the role, and
    ``OthersInvitation`` if the invitation was made for another person.
    """
    invitation = find_invitation(token)
    if invitation.email and invitation.email.lower() != user.email.lower():
        raise OthersInvitation
    organization = invitation.organization
    members = _lock_members(organization)
    if existing := next((member for member in members if member.user_id == user.pk), None):
        return existing
    inviter = next((m for m in members if m.user_id == invitation.created_by_id), None)
    if inviter is None or RANKS[invitation.role] > RANKS[inviter.role]:
        raise InvalidInvitation
    # A concurrent request may have taken the last use: the conditional update decides.
    is_counted = Invitation.objects.open().filter(pk=invitation.pk).update(uses=F("uses") + 1)
    if not is_counted:
        raise InvalidInvitation
    membership = Membership.objects.create(
        organization=organization, user=user, role=invitation.role
    )
    after = {"role": invitation.role, "invitation": str(invitation.pk)}
    _record("member.joined", organization, subject=user, after=after)
    return membership


@transaction.atomic
def revoke_invitation(*, invitation: Invitation) -> None:
    """Revoke an invitation. Safe to repeat: ``revoked_at`` keeps the time of the first call."""
    rows = Invitation.objects.filter(pk=invitation.pk, revoked_at=None)
    if rows.update(revoked_at=timezone.now()):
        _record("invitation.revoked", invitation.organization, subject=invitation)


# --- Shared checks ------------------------------------------------------------------


def clean_name(name: str) -> str:
    """Return a name without surrounding white space. Raise ``BadName`` if the name is not valid."""
    name = name.strip()
    if not name or len(name) > NAME_MAX or not name.isprintable():
        raise BadName
    return name


def check_rank(members: Iterable[Membership], *, by: User | None, roles: Iterable[str]) -> None:
    """Raise ``RoleAboveYours`` if ``by`` is not a member, or if a role in ``roles`` ranks above the role of ``by``.

    ``by`` is None for an administrator on the admin site, which has already checked the permissions.
    """
    if by is None:
        return
    own_role = next((member.role for member in members if member.user_id == by.pk), None)
    if own_role is None or any(RANKS[role] > RANKS[own_role] for role in roles):
        raise RoleAboveYours


def _lock_members(organization: Organization) -> list[Membership]:
    """Lock the organization's row and return all its members.

    Without the lock, two owners who leave concurrently could leave the organization without an owner.
    """
    # no_key: other transactions may still insert rows that reference the organization.
    Organization.objects.select_for_update(no_key=True).get(pk=organization.pk)
    return list(organization.memberships.select_related("user").order_by("pk"))


def _member(members: Iterable[Membership], user_id: UUID) -> Membership:
    for member in members:
        if member.user_id == user_id:
            return member
    raise UnknownMember


def _refuse_personal(organization: Organization) -> None:
    if organization.personal_of_id is not None:
        raise PersonalOrganization


def _refuse_last_owner(members: Iterable[Membership], leaving: Membership) -> None:
    """Raise ``LastOwner`` unless another active person is an owner; suspended users do not count."""
    for other in members:
        is_person = other.user.is_active and not other.user.is_service_account
        if other.role == Membership.Role.OWNER and is_person and other.pk != leaving.pk:
            return
    raise LastOwner


def _end_membership(membership: Membership) -> None:
    memberships.end_membership(membership)
    announce_access_change(user_id=membership.user_id)


def _announce_to_members(organization: Organization) -> None:
    for user_id in organization.memberships.values_list("user_id", flat=True):
        announce_access_change(user_id=user_id)


def _record(action: str, organization: Organization, *, subject: Any = None, **more: Any) -> None:
    record(action=action, organization_id=organization.pk, subject=subject or organization, **more)
