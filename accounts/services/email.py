"""Services for changing a user's e-mail address. A mailed link verifies the new address."""

import secrets
from datetime import timedelta

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.mail import send_mail
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from django.utils import timezone

from accounts.models import EmailChange, User
from accounts.services.audit import record
from accounts.services.people import EmailTaken, NotAnAddress
from lib import crypto
from lib.problems import Problem

PURPOSE = "email-change"
LINK_HOURS = 24
MAIL = """\
You or another person entered this e-mail address for an account on {public_url}.

To confirm the address, sign in and open this link within {hours} hours:

{public_url}/settings/email/{token}

If you did not request this change, ignore this mail. Nothing will change.
"""


class NothingToVerify(Problem):
    """The user has no unverified e-mail address."""

    status = 409
    code = "nothing-to-verify"
    sentence = "You have no new e-mail address to verify. Enter a new address first."


class InvalidEmailLink(Problem):
    """The link does not exist, was already used, has expired, or belongs to another user."""

    status = 404
    code = "invalid-email-link"
    sentence = (
        "This link was already used, has expired, or belongs to another account. "
        "Request a new link in your settings."
    )


class MailNotSent(Problem):
    """The mail server did not accept the mail. The new address stays stored, so the mail can be sent again."""

    status = 503
    code = "mail-not-sent"
    sentence = "The mail could not be sent. Try again in a few minutes."


def change_email(*, user: User, email: str) -> None:
    """Store a new e-mail address as unverified, and mail a link to the new address.

    The user keeps the old address until the link is opened. A second call replaces the address and the link of the
    first call. This function does not check whether another account has the new address: only the owner of the address
    may learn that, by opening the link. Raise ``NotAnAddress`` or ``MailNotSent``.
    """
    email = email.strip()
    try:
        validate_email(email)
    except ValidationError as error:
        raise NotAnAddress from error
    _send(user, email)


def unverified_address(*, user: User) -> str:
    """Return the user's unverified e-mail address, or an empty string."""
    change = EmailChange.objects.filter(user=user).first()
    return change.email if change else ""


def resend_verification(*, user: User) -> None:
    """Mail a new link to the user's unverified address; the previous link stops working.

    Raise ``NothingToVerify`` or ``MailNotSent``.
    """
    change = EmailChange.objects.filter(user=user).first()
    if change is None:
        raise NothingToVerify
    _send(user, change.email)


def _send(user: User, email: str) -> None:
    token = secrets.token_urlsafe(32)
    pepper_id, digest = crypto.digest(token, purpose=PURPOSE)
    # A user has at most one unverified address, so a new link replaces the previous link.
    EmailChange.objects.update_or_create(
        user=user,
        defaults={
            "email": email,
            "digest": digest,
            "pepper_id": pepper_id,
            "created_at": timezone.now(),
            "expires_at": timezone.now() + timedelta(hours=LINK_HOURS),
        },
    )
    text = MAIL.format(public_url=settings.PUBLIC_URL, hours=LINK_HOURS, token=token)
    try:
        send_mail("Verify your e-mail address", text, None, [email])
    except OSError as error:  # refused, unreachable, timed out: smtplib's errors are OSErrors
        raise MailNotSent from error


@transaction.atomic
def verify_email(*, user: User, token: str) -> User:
    """Replace the user's e-mail address by the unverified address whose link the user opened.

    ``token`` is the last part of the link. Raise ``InvalidEmailLink`` or ``EmailTaken``.
    """
    rows = EmailChange.objects.select_for_update().filter(user=user)
    change = crypto.verify_row(
        token, rows.filter(expires_at__gt=timezone.now()).first(), purpose=PURPOSE
    )
    if change is None:
        raise InvalidEmailLink
    others = User.objects.filter(email__iexact=change.email).exclude(pk=user.pk)
    if others.exists():
        raise EmailTaken
    before, user.email = user.email, change.email
    # Another user may take the address after the check: the unique constraint decides.
    try:
        with transaction.atomic():
            user.save(update_fields=["email"])
    except IntegrityError as error:
        raise EmailTaken from error
    change.delete()
    record(
        action="user.email_changed",
        subject=user,
        before={"email": before},
        after={"email": user.email},
    )
    return user
