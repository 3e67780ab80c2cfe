"""Services for invitations to an organization: create, mail, accept and revoke."""

import secrets
from datetime import timedelta
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
from accounts.permissions import permissions_in
from accounts.roles import ROLE_PERMISSIONS
from accounts.services import organizations
from accounts.services.audit import record
from lib import crypto
from lib.plain import one_line, without_links
from lib.problems import Problem

INVITATION_PURPOSE = "invitation"
INVITATION_DAYS_MAX = 30
INVITATION_USES_MAX = 500
MAIL = """\
{inviter} invites you to the organization “{organization}” on {public_url}. Your role: {role}.

To join, open this link before {until:%d %B %Y %H:%M} UTC:

{link}

If you did not expect this invitation, ignore this mail.
"""


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
    organizations.refuse_personal(organization)
    organizations.check_roles(
        organization, organizations.lock_members(organization), by=by, given=role
    )
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
    record(
        action="invitation.created",
        organization_id=organization.pk,
        subject=invitation,
        after=after,
    )
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
    members = organizations.lock_members(organization)
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
    record(action="member.joined", organization_id=organization.pk, subject=user, after=after)
    return membership


@transaction.atomic
def revoke_invitation(*, invitation: Invitation) -> None:
    """Revoke an invitation. Safe to repeat: ``revoked_at`` keeps the time of the first call."""
    rows = Invitation.objects.filter(pk=invitation.pk, revoked_at=None)
    if rows.update(revoked_at=timezone.now()):
        record(
            action="invitation.revoked",
            organization_id=invitation.organization_id,
            subject=invitation,
        )
