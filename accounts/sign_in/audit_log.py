"""The receiver that records failed sign-ins. ``services.sessions`` records successful sign-ins and sign-outs."""

from typing import Any

from django.contrib.auth import signals
from django.dispatch import receiver

from accounts.models import User
from accounts.services import sessions


@receiver(signals.user_login_failed)
def record_failed_sign_in(credentials: dict[str, Any], **_: Any) -> None:
    """Record a failed sign-in in the audit log, with the submitted e-mail address even if no user has it."""
    email = str(credentials.get("username") or credentials.get("email") or "")[:254]
    # PostgreSQL cannot store NUL characters, and UTF-8 cannot encode lone surrogates.
    safe = email.replace("\0", "").encode(errors="replace").decode()
    user = User.objects.find_for_sign_in(safe)
    sessions.record_sign_in(action="sign_in.failed", user=user, email=email)
