"""Rate limits of sign-in attempts, counted in Redis. While Redis is unreachable, every attempt is refused."""

import hashlib
import ipaddress
import unicodedata

from django.conf import settings
from django.http import HttpRequest

from accounts.models import ApiKey, User
from lib import limits
from lib.addresses import parse_address
from lib.forwarded import parse_forwarded, read_x_forwarded_for
from lib.problems import Problem

ADDRESS_FACTOR = 5
"""The rate limit of one IP address over all accounts, as a multiple of ``SIGN_IN_RATE``.

It is higher than the limit of one account, because all people in an office can share one address.
"""
ACCOUNT_FACTOR = 20
"""The rate limit of one account over all IP addresses, as a multiple of ``SIGN_IN_RATE``.

It is so high that an attacker with one address cannot lock the owner out, and so low that an attacker with many
addresses cannot guess a password.
"""

CODE_RATE = "20/h"
"""The rate limit of second-factor codes per IP address and account. Of a million codes, three are valid at a time."""
CODE_ACCOUNT_RATE = "60/h"
"""The rate limit of app codes per account, over all networks from which the owner has not signed in yet.

A client reaches this check only with the correct password. Attempts from known networks and with recovery codes are not
counted here, so the owner is not locked out.
"""

MAIL_RECIPIENT_RATE = "5/h"
"""The rate limit of mails to one mailbox that users of this server cause together."""
MAIL_SENDER_RATE = "20/h"
"""The rate limit of mails with which one user verifies e-mail addresses."""


class TooManyAttempts(Problem):
    """There were more attempts than a rate limit allows. ``extra["retry_after"]`` is the time to wait in seconds."""

    status = 429
    code = "too-many-attempts"
    sentence = "Too many attempts. Wait a few minutes, then try again."


class AttemptsNotCounted(TooManyAttempts):
    """Redis is unreachable, so the attempt is refused: without a count there would be no limit."""

    status = 503
    code = "attempts-not-counted"
    sentence = (
        "The server cannot count sign-in attempts right now, so it accepts none. "
        "Try again in a few seconds."
    )


def check_sign_in(request: HttpRequest, account: str) -> None:
    """Count one sign-in attempt against three rate limits. Call this before the password check.

    ``SIGN_IN_RATE``, such as ``10/m``, is the limit per pair of address and account. The limit per address and the
    limit per account are multiples of ``SIGN_IN_RATE``. ``account`` names the account: the id of a user, or an entered
    e-mail address that belongs to no user. To count a sign-in, call ``authentication.count_sign_in``. Not safe to
    repeat: every call counts. Raise ``TooManyAttempts`` if a limit is exceeded, and the subclass
    ``AttemptsNotCounted`` if Redis is unreachable.
    """
    address = client_network(request)
    # The counter's key is a hash, so that Redis stores no e-mail addresses.
    account = hashlib.sha256(account.strip().lower().encode(errors="surrogatepass")).hexdigest()
    _count(request, "sign-in", f"{address} {account}", 1)
    _count(request, "sign-in-address", address, ADDRESS_FACTOR)
    _count(request, "sign-in-account", account, ACCOUNT_FACTOR)


def check_device_start(request: HttpRequest) -> None:
    """Count one start of a device sign-in against the rate limit of the client's address.

    Not safe to repeat: every call counts. Raise ``TooManyAttempts`` or ``AttemptsNotCounted``.
    """
    _count(request, "device-start", client_network(request), ADDRESS_FACTOR)


def check_user_code(request: HttpRequest, user_id: str) -> None:
    """Count one attempt to enter the user code of a device. Call this before the code is looked up.

    ``SIGN_IN_RATE`` is the limit per user, and the limit per address is a multiple of it. With these limits, a user
    cannot guess the code of another person's device. Not safe to repeat: every call counts. Raise
    ``TooManyAttempts`` or ``AttemptsNotCounted``.
    """
    _count(request, "device-code", user_id, 1)
    _count(request, "device-code-address", client_network(request), ADDRESS_FACTOR)


def check_code(request: HttpRequest, account: str, *, is_trusted: bool) -> None:
    """Count one attempt to enter a second-factor code. Call this after the password check, before the code check.

    There are two limits: per pair of address and account, and per account. With ``is_trusted``, only the first limit
    applies. Use this for networks from which the owner has signed in, and for recovery codes, which cannot be
    guessed. Not safe to repeat: every call counts. Raise ``TooManyAttempts`` or
    ``AttemptsNotCounted``.
    """
    _count_at(request, "second-factor", f"{client_network(request)} {account}", CODE_RATE)
    if not is_trusted:
        _count_at(request, "second-factor-account", account, CODE_ACCOUNT_RATE)


def check_mail(request: HttpRequest, *, recipient: str, sender: str = "") -> None:
    """Count one mail that a user sends to an address of the user's choice. Call this before the mail is sent.

    ``MAIL_RECIPIENT_RATE`` is the limit per mailbox, over all users: variants of an address with a tag
    (``name+tag@…``) count as one mailbox. ``MAIL_SENDER_RATE`` is the limit per user, if ``sender`` names the user.
    Not safe to repeat: every call counts. Raise ``TooManyAttempts`` or ``AttemptsNotCounted``.
    """
    local, _, domain = unicodedata.normalize("NFKC", recipient).strip().casefold().rpartition("@")
    mailbox = f"{local.partition('+')[0]}@{domain.rstrip('.')}"
    digest = hashlib.sha256(mailbox.encode(errors="surrogatepass")).hexdigest()
    if sender:
        _count_at(request, "mail-sender", sender, MAIL_SENDER_RATE)
    _count_at(request, "mail-recipient", digest, MAIL_RECIPIENT_RATE)


def caller_name(user: User) -> str:
    """Return the name under which requests of an authenticated user are counted: the API key, or else the user.

    A conversation key counts as the key or the user from which it was derived.
    """
    credential = user.credential
    return f"key {credential.pk}" if isinstance(credential, ApiKey) else f"user {user.pk}"


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
    """Return the IP address of the client as text. With ``TRUSTED_PROXIES``, a middleware has set ``REMOTE_ADDR``.

    If a proxy is trusted for the scheme only (``TRUST_X_FORWARDED_PROTO``), return the last address in
    ``X-Forwarded-For``. The proxy added this address, while a client can forge the addresses before it.
    """
    address = str(request.META.get("REMOTE_ADDR") or "")
    if getattr(settings, "SECURE_PROXY_SSL_HEADER", None) and not settings.TRUSTED_PROXIES:
        entries = read_x_forwarded_for([request.headers.get("X-Forwarded-For", "")])
        if entries:
            forwarded = parse_forwarded(entries[-1])
            return str(forwarded) if forwarded else entries[-1]
    return address


def _count(request: HttpRequest, group: str, value: str, factor: int) -> None:
    amount, _, period = settings.SIGN_IN_RATE.partition("/")  # for example 10/m
    _count_at(request, group, value, f"{int(amount) * factor}/{period}")


def _count_at(request: HttpRequest, group: str, value: str, rate: str) -> None:
    try:
        usage = limits.count(request, group=group, value=value, rate=rate)
    except limits.NotCounted as error:
        raise AttemptsNotCounted(retry_after=5) from error
    if usage.is_over:
        raise TooManyAttempts(retry_after=usage.reset)
