"""Services for setup links: one-time links that create the first administrator."""

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
    """The setup link does not exist, was already used, or has expired."""

    status = 404
    code = "invalid-setup-link"
    sentence = (
        "This link was already used or has expired. "
        "Run `manage.py create_setup_link` on the server to create a new link."
    )


@transaction.atomic
def create_setup_link(*, email: str = "") -> str:
    """Create a setup link; return its path, which cannot be read again. Each call creates another link."""
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
    """Return the setup link that contains ``token``. Raise ``InvalidSetupLink``."""
    # The digest depends on the pepper of each row, so compare with every row. There are only a few.
    for link in SetupLink.objects.filter(used_at=None, expires_at__gt=timezone.now()):
        if crypto.matches(
            token, purpose=SETUP_PURPOSE, pepper_id=link.pepper_id, expected=link.digest
        ):
            return link
    raise InvalidSetupLink


@transaction.atomic
def use_setup_link(*, token: str, email: str, password: str, name: str = "") -> User:
    """Use a setup link: create an administrator, and mark the link as used.

    Raise ``InvalidSetupLink``, ``NotAnAddress``, ``EmailTaken`` or ``WeakPassword``; the link then stays unused.
    """
    # Lock the row and check it again: of two concurrent requests, only one may create a user.
    link = SetupLink.objects.select_for_update().get(pk=find_setup_link(token).pk)
    if link.used_at:
        raise InvalidSetupLink
    user = create_user(email=email, password=password, name=name, is_staff=True, is_superuser=True)
    link.used_at, link.used_by = timezone.now(), user
    link.save(update_fields=["used_at", "used_by"])
    audit.record(action="setup_link.used", subject=link, after={"email": user.email})
    return user
