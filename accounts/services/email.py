"""The verbs of a new e-mail address: ask for it, prove it by the link in a mail."""

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
Somebody, probably you, wants to use this address for {public_url}.

Open this link within {hours} hours while you are signed in to make it so:

{public_url}/settings/email/{token}

If it was not you, ignore this mail: nothing changes.
"""


class NothingToVerify(Problem):
    """No new address waits for its link."""

    status = 409
    code = "nothing-to-verify"
    sentence = "There is no new e-mail address that waits to be verified."


class InvalidEmailLink(Problem):
    """A link that was used, has expired, is somebody else's, or never was."""

    status = 404
    code = "invalid-email-link"
    sentence = "This link was used already, has expired, or belongs to another account."


class MailNotSent(Problem):
    """The mail server did not take the mail; the change waits, and may be asked for again."""

    status = 503
    code = "mail-not-sent"
    sentence = "The mail could not be sent. Try again soon."


def change_email(*, user: User, email: str) -> None:
    """Ask for a new address; it counts only when its link is opened, and the old one until then.

    A second call replaces the first. Whether the address is taken is not told before the link is opened.
    Raises ``NotAnAddress`` and ``MailNotSent``.
    """
    email = email.strip()
    try:
        validate_email(email)
    except ValidationError as error:
        raise NotAnAddress from error
    _send(user, email)


def resend_verification(*, user: User) -> None:
    """Send a new link for the address that waits; the earlier link stops. Raises ``NothingToVerify``."""
    waiting = EmailChange.objects.filter(user=user).first()
    if waiting is None:
        raise NothingToVerify
    _send(user, waiting.email)


def _send(user: User, email: str) -> None:
    token = secrets.token_urlsafe(32)
    pepper_id, digest = crypto.digest(token, purpose=PURPOSE)
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
    """Make the waiting address the user's. Raises ``InvalidEmailLink`` and ``EmailTaken``."""
    found = EmailChange.objects.select_for_update().filter(user=user)
    waiting = crypto.verify_row(
        token, found.filter(expires_at__gt=timezone.now()).first(), purpose=PURPOSE
    )
    if waiting is None:
        raise InvalidEmailLink
    others = User.objects.filter(email__iexact=waiting.email).exclude(pk=user.pk)
    if others.exists():
        raise EmailTaken
    before, user.email = user.email, waiting.email
    try:
        with transaction.atomic():
            user.save(update_fields=["email"])
    except IntegrityError as error:
        raise EmailTaken from error
    waiting.delete()
    record(
        action="user.email_changed",
        subject=user,
        before={"email": before},
        after={"email": user.email},
    )
    return user
