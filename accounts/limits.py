"""Rate limits of sign-in attempts, counted exactly in Redis. Without Redis every attempt is refused."""

import hashlib
import ipaddress

from django.conf import settings
from django.http import HttpRequest

from lib import limits
from lib.addresses import parse_address
from lib.problems import Problem

ADDRESS_FACTOR = 5
"""An address gets this multiple of ``SIGN_IN_RATE`` over all accounts, because an office shares one address."""
ACCOUNT_FACTOR = 20
"""An account gets this multiple of ``SIGN_IN_RATE`` over all addresses: high enough that a stranger at one
address cannot lock the owner out, low enough that many addresses together cannot guess a password."""

CODE_RATE = "20/h"
"""Second-factor codes that one address may try on one account. Of a million codes, three are valid at a time."""
CODE_ACCOUNT_RATE = "60/h"
"""App codes that all unknown networks together may try on one account. Such a client knows the password already.
The owner is not locked out: known networks and recovery codes are not counted here."""


class TooManyAttempts(Problem):
    """The rate limit of attempts is exceeded; ``extra["retry_after"]`` is the time to wait in seconds."""

    status = 429
    code = "too-many-attempts"
    sentence = "Too many attempts. Wait a few minutes, then try again."


class AttemptsNotCounted(TooManyAttempts):
    """Redis does not answer, so the attempt is refused: uncounted attempts would have no limit."""

    status = 503
    code = "attempts-not-counted"
    sentence = (
        "The server cannot count sign-in attempts right now, so it accepts none. "
        "Try again in a few seconds."
    )


def check_sign_in(request: HttpRequest, email: str) -> None:
    """Count one attempt to sign in; call this before the password is checked.

    ``SIGN_IN_RATE`` (``10/m``) limits one address on one account. The limits of an address over all accounts
    and of an account over all addresses are multiples of ``SIGN_IN_RATE``. Not safe to repeat: every call
    counts. Raise ``TooManyAttempts``, or its subclass ``AttemptsNotCounted`` if Redis is unreachable.
    """
    address = client_network(request)
    # The counter's key is a hash, so that Redis stores no e-mail addresses.
    account = hashlib.sha256(email.strip().lower().encode(errors="surrogatepass")).hexdigest()
    _count(request, "sign-in", f"{address} {account}", 1)
    _count(request, "sign-in-address", address, ADDRESS_FACTOR)
    _count(request, "sign-in-account", account, ACCOUNT_FACTOR)


def check_device_start(request: HttpRequest) -> None:
    """Count one start of a device sign-in against the client's address.

    Not safe to repeat: every call counts. Raise ``TooManyAttempts`` or ``AttemptsNotCounted``.
    """
    _count(request, "device-start", client_network(request), ADDRESS_FACTOR)


def check_user_code(request: HttpRequest, user_id: str) -> None:
    """Count one user code that a person enters; call this before the code is looked up.

    ``SIGN_IN_RATE`` is the limit of a user, and a multiple of ``SIGN_IN_RATE`` is the limit of an address. The
    limits prevent a user from guessing the code of another person's device. Not safe to repeat. Raise
    ``TooManyAttempts`` or ``AttemptsNotCounted``.
    """
    _count(request, "device-code", user_id, 1)
    _count(request, "device-code-address", client_network(request), ADDRESS_FACTOR)


def check_code(request: HttpRequest, account: str, *, is_trusted: bool) -> None:
    """Count one attempt at an account's second factor; call this after the password and before the code check.

    Pass ``is_trusted`` for a network that the owner has signed in from, and for recovery codes, which cannot be
    guessed: then only the limit per address applies. Not safe to repeat. Raise ``TooManyAttempts`` or
    ``AttemptsNotCounted``.
    """
    _count_at(request, "second-factor", f"{client_network(request)} {account}", CODE_RATE)
    if not is_trusted:
        _count_at(request, "second-factor-account", account, CODE_ACCOUNT_RATE)


def client_network(request: HttpRequest) -> str:
    """Return the client's IPv4 address or IPv6 /64 network, or ``unknown``.

    One machine usually owns a whole /64, so counting single IPv6 addresses would limit nothing.
    """
    address = parse_address(client_address(request))
    if address is None:
        return "unknown"  # a Unix socket without a proxy's header: all clients share one counter
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network(f"{address}/64", strict=False))


def client_address(request: HttpRequest) -> str:
    """Return the client's address; the middleware ``ClientAddress`` has resolved ``TRUSTED_PROXIES`` before.

    Behind a proxy that is trusted for the scheme only (``TRUST_X_FORWARDED_PROTO``), return the last address
    of ``X-Forwarded-For``: the proxy added it, while a client can forge the addresses before it.
    """
    address = str(request.META.get("REMOTE_ADDR") or "")
    if getattr(settings, "SECURE_PROXY_SSL_HEADER", None) and not settings.TRUSTED_PROXIES:
        return request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip() or address
    return address


def _count(request: HttpRequest, group: str, value: str, factor: int) -> None:
    amount, _, period = settings.SIGN_IN_RATE.partition("/")
    _count_at(request, group, value, f"{int(amount) * factor}/{period}")


def _count_at(request: HttpRequest, group: str, value: str, rate: str) -> None:
    try:
        usage = limits.count(request, group=group, value=value, rate=rate)
    except limits.NotCounted as error:
        raise AttemptsNotCounted(retry_after=5) from error
    if usage.is_over:
        raise TooManyAttempts(retry_after=usage.reset)
