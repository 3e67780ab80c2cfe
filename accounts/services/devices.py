"""The verbs of device sign-in (RFC 8628): a program asks, a person answers, the program fetches its key."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from uuid_utils.compat import uuid7

from accounts.models import ApiKey, DeviceGrant, Organization, User
from accounts.permissions import permissions_in, require
from accounts.roles import PERMISSIONS
from accounts.services import api_keys
from accounts.services.audit import Actor, acting, current_actor, record
from lib import crypto
from lib.problems import Problem

DEVICE_PURPOSE = "device-code"
USER_PURPOSE = "device-user-code"
LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
"""Of user codes: no vowels, which make words, and nothing that looks like another or like a digit."""
CODE_LETTERS = 8
LIFETIME = timedelta(minutes=10)
KEPT = timedelta(days=1)
INTERVAL_SECONDS = 5
INTERVAL_MAX = 60
EARLY = timedelta(seconds=0.5)
"""A poll may come this much before its time: networks do not keep an even pace."""
KEY_DAYS = 90
PERMISSION = "api_keys.edit"


class DeviceRefusal(Problem):
    """An answer to a poll that is no key; ``error`` is the word that RFC 8628 or RFC 6749 has for it."""

    code = "invalid-grant"
    sentence = "This device code is unknown, or its key was fetched already. Start again."

    def __init__(self, detail: str | None = None, **extra: Any) -> None:
        super().__init__(detail, error=self.code.replace("-", "_"), **extra)


class AuthorizationPending(DeviceRefusal):
    """Nobody has answered yet."""

    code = "authorization-pending"
    sentence = "Nobody has approved this sign-in yet. Ask again after the interval."


class SlowDown(DeviceRefusal):
    """The program asks faster than it was told to; ``interval`` (seconds) is longer from now on."""

    code = "slow-down"
    sentence = "You ask too often. Wait for the interval before you ask again."


class AccessDenied(DeviceRefusal):
    """Somebody said no, or who said yes may not do it any more."""

    code = "access-denied"
    sentence = "This sign-in was denied."


class ExpiredToken(DeviceRefusal):
    """Nobody answered, or the program did not fetch the key, in time."""

    code = "expired-token"
    sentence = "This device code has expired. Start again."


class UnknownUserCode(Problem):
    """A user code that was answered, has expired, or never was."""

    status = 404
    code = "unknown-user-code"
    sentence = (
        "There is no sign-in waiting with this code. Check it, or start again on your device."
    )


class NothingToGive(Problem):
    """The person holds none of the permissions that the program asks for."""

    status = 403
    code = "nothing-to-give"
    sentence = "You have none of the permissions that it asks for in this organization."


@dataclass(frozen=True)
class Codes:
    """The two codes of a new grant, which nobody can see again."""

    device_code: str
    user_code: str
    grant: DeviceGrant


@dataclass(frozen=True)
class DeviceKey:
    """What an approved program gets: its key in plain, once, and what the key may do."""

    key: ApiKey
    plain: str
    scopes: list[str]


@transaction.atomic
def start_device_sign_in(
    *, client_name: str, scopes: Sequence[str] = (), address: str | None = None
) -> Codes:
    """Note that a program wants a key, and make the codes for it and for the person who approves it.

    No ``scopes`` asks for all that the person may do. Each call makes another grant; grants that ended a day
    ago go. Raises ``UnknownScope``.
    """
    if unknown := sorted(set(scopes) - PERMISSIONS):
        raise api_keys.UnknownScope(f"There is no permission {unknown[0]!r}.")
    now = timezone.now()
    DeviceGrant.objects.filter(expires_at__lt=now - KEPT).delete()
    grant_id = uuid7()
    device_code = f"{grant_id.hex}.{secrets.token_urlsafe(32)}"
    letters = "".join(secrets.choice(LETTERS) for _ in range(CODE_LETTERS))
    pepper_id, device_digest = crypto.digest(device_code, purpose=DEVICE_PURPOSE)
    grant = DeviceGrant.objects.create(
        id=grant_id,
        device_digest=device_digest,
        user_digest=crypto.digest(letters, purpose=USER_PURPOSE)[1],
        pepper_id=pepper_id,
        client_name=client_name,
        scopes=sorted(set(scopes)),
        address=address,
        expires_at=now + LIFETIME,
        interval=INTERVAL_SECONDS,
    )
    return Codes(device_code, f"{letters[:4]}-{letters[4:]}", grant)


def find_device_grant(user_code: str) -> DeviceGrant:
    """The grant that waits for an answer under a user code, in any case and with any dashes or spaces.

    Count the attempt first (``limits.check_user_code``). Raises ``UnknownUserCode``.
    """
    return _waiting(user_code, lock=False)


@transaction.atomic
def approve_device(*, user_code: str, user: User, organization: Organization) -> DeviceGrant:
    """Let a program have a key of ``user`` in an organization, with those of its scopes that the user holds.

    Raises ``UnknownUserCode`` (also on a repeat), ``MissingPermission``, ``OrganizationSuspended``,
    ``NothingToGive``, ``TooManyKeys``.
    """
    grant = _waiting(user_code, lock=True)
    require(user, organization.pk, PERMISSION)
    if grant.scopes and not _given(grant, user, organization.pk):
        raise NothingToGive
    if user.api_keys.usable().count() >= settings.API_KEYS_PER_USER:
        raise api_keys.TooManyKeys
    grant.status, grant.user, grant.organization = grant.Status.APPROVED, user, organization
    grant.save(update_fields=["status", "user", "organization"])
    _note("device.approved", grant, organization.pk)
    return grant


@transaction.atomic
def deny_device(*, user_code: str, user: User) -> DeviceGrant:
    """Refuse a program its key, for good. Raises ``UnknownUserCode`` (also on a repeat)."""
    grant = _waiting(user_code, lock=True)
    grant.status, grant.user = grant.Status.DENIED, user
    grant.save(update_fields=["status", "user"])
    _note("device.denied", grant, user.personal_organization.pk)
    return grant


def fetch_device_key(*, device_code: str) -> DeviceKey:
    """The key of an approved grant, made now and given this once.

    Not safe to repeat: a second call raises ``DeviceRefusal`` (invalid_grant). Raises
    ``AuthorizationPending``, ``SlowDown`` (the interval has grown), ``AccessDenied``, ``ExpiredToken``.
    """
    with transaction.atomic():
        outcome = _fetch(device_code)
    if isinstance(outcome, DeviceRefusal):  # raised inside, it would undo what the poll wrote
        raise outcome
    return outcome


def _fetch(device_code: str) -> DeviceKey | DeviceRefusal:
    grant = _of_device(device_code)
    if grant is None or grant.status == DeviceGrant.Status.USED:
        return DeviceRefusal()
    now = timezone.now()
    if grant.status == DeviceGrant.Status.DENIED:
        return AccessDenied()
    if grant.expires_at <= now:
        return ExpiredToken()
    if grant.status == DeviceGrant.Status.PENDING:
        return _wait(grant, now)
    try:
        made = _make_key(grant)
    except Problem as refusal:
        grant.status = DeviceGrant.Status.DENIED
        grant.save(update_fields=["status"])
        return AccessDenied(refusal.detail)
    grant.status, grant.last_polled_at = DeviceGrant.Status.USED, now
    grant.save(update_fields=["status", "last_polled_at"])
    return made


def _of_device(device_code: str) -> DeviceGrant | None:
    """The grant under its row lock: of two polls at once, one makes the key and one finds it made."""
    try:
        pk = UUID(device_code.partition(".")[0])
    except ValueError:
        return None
    grant = DeviceGrant.objects.select_for_update().filter(pk=pk).first()
    is_right = crypto.matches(
        device_code,
        purpose=DEVICE_PURPOSE,
        pepper_id=grant.pepper_id if grant else "",
        expected=grant.device_digest if grant else "",
    )
    return grant if is_right else None


def _wait(grant: DeviceGrant, now: datetime) -> DeviceRefusal:
    pace = timedelta(seconds=grant.interval) - EARLY
    is_early = grant.last_polled_at is not None and now - grant.last_polled_at < pace
    if is_early:
        grant.interval = min(grant.interval + INTERVAL_SECONDS, INTERVAL_MAX)
    grant.last_polled_at = now
    grant.save(update_fields=["interval", "last_polled_at"])
    kind = SlowDown if is_early else AuthorizationPending
    return kind(interval=grant.interval, retry_after=grant.interval)


def _make_key(grant: DeviceGrant) -> DeviceKey:
    """The key, within what the approver may do now: roles change between an approval and a poll."""
    user, organization = grant.user, grant.organization
    assert user is not None
    assert organization is not None
    require(user, organization.pk, PERMISSION)
    scopes = _given(grant, user, organization.pk)
    if grant.scopes and not scopes:
        raise NothingToGive
    address = current_actor().address

    def approver() -> Actor:
        reason = f"device sign-in {grant.pk}"
        return Actor("person", str(user.pk), str(user)[:254], address, reason)

    with acting(approver):
        key, plain = api_keys.issue_api_key(
            user=user,
            organization=organization,
            name=grant.client_name,
            scopes=scopes,
            days=KEY_DAYS,
        )
    return DeviceKey(key, plain, scopes or sorted(permissions_in(user, organization.pk)))


def _given(grant: DeviceGrant, user: User, organization_id: UUID) -> list[str]:
    return sorted(set(grant.scopes) & permissions_in(user, organization_id))


def _waiting(user_code: str, *, lock: bool) -> DeviceGrant:
    letters = "".join(letter for letter in user_code[:40].upper() if letter not in "- ")
    rows = DeviceGrant.objects.select_for_update() if lock else DeviceGrant.objects.all()
    grant = rows.filter(
        user_digest__in=crypto.digests(letters, purpose=USER_PURPOSE),
        status=DeviceGrant.Status.PENDING,
        expires_at__gt=timezone.now(),
    ).first()
    if grant is None:
        raise UnknownUserCode
    return grant


def _note(action: str, grant: DeviceGrant, organization_id: UUID) -> None:
    after = {"client": grant.client_name, "scopes": grant.scopes, "asked_from": grant.address}
    record(action=action, organization_id=organization_id, subject=grant, after=after)
