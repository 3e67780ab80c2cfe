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

from accounts.models import ApiKey, Invitation, Membership, Organization, User
from accounts.permissions import may_grant, permissions_in
from accounts.roles import RANKS, ROLE_PERMISSIONS
from accounts.services import memberships
from accounts.services.api_keys import child_keys
from accounts.services.audit import record
from accounts.services.sessions import announce_access_change
from lib import crypto
from lib.plain import one_line, without_links
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
    """The caller lacks permissions of a role that they try to give, or of the role of a member whom they change.

    The permissions of a caller are those of the user's role, limited to the scopes of the request's API key.
    """

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

    The link is unknown, expired, revoked or has no uses left; or its organization is suspended; or the inviting member
    may no longer invite users or give the role; or the API key that created the invitation was revoked.
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
    check_roles(organization, members, by=by, present=membership.role, given=role)
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
    check_roles(organization, members, by=by, present=membership.role)
    if membership.role == Membership.Role.OWNER:
        _refuse_last_owner(members, membership)
    left = _end_membership(membership)
    _record(
        "member.removed",
        organization,
        subject=membership.user,
        before={"role": membership.role},
        after=left,
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
    left = _end_membership(membership)
    _record("member.left", organization, subject=user, before={"role": membership.role}, after=left)


@transaction.atomic
def transfer_organization(*, organization: Organization, by: User, user_id: UUID) -> None:
    """Transfer the ownership: another member becomes an owner, and the user ``by`` becomes an admin.

    Raise ``UnknownMember``, ``PersonalOrganization`` or ``IsServiceAccount``. Raise ``RoleAboveYours`` if ``by`` is not
    an owner, or if the API key of the request lacks a permission of owners.
    """
    _refuse_personal(organization)
    members = _lock_members(organization)
    old_owner, new_owner = _member(members, by.pk), _member(members, user_id)
    if new_owner.user.is_service_account:
        raise IsServiceAccount
    if old_owner.role != Membership.Role.OWNER:
        raise RoleAboveYours
    check_roles(organization, members, by=by, given=Membership.Role.OWNER)
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

    With ``email``, only the user with this address can accept the invitation, and only once. If an API key sent the
    request, the invitation keeps the limits of this key: see ``accept_invitation``. This function sends no mail: call
    ``mail_invitation`` after the commit. Not safe to repeat: each call creates an invitation. Raise
    ``RoleAboveYours``, ``BadInvitation`` or ``PersonalOrganization``.
    """
    _refuse_personal(organization)
    check_roles(organization, _lock_members(organization), by=by, given=role)
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
    key = by.credential if isinstance(by.credential, ApiKey) else None
    expires_at = timezone.now() + timedelta(days=days)
    if key and key.expires_at:
        expires_at = min(expires_at, key.expires_at)
    invitation = Invitation.objects.create(
        id=invitation_id,
        organization=organization,
        role=role,
        email=email,
        digest=digest,
        pepper_id=pepper_id,
        max_uses=max_uses,
        created_by=by,
        scopes=None if by.key_scopes is None else sorted(by.key_scopes),
        made_with=key,
        expires_at=expires_at,
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
        inviter=one_line(str(invitation.created_by or "A member")),
        organization=without_links(invitation.organization.name),
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
    invitation = _read_invitation(token)
    if not invitation.is_open or not _is_backed(invitation):
        raise InvalidInvitation
    return invitation


def find_joined(*, token: str, user: User) -> Membership | None:
    """Return the user's membership in the organization that an invitation is for, or None.

    The invitation may be expired, be revoked or have no uses left: a user who opens the link again should find the
    organization.
    """
    try:
        organization = _read_invitation(token).organization
    except InvalidInvitation:
        return None
    return Membership.objects.filter(organization=organization, user=user).first()


def _read_invitation(token: str) -> Invitation:
    """Return the invitation whose link contains ``token``, open or not. Raise ``InvalidInvitation``."""
    try:
        invitation_id = UUID(token.partition(".")[0])
    except ValueError as error:
        raise InvalidInvitation from error
    rows = Invitation.objects.filter(pk=invitation_id, organization__suspended_at=None)
    row = rows.select_related("organization", "created_by", "made_with").first()
    invitation = crypto.verify_row(token, row, purpose=INVITATION_PURPOSE)
    if invitation is None:
        raise InvalidInvitation
    return invitation


def _is_backed(invitation: Invitation) -> bool:
    """Return whether the inviting member, with the API key of that time, could still create the invitation.

    A key that has expired meanwhile does not count: the invitation itself expires with the key at the latest. Rotation
    shortens the life of a key without revoking it, so invitations survive a rotation.
    """
    inviter, key = invitation.created_by, invitation.made_with
    if inviter is None or (key is not None and key.revoked_at is not None):
        return False
    inviter.key_scopes = None if invitation.scopes is None else frozenset(invitation.scopes)
    needed = ROLE_PERMISSIONS[invitation.role] | {"invitations.edit"}
    return needed <= permissions_in(inviter, invitation.organization_id)


@transaction.atomic
def accept_invitation(*, token: str, user: User) -> Membership:
    """Make the user a member of the organization that an invitation is for. ``token`` is the last part of the link.

    Safe to repeat: an existing member keeps the present role, and the call does not use up the invitation.
    The inviting member, limited to the scopes of the API key that created the invitation, must still have all
    permissions of the role and the permission to invite, and this key must not have been revoked. Raise
    ``InvalidInvitation`` if this is not so or the link is not valid, and ``OthersInvitation`` if the invitation was
    made for another person.
    """
    invitation = _read_invitation(token)
    if invitation.email and invitation.email.lower() != user.email.lower():
        raise OthersInvitation
    organization = invitation.organization
    members = _lock_members(organization)
    if existing := next((member for member in members if member.user_id == user.pk), None):
        return existing
    if not invitation.is_open or not _is_backed(invitation):
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


def check_roles(
    organization: Organization,
    members: Iterable[Membership],
    *,
    by: User | None,
    present: str | None = None,
    given: str | None = None,
) -> None:
    """Raise ``RoleAboveYours`` if ``by`` may not give the role ``given`` or change a member with the role ``present``.

    - ``given``: all its permissions must be permissions of ``by``, limited to the scopes of the request's API key.
    - ``present``: it must not rank above the role of ``by``. For an owner or admin, the rule of ``given`` applies too,
      so that a key with few scopes removes no administrator.

    ``by`` is None for an administrator on the admin site, which has already checked the permissions.
    """
    if by is None:
        return
    own_role = next((member.role for member in members if member.user_id == by.pk), None)
    if own_role is None or any(RANKS[role] > RANKS[own_role] for role in (present, given) if role):
        raise RoleAboveYours
    needed = [given] if given else []
    if present and RANKS[present] >= RANKS[Membership.Role.ADMIN]:
        needed.append(present)
    for role in needed:
        if not may_grant(by, organization.pk, role):
            missing = ROLE_PERMISSIONS[role] - permissions_in(by, organization.pk)
            raise RoleAboveYours(
                f"This needs all permissions of the role {role}, and the API key of the request lacks "
                f"{min(missing)}. Use a key with these scopes, or do it in the browser."
                if by.key_scopes is not None
                else RoleAboveYours.sentence
            )


def _lock_members(organization: Organization) -> list[Membership]:
    """Lock the organization's row and return all its members.

    Without the lock, two owners who leave concurrently could leave the organization without an owner.
    """
    memberships.lock_organization(organization.pk)
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


def _end_membership(membership: Membership) -> dict[str, Any]:
    """End a membership. Return the audit log's note about keys that the member's keys created and that still work.

    These are keys of service accounts, which stay members.
    """
    revoked = list(
        ApiKey.objects.filter(
            user_id=membership.user_id, organization_id=membership.organization_id
        )
    )
    memberships.end_membership(membership)
    announce_access_change(user_id=membership.user_id)
    left = child_keys(keys=revoked)
    return {"keys_left": [key.prefix for key in left]} if left else {}


def _announce_to_members(organization: Organization) -> None:
    for user_id in organization.memberships.values_list("user_id", flat=True):
        announce_access_change(user_id=user_id)


def _record(action: str, organization: Organization, *, subject: Any = None, **more: Any) -> None:
    record(action=action, organization_id=organization.pk, subject=subject or organization, **more)
