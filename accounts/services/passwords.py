"""The service that changes a user's own password."""

from typing import Any

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import transaction

from accounts.models import Organization, User
from accounts.services import audit, sessions
from accounts.services.people import WeakPassword
from lib.problems import Problem


class WrongPassword(Problem):
    """The current password is wrong, or the user has no password."""

    status = 422
    code = "wrong-password"
    sentence = "The current password is wrong. Enter it again."


@transaction.atomic
def change_password(*, user: User, current: str, new: str, keep: Any = None) -> None:
    """Set a new password and end all sessions of the user, except the session with the id ``keep``.

    API keys keep working. Raise ``WrongPassword`` or ``WeakPassword``.
    """
    locked = User.objects.select_for_update().get(pk=user.pk)
    if not locked.has_usable_password() or not locked.check_password(current):
        raise WrongPassword
    try:
        validate_password(new, locked)
    except ValidationError as error:
        raise WeakPassword(" ".join(error.messages)) from error
    user.set_password(new)
    user.save(update_fields=["password"])
    personal = Organization.objects.filter(personal_of=user).first()
    audit.record(
        action="user.password_changed",
        organization_id=personal.pk if personal else None,
        subject=user,
    )
    sessions.end_sessions(user=user, reason="password changed", keep=keep)
