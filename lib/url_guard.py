"""Protection against server-side request forgery: the check of user-supplied URLs and of the addresses they name.

A user-supplied URL may name any server that this machine can reach: its own services, the cloud's metadata address or
the database. A name is therefore resolved once, all its addresses are checked, and ``lib.http`` connects to a checked
address. A second lookup could return another address (DNS rebinding).
"""

import ipaddress
import logging
import re
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth import get_user_model

from lib import logs
from lib.addresses import Address, Resolver, is_public, is_reserved, literal_address, resolve

__all__ = [
    "Address",
    "Resolver",
    "UnsafeUrl",
    "check_address",
    "check_url",
    "checked_addresses",
    "is_by_permission",
    "is_open_to_all",
    "literal_address",
    "loopback_port",
    "refuses_this_machine",
    "resolve",
]
log = logging.getLogger(__name__)
SINGLE_USER = "single-user"
ALLOWED = "allowed"
LOOPBACK = "loopback"
"""A value of ``allow_private`` that allows loopback addresses, and no other private address."""
_LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost")
_LOCAL_NAMES = re.compile(r"(?:.*\.)?(?:localhost|localdomain|local|internal)\.?", re.IGNORECASE)


class UnsafeUrl(Exception):
    """This server must not call a URL or IP address. The message is for users, to be shown after a colon."""


def check_url(url: str, *, allow_private: bool | str | None = None) -> None:
    """Raise ``UnsafeUrl`` if a URL is not allowed. The host name is not resolved.

    Check the scheme, the credentials, the port, and private IP addresses and host names. ``allow_private`` is a boolean
    or ``LOOPBACK``, and defaults to the setting ``UPSTREAM_ALLOW_PRIVATE``.
    """
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise UnsafeUrl("it may contain only ASCII characters, without spaces and backslashes.")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UnsafeUrl("it is not a valid URL.") from error
    if parts.scheme not in ("http", "https"):
        raise UnsafeUrl("only http:// and https:// URLs are allowed.")
    if not host or port == 0:
        raise UnsafeUrl("it has no host name, or its port is 0.")
    if parts.username is not None or parts.password is not None:
        raise UnsafeUrl("it may not contain a user name or password.")
    if (literal := literal_address(host)) is not None:
        check_address(literal, host=host, allow_private=allow_private)
    elif _is_closed_name(host, allow_private):
        raise UnsafeUrl(_private(host))


def checked_addresses(
    host: str, port: int, *, resolver: Resolver = resolve, allow_private: bool | str | None = None
) -> list[str]:
    """Resolve a host once, check all its addresses, and return the addresses in the resolver's order.

    Raise ``UnsafeUrl`` if one of the addresses is not allowed, and ``OSError`` if the host has no address.
    """
    literal = literal_address(host)
    if literal is None and _is_closed_name(host, allow_private):
        raise UnsafeUrl(_private(host))
    addresses = [str(literal)] if literal is not None else resolver(host, port)
    if not addresses:
        raise OSError(f"{host} has no address")
    for address in addresses:
        check_address(ipaddress.ip_address(address), host=host, allow_private=allow_private)
    return addresses


def check_address(address: Address, *, host: str, allow_private: bool | str | None = None) -> None:
    """Raise ``UnsafeUrl`` for an address outside the public internet.

    ``allow_private`` allows private and loopback addresses, or with ``LOOPBACK`` only loopback addresses. Link-local
    addresses (where clouds serve the credentials of machines), multicast addresses and the unspecified address are
    never allowed.
    """
    if is_reserved(address):
        raise UnsafeUrl(f"{host} is a reserved network address, which this server never calls.")
    if allow_private == LOOPBACK and address.is_loopback:
        return
    if not is_public(address) and not _may_be_private(allow_private):
        raise UnsafeUrl(_private(host))


def loopback_port(url: str) -> int | None:
    """Return the port of a URL whose host is ``127.0.0.1``, ``::1`` or ``localhost``, and None for every other URL.

    Other spellings of loopback addresses count as other hosts, so that one server has few names.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if host not in _LOOPBACK_HOSTS or parts.scheme not in ("http", "https"):
        return None
    return port or (443 if parts.scheme == "https" else 80)


def is_by_permission() -> bool:
    """Return whether model servers on this machine need the permission of an administrator.

    This is so with ``UPSTREAM_ALLOW_PRIVATE=allowed``, and with ``single-user`` while more than one person has an
    account. With ``true`` no server needs it, and with ``false`` none can get it.
    """
    return settings.UPSTREAM_ALLOW_PRIVATE == ALLOWED or bool(explain_single_user())


def is_open_to_all() -> bool:
    """Return whether every user may call private addresses: ``UPSTREAM_ALLOW_PRIVATE=true``."""
    return settings.UPSTREAM_ALLOW_PRIVATE is True


def refuses_this_machine() -> bool:
    """Return whether nobody may call a private address: ``UPSTREAM_ALLOW_PRIVATE=false``."""
    return settings.UPSTREAM_ALLOW_PRIVATE is False


def _is_closed_name(host: str, allow_private: bool | str | None) -> bool:  # noqa: FBT001 - the argument of the caller
    """Return whether a host name belongs to a private network that may not be called."""
    if not _LOCAL_NAMES.fullmatch(host) or (allow_private == LOOPBACK and host == "localhost"):
        return False
    return not _may_be_private(allow_private)


def _may_be_private(allow_private: bool | str | None) -> bool:  # noqa: FBT001 - the argument of the caller
    value = settings.UPSTREAM_ALLOW_PRIVATE if allow_private is None else allow_private
    if value in (ALLOWED, LOOPBACK):
        return False
    if value != SINGLE_USER:
        return bool(value)
    if sentence := explain_single_user():
        logs.once_a_minute(log, logging.WARNING, SINGLE_USER, sentence)
    return not sentence


def explain_single_user() -> str:
    """Return why private addresses are not allowed any more and what to do, or "" if they are, or never were.

    With ``UPSTREAM_ALLOW_PRIVATE=single-user`` they are allowed while at most one active person has an account: a
    second person could otherwise make this server call the first one's machine and network.
    """
    if (
        settings.UPSTREAM_ALLOW_PRIVATE != SINGLE_USER
        or get_user_model().objects.has_single_person()
    ):
        return ""
    return (
        "Model servers and Git hosts at private addresses are not called any more, because more than one person has an "
        "account and UPSTREAM_ALLOW_PRIVATE is single-user. Administrators can still use model servers on this "
        "machine, such as an Ollama, and allow them for all users under Settings, Model. If every user may reach this "
        "machine and its network, add the line UPSTREAM_ALLOW_PRIVATE=true to the file .env of the project and restart "
        "the server. If not, add UPSTREAM_ALLOW_PRIVATE=allowed, which ends this warning."
    )


def _private(host: str) -> str:
    if settings.UPSTREAM_ALLOW_PRIVATE == SINGLE_USER:
        return (
            f"{host} is a private address. This server calls private addresses only while one person has an account "
            "(UPSTREAM_ALLOW_PRIVATE=single-user), and more people have one now. The operator can allow them for "
            "everybody with UPSTREAM_ALLOW_PRIVATE=true in the file .env and a restart."
        )
    if settings.UPSTREAM_ALLOW_PRIVATE == ALLOWED:
        return (
            f"{host} is a private address. This server calls private addresses only if they are of model servers on "
            "this machine that an administrator has allowed (UPSTREAM_ALLOW_PRIVATE=allowed)."
        )
    return (
        f"{host} is a private address. The operator of this server can allow private addresses with "
        "UPSTREAM_ALLOW_PRIVATE."
    )
