"""The verbs of second factors (TOTP, RFC 6238): begin, confirm, pass, remove, and reset for somebody else."""

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
"""How many steps a clock may be off, either way."""
SECRET_BYTES = 20
RECOVERY_CODES = 10
RECOVERY_BYTES = 10
"""80 bits: a recovery code cannot be guessed, whoever tries and however often."""
RECOVERY_PURPOSE = "recovery-code"
ISSUER = "Agent Server"


class WrongCode(Problem):
    """A code that is wrong, too old, or was used already; it does not say which."""

    status = 401
    code = "wrong-code"
    sentence = "This code is wrong or was used already. Wait for the next one, then try again."


class SecondFactorNeeded(Problem):
    """The password is right, and a code is needed on top."""

    status = 401
    code = "second-factor-needed"
    sentence = "This account has a second factor. Send its code, or a recovery code, as “code” too."


class SecondFactorExists(Problem):
    """The account has a confirmed second factor already."""

    status = 409
    code = "second-factor-exists"
    sentence = "This account has a second factor already. Remove it before you set up another."


class NoSecondFactor(Problem):
    """There is nothing to confirm, remove or reset."""

    status = 409
    code = "no-second-factor"
    sentence = "This account has no second factor here. Begin to set one up."


class NotYourPassword(Problem):
    """The password that was given again is not the user's, or the user has none."""

    status = 422
    code = "not-your-password"
    sentence = "This is not your password. A second factor belongs to accounts that have one here."


class ReasonNeeded(Problem):
    """A reset without a reason."""

    status = 422
    code = "reason-needed"
    sentence = "Say why the second factor is reset: the audit log keeps it."


def has_second_factor(*, user: User) -> bool:
    """Whether signing in by password needs a code too."""
    return SecondFactor.objects.filter(user=user, confirmed_at__isnull=False).exists()


@transaction.atomic
def begin_second_factor(*, user: User, password: str) -> SecondFactor:
    """Make a secret for the user's app, which counts once it is confirmed. A second call replaces the first.

    Raises ``NotYourPassword`` and ``SecondFactorExists``.
    """
    if not user.has_usable_password() or not user.check_password(password):
        raise NotYourPassword
    locked = User.objects.select_for_update().get(pk=user.pk)  # or two browsers both begin
    if has_second_factor(user=locked):
        raise SecondFactorExists
    SecondFactor.objects.filter(user=locked).delete()
    factor = SecondFactor(user=locked)
    factor.secret = base64.b32encode(secrets.token_bytes(SECRET_BYTES)).decode()
    factor.save()
    _note("second_factor.begun", user)
    return factor


@transaction.atomic
def confirm_second_factor(*, user: User, code: str) -> list[str]:
    """Turn the second factor on by a first code; gives the recovery codes, which nobody can see again.

    Not safe to repeat. Raises ``NoSecondFactor``, ``SecondFactorExists`` and ``WrongCode``.
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
        pepper_id, digest = crypto.digest(_bare(text), purpose=RECOVERY_PURPOSE)
        rows.append(RecoveryCode(factor=factor, pepper_id=pepper_id, digest=digest))
    RecoveryCode.objects.bulk_create(rows)
    _note("second_factor.confirmed", user, after={"recovery_codes": RECOVERY_CODES})
    return plain


def pass_second_factor(*, user: User, code: str) -> None:
    """Take a code of the app or a recovery code; each counts once. Raises ``WrongCode``.

    Attempts are counted by the caller, before. A refusal is in the audit log.
    """
    factor = SecondFactor.objects.filter(user=user, confirmed_at__isnull=False).first()
    if factor is not None:
        if is_recovery_code(code):
            if _use_recovery_code(factor, user, code):
                return
        elif _use_step(factor, code):
            return
    _note("second_factor.refused", user)
    raise WrongCode


@transaction.atomic
def remove_second_factor(*, user: User, code: str) -> None:
    """Turn the second factor off by one of its codes. Raises ``WrongCode``, also where there is none."""
    factor = SecondFactor.objects.select_for_update().filter(user=user).first()
    is_right = factor is not None and (
        _use_recovery_code(factor, user, code)
        if is_recovery_code(code)
        else _use_step(factor, code)
    )
    if factor is None or not is_right:
        raise WrongCode
    factor.delete()
    _note("second_factor.removed", user)


@transaction.atomic
def reset_second_factor(*, user: User, reason: str) -> None:
    """Take somebody's second factor away, for who lost the app and the codes, and sign them out everywhere.

    For staff, who have made sure who asks. Raises ``ReasonNeeded`` and ``NoSecondFactor``.
    """
    if not reason.strip():
        raise ReasonNeeded
    deleted, _ = SecondFactor.objects.filter(user=user).delete()
    if not deleted:
        raise NoSecondFactor
    sessions.end_sessions(user=user, reason="second factor reset")
    _note("second_factor.reset", user, reason=reason.strip())


def is_from_known_address(*, user: User, address: str) -> bool:
    """Whether the user signed in from this IP address since the second factor was turned on."""
    factor = SecondFactor.objects.filter(user=user, confirmed_at__isnull=False).first()
    if factor is None:
        return False
    since = UserSession.objects.filter(user=user, created_at__gt=factor.confirmed_at)
    return since.filter(address=address).exists()


def recovery_codes_left(*, user: User) -> int:
    """How many recovery codes the user has not used."""
    return RecoveryCode.objects.filter(factor__user=user, used_at=None).count()


def enrolment_uri(*, factor: SecondFactor, account: str) -> str:
    """What the QR code says: the Key URI that authenticator apps read."""
    query = {"secret": factor.secret, "issuer": ISSUER, "digits": DIGITS, "period": STEP_SECONDS}
    label = quote(f"{ISSUER}:{account}", safe="@:")
    return f"otpauth://totp/{label}?{urlencode(query, quote_via=quote)}"


def code_at(secret: str, step: int, *, digits: int = DIGITS) -> str:
    """The code of a Base32 secret at a time step (RFC 4226 section 5.3, SHA-1 as all apps have it)."""
    key = base64.b32decode(secret)
    mac = hmac.new(key, struct.pack(">Q", step), hashlib.sha1).digest()
    (number,) = struct.unpack_from(">I", mac, mac[-1] & 15)
    return str((number & 0x7FFFFFFF) % 10**digits).zfill(digits)


def matching_step(secret: str, code: str, *, at: float) -> int | None:
    """The time step whose code this is, ``DRIFT_STEPS`` around the time ``at`` (seconds since 1970)."""
    given, now = _bare(code), int(at) // STEP_SECONDS
    found = None
    for step in range(max(0, now - DRIFT_STEPS), now + DRIFT_STEPS + 1):
        if hmac.compare_digest(code_at(secret, step).encode(), given.encode(errors="replace")):
            found = step
    return found


def is_recovery_code(code: str) -> bool:
    """Whether a code has the form of a recovery code rather than of one of the app."""
    return len(_bare(code)) > DIGITS


def _use_step(factor: SecondFactor, code: str) -> bool:
    step = matching_step(factor.secret, code, at=time.time())
    if step is None:
        return False
    # One statement, so that of two requests with one code one passes.
    fresh = SecondFactor.objects.filter(pk=factor.pk, last_used_step__lt=step)
    return bool(fresh.update(last_used_step=step))


@transaction.atomic
def _use_recovery_code(factor: SecondFactor, user: User, code: str) -> bool:
    for row in factor.recovery_codes.filter(used_at=None):
        if not crypto.matches(
            _bare(code), purpose=RECOVERY_PURPOSE, pepper_id=row.pepper_id, expected=row.digest
        ):
            continue
        unused = RecoveryCode.objects.filter(pk=row.pk, used_at=None)
        if unused.update(used_at=timezone.now()):
            left = factor.recovery_codes.filter(used_at=None).count()
            _note("second_factor.recovery_code_used", user, after={"recovery_codes": left})
            return True
    return False


def _new_recovery_code() -> str:
    text = base64.b32encode(secrets.token_bytes(RECOVERY_BYTES)).decode().lower()
    return "-".join(text[at : at + 4] for at in range(0, len(text), 4))


def _bare(code: str) -> str:
    return re.sub(r"[\s-]", "", code).lower()


def _note(
    action: str, user: User, *, after: dict[str, int] | None = None, reason: str = ""
) -> None:
    home = user.personal_organization
    audit.record(action=action, organization_id=home.pk, subject=user, after=after, reason=reason)
