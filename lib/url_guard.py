"""Protection against server-side request forgery: the check of user-supplied URLs and of the addresses they name.

A user-supplied URL may name any server that this machine can reach: its own services, the cloud's metadata address or
the database. A name is therefore resolved once, all its addresses are checked, and ``lib.http`` connects to a checked
address. A second lookup could return another address (DNS rebinding).
"""

import ipaddress
import re
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

from django.conf import settings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], list[str]]
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_LOCAL_NAMES = re.compile(r"(?:.*\.)?(?:localhost|localdomain|local|internal)\.?", re.IGNORECASE)


class UnsafeUrl(Exception):
    """This server must not call a URL or IP address. The message is for users, to be shown after a colon."""


def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host name from the system's resolver. Raise ``OSError`` if there are none."""
    entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in entries))


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


def literal_address(host: str) -> Address | None:
    """Return the IP address that a host contains, or None if the host is a name.

    All spellings that the operating system accepts are recognized, such as ``127.1``, ``0x7f000001`` and ``017…``.
    """
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host.rstrip(".")))
    except OSError:
        return None


def check_address(address: Address, *, host: str, allow_private: bool | None = None) -> None:
    """Raise ``UnsafeUrl`` for an address outside the public internet.

    ``allow_private`` allows private and loopback addresses. Link-local addresses (where clouds serve the credentials
    of machines), multicast addresses and the unspecified address are never allowed.
    """
    inner = _embedded(address)
    if inner.is_link_local or inner.is_multicast or inner.is_unspecified or _is_metadata(inner):
        raise UnsafeUrl(f"{host} is a reserved network address, which this server never calls.")
    if _may_be_private(allow_private):
        return
    if not inner.is_global or inner.is_reserved or getattr(inner, "is_site_local", False):
        raise UnsafeUrl(_private(host))


def _embedded(address: Address) -> Address:
    """Return the IPv4 address in an IPv6 address (mapped, compatible, 6to4 or NAT64), else the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped:
        return address.ipv4_mapped
    if address.sixtofour:
        return address.sixtofour
    # ``::`` and ``::1`` look like IPv4-compatible addresses, but they are addresses of IPv6 itself.
    low = int(address) & 0xFFFF_FFFF
    is_compatible = int(address) >> 32 == 0 and low > 1
    return ipaddress.IPv4Address(low) if address in _NAT64 or is_compatible else address


def _is_metadata(address: Address) -> bool:
    # Metadata services of clouds that are not at a link-local address: AWS (IPv6), Alibaba Cloud, Oracle Cloud.
    return str(address) in ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")


def _may_be_private(allow_private: bool | None) -> bool:  # noqa: FBT001 - the argument of the caller
    return bool(settings.UPSTREAM_ALLOW_PRIVATE if allow_private is None else allow_private)


def _private(host: str) -> str:
    return (
        f"{host} is a private address. The operator of this server can allow private addresses with "
        "UPSTREAM_ALLOW_PRIVATE."
    )
