"""One-time links that create the first administrator."""

import secrets
from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from accounts.models import SetupLink, User
from accounts.services import audit
from accounts.services.people import create_user
from lib import crypto
from lib.problems import Problem

SETUP_PURPOSE = "setup-link"


class InvalidSetupLink(Problem):
    """A setup link that was used, has expired, or never was."""

    status = 404
    code = "invalid-setup-link"
    sentence = (
        "This link was used already or has expired. Run `manage.py create_setup_link` for another."
    )


@transaction.atomic
def create_setup_link(*, email: str = "") -> str:
    """A path under which the first administrator sets up an account, once."""
    token = secrets.token_urlsafe(32)
    pepper_id, digest = crypto.digest(token, purpose=SETUP_PURPOSE)
    link = SetupLink.objects.create(
        digest=digest,
        pepper_id=pepper_id,
        email=email,
        expires_at=timezone.now() + timedelta(seconds=settings.SETUP_LINK_SECONDS),
    )
    audit.record(action="setup_link.created", subject=link, after={"email": email})
    return f"/setup/{token}"


def find_setup_link(token: str) -> SetupLink:
    """The unused, unexpired link of a token. Raises ``InvalidSetupLink``."""
    found = SetupLink.objects.filter(used_at=None, expires_at__gt=timezone.now())
    for link in found:  # there are a handful at most, and the pepper may have been rotated since
        if crypto.matches(
            token, purpose=SETUP_PURPOSE, pepper_id=link.pepper_id, expected=link.digest
        ):
            return link
    raise InvalidSetupLink


@transaction.atomic
def use_setup_link(*, token: str, email: str, password: str, name: str = "") -> User:
    """Create an administrator by a setup link, and use the link up.

    Raises ``InvalidSetupLink``, ``NotAnAddress``, ``EmailTaken``, ``WeakPassword``; the link stays usable then.
    """
    link = SetupLink.objects.select_for_update().get(pk=find_setup_link(token).pk)
    if link.used_at:
        raise InvalidSetupLink
    user = create_user(email=email, password=password, name=name, is_staff=True, is_superuser=True)
    link.used_at, link.used_by = timezone.now(), user
    link.save(update_fields=["used_at", "used_by"])
    audit.record(action="setup_link.used", subject=link, after={"email": user.email})
    return user
