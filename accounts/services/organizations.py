"""The verbs of organizations: make and rename teams, invite, give roles, remove, leave, hand over, suspend."""

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
from accounts.roles import RANKS
from accounts.services.audit import record
from accounts.services.sessions import announce_access_change
from lib import crypto
from lib.problems import Problem

INVITATION_PURPOSE = "invitation"
INVITATION_DAYS_MAX = 30
INVITATION_USES_MAX = 500
NAME_MAX = 120
MAIL = """\
{inviter} invites you to the organization “{organization}” on {public_url}, as {role}.

Open this link until {until:%d %B %Y} to join:

{link}

If you expected no invitation, ignore this mail.
"""


class BadName(Problem):
    """No name, or one that cannot be shown."""

    code = "bad-name"
    sentence = f"A name has 1 to {NAME_MAX} characters that can be printed."


class TooManyOrganizations(Problem):
    """The user owns as many organizations as one may own."""

    status = 409
    code = "too-many-organizations"
    sentence = "You own as many organizations as one may own here."


class PersonalOrganization(Problem):
    """A personal organization has one member for ever."""

    status = 409
    code = "personal-organization"
    sentence = "This is somebody's personal organization: make a team to work with others."


class RoleAboveYours(Problem):
    """Nobody gives a role above their own, nor touches somebody who holds one."""

    status = 403
    code = "role-above-yours"
    sentence = "You cannot give or change a role above your own."


class LastOwner(Problem):
    """What would leave an organization without an owner."""

    status = 409
    code = "last-owner"
    sentence = "This is the last owner. Make somebody else an owner first, or transfer ownership."


class UnknownMember(Problem):
    """The user is not a member of the organization."""

    status = 404
    code = "unknown-member"
    sentence = "There is no such member here."


class IsServiceAccount(Problem):
    """Service accounts are changed and revoked as such."""

    status = 409
    code = "is-service-account"
    sentence = "This is a service account: change or revoke it under service accounts."


class BadInvitation(Problem):
    """An invitation that cannot be made; ``detail`` says why."""

    code = "bad-invitation"


class InvalidInvitation(Problem):
    """A link that was used up, has expired, was revoked, or never was."""

    status = 404
    code = "invalid-invitation"
    sentence = "This invitation was used, has expired or was taken back. Ask for another."


class OthersInvitation(Problem):
    """The invitation is for another e-mail address."""

    status = 403
    code = "others-invitation"
    sentence = "This invitation is for another e-mail address. Sign in as the one it was sent to."


# --- The organization itself --------------------------------------------------------


@transaction.atomic
def create_organization(*, user: User, name: str) -> Organization:
    """Make a team that the user owns. Each call makes another. Raises ``TooManyOrganizations``."""
    name = checked_name(name)
    User.objects.select_for_update().get(pk=user.pk)  # or two requests both find room for the last
    owned = user.memberships.filter(role=Membership.Role.OWNER, organization__personal_of=None)
    if owned.count() >= settings.ORGANIZATIONS_PER_USER:
        raise TooManyOrganizations
    organization = Organization.objects.create(name=name)
    Membership.objects.create(organization=organization, user=user, role=Membership.Role.OWNER)
    _note("organization.created", organization, after={"name": name})
    return organization


@transaction.atomic
def rename_organization(*, organization: Organization, name: str) -> Organization:
    """Give an organization another name. Safe to repeat. Raises ``BadName``."""
    name = checked_name(name)
    organization = Organization.objects.select_for_update().get(pk=organization.pk)
    before, organization.name = organization.name, name
    if before != name:
        organization.save(update_fields=["name"])
        _note("organization.renamed", organization, before={"name": before}, after={"name": name})
    return organization


@transaction.atomic
def suspend_organization(*, organization: Organization, reason: str = "") -> None:
    """Close an organization: its keys and tokens stop, its members can do nothing, sockets end.

    Safe to repeat: the first time stays.
    """
    found = Organization.objects.filter(pk=organization.pk, suspended_at=None)
    if found.update(suspended_at=timezone.now()):
        _announce(organization)
        _note("organization.suspended", organization, reason=reason)


@transaction.atomic
def activate_organization(*, organization: Organization, reason: str = "") -> None:
    """Open a suspended organization again. Safe to repeat."""
    found = Organization.objects.filter(pk=organization.pk).exclude(suspended_at=None)
    if found.update(suspended_at=None):
        _note("organization.activated", organization, reason=reason)


# --- Members ------------------------------------------------------------------------


@transaction.atomic
def add_member(*, organization: Organization, user: User, role: str) -> Membership:
    """Make somebody a member without an invitation: for whoever runs the server.

    Who is a member already stays what they are. Raises ``PersonalOrganization``, ``IsServiceAccount``.
    """
    _refuse_personal(organization)
    if user.is_service_account:
        raise IsServiceAccount
    members = _locked_members(organization)
    if mine := next((member for member in members if member.user_id == user.pk), None):
        return mine
    membership = Membership.objects.create(organization=organization, user=user, role=role)
    _note("member.added", organization, subject=user, after={"role": role})
    return membership


@transaction.atomic
def change_role(
    *, organization: Organization, by: User | None, user_id: UUID, role: str
) -> Membership:
    """Give a member another role. Safe to repeat. ``by`` is None for whoever runs the server.

    Raises ``UnknownMember``, ``RoleAboveYours``, ``LastOwner``, ``PersonalOrganization``.
    """
    _refuse_personal(organization)
    members = _locked_members(organization)
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
    _note(
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
    """Take a member out, and revoke the keys the member had here. ``by`` as in ``change_role``.

    Raises ``UnknownMember`` (also on a repeat), ``RoleAboveYours``, ``LastOwner``, ``PersonalOrganization``.
    """
    _refuse_personal(organization)
    members = _locked_members(organization)
    membership = _member(members, user_id)
    if membership.user.is_service_account:
        raise IsServiceAccount
    check_rank(members, by=by, roles=(membership.role,))
    if membership.role == Membership.Role.OWNER:
        _refuse_last_owner(members, membership)
    _end_membership(membership)
    _note(
        "member.removed",
        organization,
        subject=membership.user,
        before={"role": membership.role},
        reason=reason,
    )


@transaction.atomic
def leave_organization(*, organization: Organization, user: User) -> None:
    """Give up one's own membership. Raises ``LastOwner``, ``UnknownMember``, ``PersonalOrganization``."""
    _refuse_personal(organization)
    members = _locked_members(organization)
    membership = _member(members, user.pk)
    if membership.user.is_service_account:
        raise IsServiceAccount
    if membership.role == Membership.Role.OWNER:
        _refuse_last_owner(members, membership)
    _end_membership(membership)
    _note("member.left", organization, subject=user, before={"role": membership.role})


@transaction.atomic
def transfer_organization(*, organization: Organization, by: User, user_id: UUID) -> None:
    """Make another member the owner and the giver an admin, in one step.

    Raises ``UnknownMember``, ``RoleAboveYours`` when the giver is no owner, ``PersonalOrganization``.
    """
    _refuse_personal(organization)
    members = _locked_members(organization)
    giver, taker = _member(members, by.pk), _member(members, user_id)
    if taker.user.is_service_account:
        raise IsServiceAccount
    if giver.role != Membership.Role.OWNER:
        raise RoleAboveYours
    if giver.pk == taker.pk:
        return
    taker.role, giver.role = Membership.Role.OWNER, Membership.Role.ADMIN
    Membership.objects.bulk_update([taker, giver], ["role"])
    for user in (taker.user_id, giver.user_id):
        announce_access_change(user_id=user)
    _note(
        "organization.transferred",
        organization,
        subject=taker.user,
        before={"owner": str(by)},
        after={"owner": str(taker.user)},
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
    """Make an invitation and the address of its link, which nobody can see again.

    With ``email`` the link is for that address only, once, and is mailed to it after the commit; a mail that
    cannot be sent is no error, for whoever invites has the link. Raises ``RoleAboveYours``, ``BadInvitation``,
    ``PersonalOrganization``.
    """
    _refuse_personal(organization)
    check_rank(_locked_members(organization), by=by, roles=(role,))
    email = email.strip()
    if email:
        max_uses = 1
        try:
            validate_email(email)
        except ValidationError as error:
            raise BadInvitation("This is not an e-mail address.") from error
    if not 1 <= days <= INVITATION_DAYS_MAX or not 1 <= max_uses <= INVITATION_USES_MAX:
        raise BadInvitation(
            f"An invitation lives 1 to {INVITATION_DAYS_MAX} days "
            f"and lets in 1 to {INVITATION_USES_MAX} people."
        )
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
    _note("invitation.created", organization, subject=invitation, after=after)
    return invitation, link


def mail_invitation(*, invitation: Invitation, link: str) -> bool:
    """Send the link of an invitation to its address; whether the mail server took it.

    Call it after the commit: a mail server may take its time. Each call sends another mail.
    """
    if not invitation.email or not settings.EMAIL_HOST:
        return False
    text = MAIL.format(
        inviter=invitation.created_by or "Somebody",
        organization=invitation.organization.name,
        public_url=settings.PUBLIC_URL,
        role=invitation.get_role_display().lower(),
        until=invitation.expires_at,
        link=link,
    )
    try:
        sent = send_mail("An invitation", text, None, [invitation.email])
    except OSError:  # refused, unreachable, timed out: smtplib's errors are OSErrors
        return False
    return bool(sent)


def find_invitation(token: str) -> Invitation:
    """The open invitation of a token. Raises ``InvalidInvitation``."""
    try:
        invitation_id = UUID(token.partition(".")[0])
    except ValueError as error:
        raise InvalidInvitation from error
    found = Invitation.objects.open().filter(pk=invitation_id, organization__suspended_at=None)
    invitation = found.select_related("organization", "created_by").first()
    invitation = crypto.verify_row(token, invitation, purpose=INVITATION_PURPOSE)
    if invitation is None:
        raise InvalidInvitation
    return invitation


@transaction.atomic
def accept_invitation(*, token: str, user: User) -> Membership:
    """Join an organization by its link. Who is a member already stays what they are and uses nothing up.

    The role that the inviter may no longer give is not given. Raises ``InvalidInvitation``,
    ``OthersInvitation``.
    """
    invitation = find_invitation(token)
    if invitation.email and invitation.email.lower() != user.email.lower():
        raise OthersInvitation
    organization = invitation.organization
    members = _locked_members(organization)
    if mine := next((member for member in members if member.user_id == user.pk), None):
        return mine
    giver = next((m for m in members if m.user_id == invitation.created_by_id), None)
    if giver is None or RANKS[invitation.role] > RANKS[giver.role]:
        raise InvalidInvitation
    used = Invitation.objects.open().filter(pk=invitation.pk).update(uses=F("uses") + 1)
    if not used:  # another request took the last place since it was found
        raise InvalidInvitation
    membership = Membership.objects.create(
        organization=organization, user=user, role=invitation.role
    )
    after = {"role": invitation.role, "invitation": str(invitation.pk)}
    _note("member.joined", organization, subject=user, after=after)
    return membership


@transaction.atomic
def revoke_invitation(*, invitation: Invitation) -> None:
    """Take an invitation back. Safe to repeat: the first time stays."""
    found = Invitation.objects.filter(pk=invitation.pk, revoked_at=None)
    if found.update(revoked_at=timezone.now()):
        _note("invitation.revoked", invitation.organization, subject=invitation)


# --- What the verbs share -----------------------------------------------------------


def checked_name(name: str) -> str:
    """A name without space around it. Raises ``BadName``."""
    name = name.strip()
    if not name or len(name) > NAME_MAX or not name.isprintable():
        raise BadName
    return name


def check_rank(members: Iterable[Membership], *, by: User | None, roles: Iterable[str]) -> None:
    """Raise ``RoleAboveYours`` unless ``by`` is a member whose rank reaches all of the roles.

    None is whoever runs the server, in the admin desk, whose own permissions were asked there.
    """
    if by is None:
        return
    mine = next((member.role for member in members if member.user_id == by.pk), None)
    if mine is None or any(RANKS[role] > RANKS[mine] for role in roles):
        raise RoleAboveYours


def _locked_members(organization: Organization) -> list[Membership]:
    """All members, under the organization's row lock: two owners who leave at once leave one behind."""
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
    """Somebody who can act must stay an owner: suspended people and programs do not count."""
    for other in members:
        is_person = other.user.is_active and not other.user.is_service_account
        if other.role == Membership.Role.OWNER and is_person and other.pk != leaving.pk:
            return
    raise LastOwner


def _end_membership(membership: Membership) -> None:
    keys = ApiKey.objects.filter(
        user_id=membership.user_id, organization_id=membership.organization_id, revoked_at=None
    )
    keys.update(revoked_at=timezone.now())
    Membership.objects.filter(pk=membership.pk).delete()
    announce_access_change(user_id=membership.user_id)


def _announce(organization: Organization) -> None:
    for user_id in organization.memberships.values_list("user_id", flat=True):
        announce_access_change(user_id=user_id)


def _note(action: str, organization: Organization, *, subject: Any = None, **more: Any) -> None:
    record(action=action, organization_id=organization.pk, subject=subject or organization, **more)
