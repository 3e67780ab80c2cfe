"""How often somebody may try: counted in Redis, exactly, and closed when Redis cannot count."""

import hashlib
import ipaddress

from django.conf import settings
from django.http import HttpRequest

from lib import limits
from lib.addresses import parse_address
from lib.problems import Problem

ADDRESS_FACTOR = 5
"""An address may try this many times ``SIGN_IN_RATE`` over all accounts: an office shares one."""
ACCOUNT_FACTOR = 20
"""An account may be tried this many times ``SIGN_IN_RATE`` from everywhere: high enough that a stranger at
one address cannot lock its owner out, low enough that many addresses cannot guess."""

CODE_RATE = "20/h"
"""Second-factor codes that one address may try on one account: a code is one of a million, three are right."""
CODE_ACCOUNT_RATE = "60/h"
"""App codes that an account may be tried with from networks its owner has not signed in from. Who tries them
knows the password. The owner is not locked out: known networks and recovery codes are not counted here."""


class TooManyAttempts(Problem):
    """The limit of attempts is reached; ``extra["retry_after"]`` says in how many seconds it opens again."""

    status = 429
    code = "too-many-attempts"
    sentence = "Too many attempts. Wait a minute, then try again."


class AttemptsNotCounted(TooManyAttempts):
    """Redis does not answer, so nobody may try: an uncounted attempt would be an unlimited one."""

    status = 503
    code = "attempts-not-counted"
    sentence = (
        "Signing in is closed for a moment: the server cannot count attempts. Try again soon."
    )


def check_sign_in(request: HttpRequest, email: str) -> None:
    """Count one attempt to sign in; call it before the password is looked at.

    ``SIGN_IN_RATE`` (``10/m``) bounds one address on one account; an address over all accounts, and an
    account over all addresses, have multiples of it. Not safe to repeat: every call is an attempt. Raises
    ``TooManyAttempts``, with ``AttemptsNotCounted`` as the form of it that means Redis is away.
    """
    address = client_network(request)
    account = hashlib.sha256(email.strip().lower().encode(errors="surrogatepass")).hexdigest()
    _count(request, "sign-in", f"{address} {account}", 1)
    _count(request, "sign-in-address", address, ADDRESS_FACTOR)
    _count(request, "sign-in-account", account, ACCOUNT_FACTOR)


def check_device_start(request: HttpRequest) -> None:
    """Count one beginning of a device sign-in against its address. Not safe to repeat; raises the same."""
    _count(request, "device-start", client_network(request), ADDRESS_FACTOR)


def check_user_code(request: HttpRequest, user_id: str) -> None:
    """Count one user code that somebody enters; call it before the code is looked up.

    ``SIGN_IN_RATE`` bounds a user, a multiple of it an address, so that nobody guesses what others wait for.
    Not safe to repeat; raises the same.
    """
    _count(request, "device-code", user_id, 1)
    _count(request, "device-code-address", client_network(request), ADDRESS_FACTOR)


def check_code(request: HttpRequest, account: str, *, is_trusted: bool) -> None:
    """Count one attempt at an account's second factor; call it after the password and before the code.

    ``is_trusted`` is for a network that the owner is known to sign in from, and for recovery codes, which
    cannot be guessed: only the address is counted. Not safe to repeat. Raises as ``check_sign_in`` does.
    """
    _count_at(request, "second-factor", f"{client_network(request)} {account}", CODE_RATE)
    if not is_trusted:
        _count_at(request, "second-factor-account", account, CODE_ACCOUNT_RATE)


def client_network(request: HttpRequest) -> str:
    """The caller's IPv4 address or IPv6 /64 network, of which one machine has 2^64 addresses."""
    address = parse_address(client_address(request))
    if address is None:
        return "unknown"  # a Unix socket without a proxy's header: everybody shares one budget
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network(f"{address}/64", strict=False))


def client_address(request: HttpRequest) -> str:
    """The caller's address as the server knows it, past ``TRUSTED_PROXIES`` (``ClientAddress``).

    Behind a proxy that is trusted with the scheme only (``TRUST_X_FORWARDED_PROTO``) it is the last of
    ``X-Forwarded-For``: the one the proxy saw itself, where those before it are the caller's own words.
    """
    found = str(request.META.get("REMOTE_ADDR") or "")
    if getattr(settings, "SECURE_PROXY_SSL_HEADER", None) and not settings.TRUSTED_PROXIES:
        return request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip() or found
    return found


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
