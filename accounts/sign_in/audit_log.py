"""Failed sign-ins in the audit log. Sessions record the sign-ins that succeed, and sign-outs."""

from typing import Any

from django.contrib.auth import signals
from django.dispatch import receiver

from accounts.models import User
from accounts.services import sessions


@receiver(signals.user_login_failed)
def note_failure(credentials: dict[str, Any], **_: Any) -> None:
    """Record an attempt to sign in; the entry names the address that was given, known here or not."""
    email = str(credentials.get("username") or credentials.get("email") or "")[:254]
    safe = email.replace("\0", "").encode(errors="replace").decode()
    user = User.objects.filter(email__iexact=safe).first()
    sessions.record_sign_in(action="sign_in.failed", user=user, email=email)
