"""Services for users: create, find, suspend and activate."""

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction

from accounts.models import Membership, Organization, User
from accounts.services import audit, sessions
from lib.problems import Problem


class EmailTaken(Problem):
    """Another account has this e-mail address."""

    status = 409
    code = "email-taken"
    sentence = "An account with this e-mail address already exists."


class LastAdministrator(Problem):
    """The action would leave the server without an active administrator."""

    status = 409
    code = "last-administrator"
    sentence = "This is the last active administrator. Make another user an administrator first."


class NotAnAddress(Problem):
    """The text is not an e-mail address."""

    status = 422
    code = "not-an-address"
    sentence = "This is not an e-mail address. Check it for typing errors."


class UnknownUser(Problem):
    """There is no user with this e-mail address."""

    status = 404
    code = "unknown-user"
    sentence = "There is no user with this e-mail address."


class WeakPassword(Problem):
    """The password does not pass the validators; ``detail`` lists the reasons."""

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
    """Create a user, and a personal organization that the user owns.

    Without ``password`` the user cannot sign in by password. Raise ``NotAnAddress``, ``EmailTaken`` or
    ``WeakPassword``.
    """
    user = User(email=email.strip(), name=name, is_staff=is_staff, is_superuser=is_superuser)
    _check_email(user.email)
    if password is not None:
        _check_password(password, user)
    # For None, Django stores an unusable password.
    user.set_password(password)
    if User.objects.filter(email__iexact=user.email).exists():
        raise EmailTaken
    # A concurrent request may create the user after the check: the unique constraint decides.
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
    """Return the user with an e-mail address, ignoring case. Raise ``UnknownUser``."""
    user = User.objects.filter(email__iexact=email.strip()).first()
    if user is None:
        raise UnknownUser(f"There is no user with the e-mail address {email}.")
    return user


@transaction.atomic
def suspend_user(*, user: User) -> None:
    """Suspend a user: end all sessions, refuse sign-ins and API keys, close open sockets. Safe to repeat.

    Raise ``LastAdministrator``.
    """
    # exists() locks one remaining administrator, whom a concurrent request then cannot suspend.
    others = User.objects.select_for_update().filter(is_superuser=True, is_active=True)
    if user.is_superuser and not others.exclude(pk=user.pk).exists():
        raise LastAdministrator
    if User.objects.filter(pk=user.pk, is_active=True).update(is_active=False):
        _record_user_action("user.suspended", user, is_active=False)
    sessions.end_sessions(user=user, reason="suspended")
    sessions.announce_access_change(user_id=user.pk)


@transaction.atomic
def activate_user(*, user: User) -> None:
    """Activate a suspended user again. API keys that were not revoked work again. Safe to repeat."""
    if User.objects.filter(pk=user.pk, is_active=False).update(is_active=True):
        _record_user_action("user.activated", user, is_active=True)


def _record_user_action(action: str, user: User, *, is_active: bool) -> None:
    personal = Organization.objects.filter(personal_of=user).first()
    audit.record(
        action=action,
        organization_id=personal.pk if personal else None,
        subject=user,
        before={"is_active": not is_active},
        after={"is_active": is_active},
    )


def has_administrator() -> bool:
    """Return whether there is an active administrator, who can open the admin site."""
    return User.objects.filter(is_superuser=True, is_active=True).exists()
