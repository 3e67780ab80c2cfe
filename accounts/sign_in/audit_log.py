"""Signing in and out in the audit log, whichever way somebody came: Django announces all of them."""

from typing import Any

from django.contrib.auth import signals
from django.dispatch import receiver

from accounts.models import Organization, User
from accounts.services import audit


@receiver(signals.user_logged_in)
def note_sign_in(user: Any, **_: Any) -> None:
    """Somebody signed in."""
    _record("sign_in.succeeded", user)


@receiver(signals.user_logged_out)
def note_sign_out(user: Any, **_: Any) -> None:
    """Somebody signed out."""
    if isinstance(user, User):
        _record("sign_in.ended", user)


@receiver(signals.user_login_failed)
def note_failure(credentials: dict[str, Any], **_: Any) -> None:
    """Somebody tried; the entry names the address that was given, known here or not."""
    email = str(credentials.get("username") or credentials.get("email") or "")[:254]
    safe = email.replace("\0", "").encode(errors="replace").decode()
    user = User.objects.filter(email__iexact=safe).first()
    _record("sign_in.failed", user, name=email)


def _record(action: str, user: Any, *, name: str | None = None) -> None:
    home = Organization.objects.filter(personal_of=user).first() if user else None
    audit.record(
        action=action, organization_id=home.pk if home else None, subject=user, subject_name=name
    )
