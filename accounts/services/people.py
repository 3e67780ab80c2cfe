"""Create, find, suspend and activate users."""

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction

from accounts.models import Membership, Organization, User
from accounts.services import audit, sessions
from lib.problems import Problem


class EmailTaken(Problem):
    """Somebody with this address exists."""

    status = 409
    code = "email-taken"
    sentence = "Somebody with this e-mail address exists already."


class LastAdministrator(Problem):
    """What would leave nobody who can open the admin desk."""

    status = 409
    code = "last-administrator"
    sentence = "This is the last active administrator. Make somebody else one first."


class NotAnAddress(Problem):
    """The text is not an e-mail address."""

    status = 422
    code = "not-an-address"
    sentence = "This is not an e-mail address."


class UnknownUser(Problem):
    """Nobody has this e-mail address."""

    status = 404
    code = "unknown-user"
    sentence = "Nobody here has this e-mail address."


class WeakPassword(Problem):
    """The password does not pass the validators; ``detail`` says why."""

    code = "weak-password"


@transaction.atomic
def create_user(
    *,
    email: str,
    password: str | None = None,
    name: str = "",
    is_staff: bool = False,
    is_superuser: bool = False,
) -> User:
    """Create a user with a personal organization that the user owns.

    Without a password nobody can sign in by password. Raises ``NotAnAddress``, ``EmailTaken``, ``WeakPassword``.
    """
    user = User(email=email.strip(), name=name, is_staff=is_staff, is_superuser=is_superuser)
    _check_email(user.email)
    if password is not None:
        _check_password(password, user)
    user.set_password(password)
    if User.objects.filter(email__iexact=user.email).exists():
        raise EmailTaken
    try:
        with transaction.atomic():
            user.save()
    except IntegrityError as error:
        raise EmailTaken from error
    organization = Organization.objects.create(
        name=name or user.email.partition("@")[0], personal_of=user
    )
    Membership.objects.create(organization=organization, user=user, role=Membership.Role.OWNER)
    audit.record(
        action="user.created",
        organization_id=organization.pk,
        subject=user,
        after={"email": user.email, "is_staff": is_staff, "is_superuser": is_superuser},
    )
    return user


def _check_email(email: str) -> None:
    try:
        validate_email(email)
    except ValidationError as error:
        raise NotAnAddress from error


def _check_password(password: str, user: User) -> None:
    try:
        validate_password(password, user)
    except ValidationError as error:
        raise WeakPassword(" ".join(error.messages)) from error


def find_user(*, email: str) -> User:
    """The user with an e-mail address, in any case. Raises ``UnknownUser``."""
    found = User.objects.filter(email__iexact=email.strip()).first()
    if found is None:
        raise UnknownUser(f"Nobody here has the e-mail address {email}.")
    return found


@transaction.atomic
def suspend_user(*, user: User) -> None:
    """Keep somebody out: no sign-in, no key works, open sessions end. Safe to repeat.

    Open sockets are woken to ask whether they may go on. Raises ``LastAdministrator``.
    """
    others = User.objects.select_for_update().filter(is_superuser=True, is_active=True)
    if user.is_superuser and not others.exclude(pk=user.pk).exists():
        raise LastAdministrator
    if User.objects.filter(pk=user.pk, is_active=True).update(is_active=False):
        _note_user("user.suspended", user, is_active=False)
    sessions.end_sessions(user=user, reason="suspended")
    sessions.announce_access_change(user_id=user.pk)


@transaction.atomic
def activate_user(*, user: User) -> None:
    """Let a suspended user in again; keys that were not revoked work again. Safe to repeat."""
    if User.objects.filter(pk=user.pk, is_active=False).update(is_active=True):
        _note_user("user.activated", user, is_active=True)


def _note_user(action: str, user: User, *, is_active: bool) -> None:
    home = Organization.objects.filter(personal_of=user).first()
    audit.record(
        action=action,
        organization_id=home.pk if home else None,
        subject=user,
        before={"is_active": not is_active},
        after={"is_active": is_active},
    )


def has_administrator() -> bool:
    """Whether somebody can already open the admin desk."""
    return User.objects.filter(is_superuser=True, is_active=True).exists()
