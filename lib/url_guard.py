"""Protection against server-side request forgery: the check of user-supplied URLs and of the addresses they name.

A user-supplied URL may name any server that this machine can reach: its own services, the cloud's metadata address or
the database. A name is therefore resolved once, all its addresses are checked, and ``lib.http`` connects to a checked
address. A second lookup could return another address (DNS rebinding).
"""

import ipaddress
import re
from urllib.parse import urlsplit

from django.conf import settings

from lib.addresses import Address, Resolver, is_public, is_reserved, literal_address, resolve

__all__ = [
    "Address",
    "Resolver",
    "UnsafeUrl",
    "check_address",
    "check_url",
    "checked_addresses",
    "literal_address",
    "resolve",
]
_LOCAL_NAMES = re.compile(r"(?:.*\.)?(?:localhost|localdomain|local|internal)\.?", re.IGNORECASE)


class UnsafeUrl(Exception):
    """This server must not call a URL or IP address. The message is for users, to be shown after a colon."""


def check_url(url: str, *, allow_private: bool | None = None) -> None:
    """Raise ``UnsafeUrl`` if a URL is not allowed. The host name is not resolved.

    Check the scheme, the credentials, the port, and private IP addresses and host names. ``allow_private`` defaults to
    the setting ``UPSTREAM_ALLOW_PRIVATE``.
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
    elif not _may_be_private(allow_private) and _LOCAL_NAMES.fullmatch(host):
        raise UnsafeUrl(_private(host))


def checked_addresses(
    host: str, port: int, *, resolver: Resolver = resolve, allow_private: bool | None = None
) -> list[str]:
    """Resolve a host once, check all its addresses, and return the addresses in the resolver's order.

    Raise ``UnsafeUrl`` if one of the addresses is not allowed, and ``OSError`` if the host has no address.
    """
    literal = literal_address(host)
    if literal is None and not _may_be_private(allow_private) and _LOCAL_NAMES.fullmatch(host):
        raise UnsafeUrl(_private(host))
    addresses = [str(literal)] if literal is not None else resolver(host, port)
    if not addresses:
        raise OSError(f"{host} has no address")
    for address in addresses:
        check_address(ipaddress.ip_address(address), host=host, allow_private=allow_private)
    return addresses


def check_address(address: Address, *, host: str, allow_private: bool | None = None) -> None:
    """Raise ``UnsafeUrl`` for an address outside the public internet.

    ``allow_private`` allows private and loopback addresses. Link-local addresses (where clouds serve the credentials
    of machines), multicast addresses and the unspecified address are never allowed.
    """
    if is_reserved(address):
        raise UnsafeUrl(f"{host} is a reserved network address, which this server never calls.")
    if not _may_be_private(allow_private) and not is_public(address):
        raise UnsafeUrl(_private(host))


def _may_be_private(allow_private: bool | None) -> bool:  # noqa: FBT001 - the argument of the caller
    return bool(settings.UPSTREAM_ALLOW_PRIVATE if allow_private is None else allow_private)


def _private(host: str) -> str:
    return (
        f"{host} is a private address. The operator of this server can allow private addresses with "
        "UPSTREAM_ALLOW_PRIVATE."
    )
