"""Services for the second factor (TOTP, RFC 6238): begin, confirm, verify, remove, and reset by staff."""

import base64
import hashlib
import hmac
import re
import secrets
import struct
import time
from urllib.parse import quote, urlencode

from django.db import transaction
from django.utils import timezone

from accounts.models import RecoveryCode, SecondFactor, User, UserSession
from accounts.services import audit, sessions
from lib import crypto
from lib.problems import Problem

STEP_SECONDS = 30
DIGITS = 6
DRIFT_STEPS = 1
"""The number of time steps by which the clock of a user's device may be wrong, in either direction."""
SECRET_BYTES = 20
RECOVERY_CODES = 10
"""The number of recovery codes that a user gets."""
RECOVERY_BYTES = 10
"""The random bytes of a recovery code. 80 bits cannot be guessed, even without a rate limit."""
RECOVERY_PURPOSE = "recovery-code"
ISSUER = "Agent Server"


class WrongCode(Problem):
    """The code is wrong, expired or already used; the error does not say which."""

    status = 401
    code = "wrong-code"
    sentence = "This code is wrong or was already used. Wait for the next code, then try again."


class SecondFactorNeeded(Problem):
    """The password is right, but the request has no code of the second factor."""

    status = 401
    code = "second-factor-needed"
    sentence = (
        "This account has a second factor. "
        "Send its code or a recovery code in the field “code” as well."
    )


class SecondFactorExists(Problem):
    """The account already has a confirmed second factor."""

    status = 409
    code = "second-factor-exists"
    sentence = "This account already has a second factor. Remove it before you set up another one."


class NoSecondFactor(Problem):
    """The account has no second factor to confirm or reset."""

    status = 409
    code = "no-second-factor"
    sentence = "This account has no second factor. Set up a second factor first."


class NotYourPassword(Problem):
    """The password is wrong, or the user has no password."""

    status = 422
    code = "not-your-password"
    sentence = "The password is wrong. Only accounts with a password on this server can have a second factor."


class ReasonNeeded(Problem):
    """A second factor cannot be reset without a reason."""

    status = 422
    code = "reason-needed"
    sentence = "Enter the reason for resetting the second factor. The audit log records it."


def has_second_factor(*, user: User) -> bool:
    """Return whether the user needs a code in addition to the password to sign in."""
    return SecondFactor.objects.filter(user=user, confirmed_at__isnull=False).exists()


@transaction.atomic
def begin_second_factor(*, user: User, password: str) -> SecondFactor:
    """Create a secret for the user's authenticator app. Sign-in asks for codes only after the confirmation.

    A second call before the confirmation replaces the secret. Raise ``NotYourPassword`` or
    ``SecondFactorExists``.
    """
    if not user.has_usable_password() or not user.check_password(password):
        raise NotYourPassword
    # Without the lock, two browsers could begin at the same time and overwrite each other's secret.
    locked = User.objects.select_for_update().get(pk=user.pk)
    if has_second_factor(user=locked):
        raise SecondFactorExists
    SecondFactor.objects.filter(user=locked).delete()
    factor = SecondFactor(user=locked)
    factor.secret = base64.b32encode(secrets.token_bytes(SECRET_BYTES)).decode()
    factor.save()
    _record("second_factor.begun", user)
    return factor


@transaction.atomic
def confirm_second_factor(*, user: User, code: str) -> list[str]:
    """Turn the second factor on with a first code; return the recovery codes, which cannot be read again.

    Not safe to repeat: a second call raises ``SecondFactorExists``. Raise ``NoSecondFactor`` or
    ``WrongCode``.
    """
    factor = SecondFactor.objects.select_for_update().filter(user=user).first()
    if factor is None:
        raise NoSecondFactor
    if factor.confirmed_at:
        raise SecondFactorExists
    step = matching_step(factor.secret, code, at=time.time())
    if step is None:
        raise WrongCode
    factor.confirmed_at, factor.last_used_step = timezone.now(), step
    factor.save(update_fields=["confirmed_at", "last_used_step"])
    plain = [_new_recovery_code() for _ in range(RECOVERY_CODES)]
    rows = []
    for text in plain:
        pepper_id, digest = crypto.digest(_normalize(text), purpose=RECOVERY_PURPOSE)
        rows.append(RecoveryCode(factor=factor, pepper_id=pepper_id, digest=digest))
    RecoveryCode.objects.bulk_create(rows)
    _record("second_factor.confirmed", user, after={"recovery_codes": RECOVERY_CODES})
    return plain


def verify_second_factor(*, user: User, code: str) -> None:
    """Use up a code of the app or a recovery code; each code works once. Raise ``WrongCode``.

    The caller must count the attempt first (``limits.check_code``). A wrong code is recorded in the audit log.
    """
    # Not atomic: WrongCode would roll back the audit entry of the wrong code.
    factor = SecondFactor.objects.filter(user=user, confirmed_at__isnull=False).first()
    if factor is not None:
        if is_recovery_code(code):
            if _use_recovery_code(factor, user, code):
                return
        elif _use_step(factor, code):
            return
    _record("second_factor.refused", user)
    raise WrongCode


@transaction.atomic
def remove_second_factor(*, user: User, code: str) -> None:
    """Turn the second factor off. ``code`` is a code of the app or a recovery code.

    Raise ``WrongCode``, also for a user without a second factor.
    """
    factor = SecondFactor.objects.select_for_update().filter(user=user).first()
    is_right = factor is not None and (
        _use_recovery_code(factor, user, code)
        if is_recovery_code(code)
        else _use_step(factor, code)
    )
    if factor is None or not is_right:
        raise WrongCode
    factor.delete()
    _record("second_factor.removed", user)


@transaction.atomic
def reset_second_factor(*, user: User, reason: str) -> None:
    """Remove the second factor of a user who lost the authenticator app and the codes; end the user's sessions.

    Only for staff, who must verify the user's identity first. Raise ``ReasonNeeded`` or ``NoSecondFactor``.
    """
    if not reason.strip():
        raise ReasonNeeded
    deleted, _ = SecondFactor.objects.filter(user=user).delete()
    if not deleted:
        raise NoSecondFactor
    sessions.end_sessions(user=user, reason="second factor reset")
    _record("second_factor.reset", user, reason=reason.strip())


def is_from_known_address(*, user: User, address: str) -> bool:
    """Return whether the user has signed in from this IP address since the second factor was turned on."""
    factor = SecondFactor.objects.filter(user=user, confirmed_at__isnull=False).first()
    if factor is None:
        return False
    rows = UserSession.objects.filter(user=user, created_at__gt=factor.confirmed_at)
    return rows.filter(address=address).exists()


def recovery_codes_left(*, user: User) -> int:
    """Return the number of the user's unused recovery codes."""
    return RecoveryCode.objects.filter(factor__user=user, used_at=None).count()


def enrolment_uri(*, factor: SecondFactor, account: str) -> str:
    """Return the ``otpauth://`` URI for the QR code that authenticator apps scan."""
    query = {"secret": factor.secret, "issuer": ISSUER, "digits": DIGITS, "period": STEP_SECONDS}
    label = quote(f"{ISSUER}:{account}", safe="@:")
    return f"otpauth://totp/{label}?{urlencode(query, quote_via=quote)}"


def code_at(secret: str, step: int, *, digits: int = DIGITS) -> str:
    """Return the code of a Base32 secret at a time step (RFC 4226 section 5.3)."""
    key = base64.b32decode(secret)
    # SHA-1 is the only hash that all authenticator apps support.
    mac = hmac.new(key, struct.pack(">Q", step), hashlib.sha1).digest()
    # Dynamic truncation: the last four bits of the MAC are the offset of the number.
    (number,) = struct.unpack_from(">I", mac, mac[-1] & 15)
    return str((number & 0x7FFFFFFF) % 10**digits).zfill(digits)


def matching_step(secret: str, code: str, *, at: float) -> int | None:
    """Return the time step to which a code belongs, or None.

    Only steps within ``DRIFT_STEPS`` of the time ``at`` (seconds since 1970) are compared.
    """
    digits, now = _normalize(code), int(at) // STEP_SECONDS
    matching = None
    # Compare with the code of every step, without an early exit, so that the response time reveals nothing.
    for step in range(max(0, now - DRIFT_STEPS), now + DRIFT_STEPS + 1):
        if hmac.compare_digest(code_at(secret, step).encode(), digits.encode(errors="replace")):
            matching = step
    return matching


def is_recovery_code(code: str) -> bool:
    """Return whether a code is long enough for a recovery code. Codes of the app are shorter."""
    return len(_normalize(code)) > DIGITS


def _use_step(factor: SecondFactor, code: str) -> bool:
    step = matching_step(factor.secret, code, at=time.time())
    if step is None:
        return False
    # One conditional update: of two concurrent requests with the same code, only one succeeds.
    unused = SecondFactor.objects.filter(pk=factor.pk, last_used_step__lt=step)
    return bool(unused.update(last_used_step=step))


@transaction.atomic
def _use_recovery_code(factor: SecondFactor, user: User, code: str) -> bool:
    for row in factor.recovery_codes.filter(used_at=None):
        if not crypto.matches(
            _normalize(code), purpose=RECOVERY_PURPOSE, pepper_id=row.pepper_id, expected=row.digest
        ):
            continue
        # A conditional update again, so that concurrent requests cannot use one code twice.
        unused = RecoveryCode.objects.filter(pk=row.pk, used_at=None)
        if unused.update(used_at=timezone.now()):
            left = factor.recovery_codes.filter(used_at=None).count()
            _record("second_factor.recovery_code_used", user, after={"recovery_codes": left})
            return True
    return False


def _new_recovery_code() -> str:
    text = base64.b32encode(secrets.token_bytes(RECOVERY_BYTES)).decode().lower()
    return "-".join(text[at : at + 4] for at in range(0, len(text), 4))


def _normalize(code: str) -> str:
    """Return a code in lower case, without the spaces and dashes that only make the code easier to read."""
    return re.sub(r"[\s-]", "", code).lower()


def _record(
    action: str, user: User, *, after: dict[str, int] | None = None, reason: str = ""
) -> None:
    personal = user.personal_organization
    audit.record(
        action=action, organization_id=personal.pk, subject=user, after=after, reason=reason
    )
