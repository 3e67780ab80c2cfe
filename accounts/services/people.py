"""Services for users: create, change, find, suspend and activate."""

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from django.conf import settings
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.mail import send_mail
from django.core.validators import validate_email
from django.db import IntegrityError, transaction

from accounts.models import Membership, Organization, User
from accounts.services import audit, sessions
from lib import logs, url_guard
from lib.problems import Problem

log = logging.getLogger(__name__)
ADDRESS_MAIL = """\
An administrator of {public_url} changed the e-mail address of your account from {old} to {new}.

Use the new address to sign in. If you did not ask for this change, tell an administrator of the server.
"""


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


class ProgramWithRights(Problem):
    """A service account cannot be staff or a superuser."""

    status = 409
    code = "program-with-rights"
    sentence = "This is a service account, which cannot be staff or a superuser."


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
    if sentence := url_guard.explain_single_user():
        logs.once_a_minute(log, logging.WARNING, url_guard.SINGLE_USER, sentence)
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


RIGHTS = ("groups", "user_permissions")
"""The rights of a user that are lists of rows."""


@transaction.atomic
def change_user(*, user: User, values: Mapping[str, Any]) -> User:
    """Change a user on behalf of staff, and write the audit log. Safe to repeat: equal values are not recorded.

    ``values`` may contain ``email``, ``name``, ``is_staff``, ``is_superuser`` and, as iterables of rows, ``groups`` and
    ``user_permissions``; other values stay. A mail about a new e-mail address goes to the old and the new address.
    Raise ``NotAnAddress``, ``EmailTaken``, ``LastAdministrator`` or ``ProgramWithRights``.
    """
    user = User.objects.select_for_update().get(pk=user.pk)
    before = _describe(user)
    if user.is_superuser and not values.get("is_superuser", True):
        _refuse_last_administrator(user)
    for name in ("email", "name", "is_staff", "is_superuser"):
        setattr(user, name, values.get(name, getattr(user, name)))
    if user.is_service_account and (user.is_staff or user.is_superuser):
        raise ProgramWithRights
    if user.email != before["email"]:
        _check_email(user.email)
        if User.objects.filter(email__iexact=user.email).exclude(pk=user.pk).exists():
            raise EmailTaken
    # A concurrent request may take the address after the check: the unique constraint decides.
    try:
        with transaction.atomic():
            user.save(update_fields=["email", "name", "is_staff", "is_superuser"])
    except IntegrityError as error:
        raise EmailTaken from error
    for name in RIGHTS:
        if name in values:
            getattr(user, name).set(values[name])
    old, new = audit.changes(before, _describe(user))
    if "email" in new:
        _mail_about_new_address(old["email"], new["email"])
        address = {"before": {"email": old.pop("email")}, "after": {"email": new.pop("email")}}
        _record_in_personal("user.email_changed", user, **address)
    if new:
        _record_in_personal("user.changed", user, before=old, after=new)
        sessions.announce_access_change(user_id=user.pk)
    return user


def _describe(user: User) -> dict[str, Any]:
    """Return the fields of a user that staff can change, in the form of the audit log."""
    codenames = user.user_permissions.values_list("content_type__app_label", "codename")
    return {
        "email": user.email,
        "name": user.name,
        "is_staff": user.is_staff,
        "is_superuser": user.is_superuser,
        "groups": sorted(user.groups.values_list("name", flat=True)),
        "user_permissions": sorted(f"{app}.{codename}" for app, codename in codenames),
    }


def _mail_about_new_address(old: str, new: str) -> None:
    """Mail the old and the new address of a user after the commit, if a mail server is configured."""
    if not settings.EMAIL_HOST:
        return
    text = ADDRESS_MAIL.format(old=old, new=new, public_url=settings.PUBLIC_URL)
    for address in (old, new):
        transaction.on_commit(
            partial(_mail, "Your e-mail address was changed", text, address), robust=True
        )


def _mail(subject: str, text: str, address: str) -> None:
    try:
        send_mail(subject, text, None, [address])
    except OSError as error:  # refused, unreachable, timed out: smtplib's errors are OSErrors
        log.warning("The mail about a changed e-mail address could not be sent: %s", error)


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
    if user.is_superuser:
        _refuse_last_administrator(user)
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
    change = {"before": {"is_active": not is_active}, "after": {"is_active": is_active}}
    _record_in_personal(action, user, **change)


def _record_in_personal(action: str, user: User, **change: Any) -> None:
    """Record an action on a user in the chain of the user's personal organization, or in the site's chain."""
    personal = Organization.objects.filter(personal_of=user).first()
    audit.record(
        action=action, organization_id=personal.pk if personal else None, subject=user, **change
    )


def _refuse_last_administrator(user: User) -> None:
    # exists() locks one remaining administrator, whom a concurrent request then cannot suspend.
    others = User.objects.select_for_update().filter(is_superuser=True, is_active=True)
    if not others.exclude(pk=user.pk).exists():
        raise LastAdministrator


def has_administrator() -> bool:
    """Return whether there is an active administrator, who can open the admin site."""
    return User.objects.filter(is_superuser=True, is_active=True).exists()
