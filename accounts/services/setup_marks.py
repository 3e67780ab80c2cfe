"""Services for the answers of administrators on the setup checklist."""

from collections.abc import Iterable

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from accounts.models import SetupMark, User
from accounts.services import audit
from lib import crypto

PURPOSE = "setup-key-copy"
Kind = SetupMark.Kind


def marks_for(user: User) -> list[SetupMark]:
    """Return the user's own answers, and the copies of the keys that all administrators confirmed, newest first."""
    rows = SetupMark.objects.filter(Q(user=user) | Q(kind=Kind.KEYS_COPIED))
    return list(rows.select_related("user").order_by("-created_at", "-pk"))


def is_hidden(marks: Iterable[SetupMark], user: User) -> bool:
    """Return whether the user has hidden the checklist."""
    return any(mark.kind == Kind.HIDDEN and mark.user_id == user.pk for mark in marks)


def find_key_copy(marks: Iterable[SetupMark]) -> SetupMark | None:
    """Return the newest confirmed copy that contains every key that the server has now, or None."""
    needed = [set(crypto.digests(key, purpose=PURPOSE)) for key in _keys()]
    for mark in marks:
        if mark.kind == Kind.KEYS_COPIED and all(set(mark.details) & key for key in needed):
            return mark
    return None


@transaction.atomic
def set_hidden(*, user: User, is_hidden: bool) -> None:
    """Hide the checklist from the user's home page, or show it there again. Safe to repeat."""
    if is_hidden:
        SetupMark.objects.get_or_create(user=user, kind=Kind.HIDDEN)
    else:
        SetupMark.objects.filter(user=user, kind=Kind.HIDDEN).delete()


@transaction.atomic
def confirm_key_copy(*, user: User) -> None:
    """Store that the user keeps a copy of all present keys elsewhere. The audit log records it. Safe to repeat."""
    digests = [crypto.digest(key, purpose=PURPOSE)[1] for key in _keys()]
    mark, _ = SetupMark.objects.update_or_create(
        user=user,
        kind=Kind.KEYS_COPIED,
        defaults={"details": digests, "created_at": timezone.now()},
    )
    audit.record(action="setup.keys_copied", subject=mark, after={"keys": len(digests)})


@transaction.atomic
def withdraw_key_copies(*, user: User) -> None:
    """Delete the confirmations of all administrators that a copy is kept. Safe to repeat."""
    deleted, _ = SetupMark.objects.filter(kind=Kind.KEYS_COPIED).delete()
    if deleted:
        audit.record(action="setup.keys_not_copied", subject=user)


def _keys() -> list[str]:
    stored = (*settings.ENCRYPTION_KEYS.values(), *settings.TOKEN_PEPPERS.values())
    return [settings.SECRET_KEY, *(key.hex() for key in stored)]
