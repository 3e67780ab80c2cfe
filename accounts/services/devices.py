"""Services for device sign-in (RFC 8628).

A program requests an API key and gets two codes. A person approves or denies the request with the user code. The
program polls with the device code until it gets the key.
"""

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
"""The letters of user codes. Without vowels, the codes do not form words (RFC 8628 section 6.1)."""
CODE_LETTERS = 8
LIFETIME = timedelta(minutes=10)
RETENTION = timedelta(days=1)
"""The time for which an expired grant stays in the database."""
INTERVAL_SECONDS = 5
INTERVAL_MAX = 60
EARLY_TOLERANCE = timedelta(seconds=0.5)
"""A poll may arrive this much before the end of the interval, because network delays vary."""
KEY_DAYS = 90
PERMISSION = "api_keys.edit"


class DeviceRefusal(Problem):
    """A poll returns no key. The extra field ``error`` is the error code of RFC 8628 or RFC 6749."""

    code = "invalid-grant"
    sentence = "This device code is unknown, or its key was already fetched. Start again."

    def __init__(self, detail: str | None = None, **extra: Any) -> None:
        super().__init__(detail, error=self.code.replace("-", "_"), **extra)


class AuthorizationPending(DeviceRefusal):
    """No user has approved or denied the request yet."""

    code = "authorization-pending"
    sentence = "This sign-in is not approved yet. Ask again after the interval."


class SlowDown(DeviceRefusal):
    """The program polls too often. ``interval`` is the new, longer time between two polls, in seconds."""

    code = "slow-down"
    sentence = "This program polls too often. Wait for the interval before the next request."


class AccessDenied(DeviceRefusal):
    """A user denied the request, or the user who approved it has lost the permission."""

    code = "access-denied"
    sentence = "This sign-in was denied."


class ExpiredToken(DeviceRefusal):
    """The device code expired before the program fetched the key."""

    code = "expired-token"
    sentence = "This device code has expired. Start again."


class UnknownUserCode(Problem):
    """The user code does not exist, has expired, or was already approved or denied."""

    status = 404
    code = "unknown-user-code"
    sentence = "No device waits for this code. Check the code, or start again on your device."


class NothingToGive(Problem):
    """The user has none of the permissions that the program requests."""

    status = 403
    code = "nothing-to-give"
    sentence = "You have none of the requested permissions in this organization. Choose another organization."


@dataclass(frozen=True)
class Codes:
    """A new grant and its two codes, which cannot be read again."""

    device_code: str
    user_code: str
    grant: DeviceGrant


@dataclass(frozen=True)
class DeviceKey:
    """The new API key for an approved program, with the plain text and the permission names of the key."""

    key: ApiKey
    plain: str
    scopes: list[str]


@transaction.atomic
def start_device_sign_in(
    *, client_name: str, scopes: Sequence[str] = (), address: str | None = None
) -> Codes:
    """Create a grant for a program that requests an API key; return the device code and the user code.

    If ``scopes`` is empty, the program requests all permissions of the user who approves the request. Also delete
    grants that expired more than a day ago. Not safe to repeat: each call creates a grant. Raise ``UnknownScope``.
    """
    if unknown := sorted(set(scopes) - PERMISSIONS):
        raise api_keys.UnknownScope(
            f"There is no permission {unknown[0]!r}. Remove it from the requested scopes."
        )
    now = timezone.now()
    # Expired grants are deleted here, so that no periodic task is needed.
    DeviceGrant.objects.filter(expires_at__lt=now - RETENTION).delete()
    grant_id = uuid7()
    # The code contains the grant's id: a poll looks the row up by the id, then checks the digest with the pepper
    # that the row names.
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
    """Return the pending grant that has this user code; ignore case, dashes and spaces in the code.

    The caller must count the attempt first (``limits.check_user_code``). Raise ``UnknownUserCode``.
    """
    return _pending_grant(user_code, lock=False)


@transaction.atomic
def approve_device(*, user_code: str, user: User, organization: Organization) -> DeviceGrant:
    """Approve a program's request: the program can fetch an API key of ``user`` in ``organization``.

    The key gets only those requested scopes that the user has. Not safe to repeat: a second call raises
    ``UnknownUserCode``. Raise ``UnknownUserCode``, ``OrganizationSuspended``, ``NothingToGive`` or ``TooManyKeys``.
    Raise ``MissingPermission`` if the user cannot create API keys.
    """
    grant = _pending_grant(user_code, lock=True)
    require(user, organization.pk, PERMISSION)
    if grant.scopes and not _allowed_scopes(grant, user, organization.pk):
        raise NothingToGive
    if user.api_keys.usable().count() >= settings.API_KEYS_PER_USER:
        raise api_keys.TooManyKeys
    grant.status, grant.user, grant.organization = grant.Status.APPROVED, user, organization
    grant.save(update_fields=["status", "user", "organization"])
    _record("device.approved", grant, organization.pk)
    return grant


@transaction.atomic
def deny_device(*, user_code: str, user: User) -> DeviceGrant:
    """Deny a program's request permanently. Raise ``UnknownUserCode``, also on a second call."""
    grant = _pending_grant(user_code, lock=True)
    grant.status, grant.user = grant.Status.DENIED, user
    grant.save(update_fields=["status", "user"])
    _record("device.denied", grant, user.personal_organization.pk)
    return grant


def fetch_device_key(*, device_code: str) -> DeviceKey:
    """Create and return the API key of an approved grant. Each poll of the program calls this function.

    Not safe to repeat: after the key was fetched, raise ``DeviceRefusal`` (``invalid_grant``). Raise
    ``AuthorizationPending``, ``SlowDown`` (with a longer interval), ``AccessDenied`` or ``ExpiredToken``.
    """
    with transaction.atomic():
        result = _poll(device_code)
    # An exception inside the transaction would roll back the poll's time and the longer interval.
    if isinstance(result, DeviceRefusal):
        raise result
    return result


def _poll(device_code: str) -> DeviceKey | DeviceRefusal:
    """Return the key, or the refusal for the caller to raise after the commit."""
    grant = _lock_grant(device_code)
    if grant is None or grant.status == DeviceGrant.Status.USED:
        return DeviceRefusal()
    now = timezone.now()
    if grant.status == DeviceGrant.Status.DENIED:
        return AccessDenied()
    if grant.expires_at <= now:
        return ExpiredToken()
    if grant.status == DeviceGrant.Status.PENDING:
        return _record_poll(grant, now)
    try:
        device_key = _create_key(grant)
    except Problem as refusal:
        # The user lost the permission after the approval. This refusal is final, so polling ends.
        grant.status = DeviceGrant.Status.DENIED
        grant.save(update_fields=["status"])
        return AccessDenied(refusal.detail)
    grant.status, grant.last_polled_at = DeviceGrant.Status.USED, now
    grant.save(update_fields=["status", "last_polled_at"])
    return device_key


def _lock_grant(device_code: str) -> DeviceGrant | None:
    """Lock and return the grant of a device code; None if the code is wrong.

    Of two concurrent polls, the first creates the key and the second sees the status ``used``.
    """
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


def _record_poll(grant: DeviceGrant, now: datetime) -> DeviceRefusal:
    """Store the time of a poll for a pending grant; return the refusal for the program."""
    min_pause = timedelta(seconds=grant.interval) - EARLY_TOLERANCE
    is_early = grant.last_polled_at is not None and now - grant.last_polled_at < min_pause
    if is_early:
        grant.interval = min(grant.interval + INTERVAL_SECONDS, INTERVAL_MAX)
    grant.last_polled_at = now
    grant.save(update_fields=["interval", "last_polled_at"])
    kind = SlowDown if is_early else AuthorizationPending
    return kind(interval=grant.interval, retry_after=grant.interval)


def _create_key(grant: DeviceGrant) -> DeviceKey:
    """Create the key with the present permissions of the user who approved the grant.

    The user's role may have changed between the approval and the poll.
    """
    user, organization = grant.user, grant.organization
    assert user is not None
    assert organization is not None
    require(user, organization.pk, PERMISSION)
    scopes = _allowed_scopes(grant, user, organization.pk)
    if grant.scopes and not scopes:
        raise NothingToGive
    address = current_actor().address

    # The poll has no signed-in user, so the audit log names the user who approved the key.
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


def _allowed_scopes(grant: DeviceGrant, user: User, organization_id: UUID) -> list[str]:
    return sorted(set(grant.scopes) & permissions_in(user, organization_id))


def _pending_grant(user_code: str, *, lock: bool) -> DeviceGrant:
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


def _record(action: str, grant: DeviceGrant, organization_id: UUID) -> None:
    after = {"client": grant.client_name, "scopes": grant.scopes, "asked_from": grant.address}
    record(action=action, organization_id=organization_id, subject=grant, after=after)
