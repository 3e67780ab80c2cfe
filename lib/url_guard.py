"""Which addresses of the network this server may call for a user: public ones, checked as they are dialled.

A user-supplied URL can name anything that this machine reaches: its own services, the cloud's metadata
address, the database. So a name is resolved once, every address it has is checked, and the connection goes
to a checked address (``lib.http``): a second lookup could give another answer (DNS rebinding).
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
    """An address that this server does not call; the text is a sentence for the person who gave it."""


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name as the system sees them. Raises ``OSError`` when there are none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def check_url(url: str, *, allow_private: bool | None = None) -> None:
    """Refuse what can be refused without a lookup: scheme, credentials, odd ports, private addresses.

    ``allow_private`` defaults to ``UPSTREAM_ALLOW_PRIVATE``. Raises ``UnsafeUrl``.
    """
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise UnsafeUrl("write the address in plain ASCII, without spaces.")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UnsafeUrl("this is not an address.") from error
    if parts.scheme not in ("http", "https"):
        raise UnsafeUrl("only http:// and https:// addresses are called.")
    if not host or port == 0:
        raise UnsafeUrl("the address names no host.")
    if parts.username is not None or parts.password is not None:
        raise UnsafeUrl("an address may not hold a user name or password.")
    if (literal := literal_address(host)) is not None:
        check_address(literal, host=host, allow_private=allow_private)
    elif not _may_be_private(allow_private) and _LOCAL_NAMES.fullmatch(host):
        raise UnsafeUrl(_private(host))


def checked_addresses(
    host: str, port: int, *, resolver: Resolver = resolve, allow_private: bool | None = None
) -> list[str]:
    """Look a name up once and return its addresses, all of them checked, in the resolver's order.

    One bad address refuses the name. Raises ``UnsafeUrl`` and ``OSError`` (the name has no address).
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
    """The address that a host text is, in any spelling the system takes: ``127.1``, ``0x7f000001``, ``017…``."""
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

    Private and loopback addresses may be allowed; link-local ones (where clouds keep machine credentials),
    multicast and the unspecified address never are.
    """
    inner = _embedded(address)
    if inner.is_link_local or inner.is_multicast or inner.is_unspecified or _is_metadata(inner):
        raise UnsafeUrl(f"{host} is an address that no model server has.")
    if _may_be_private(allow_private):
        return
    if not inner.is_global or inner.is_reserved or getattr(inner, "is_site_local", False):
        raise UnsafeUrl(_private(host))


def _embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 one carries (mapped, compatible, 6to4, NAT64), else the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped:
        return address.ipv4_mapped
    if address.sixtofour:
        return address.sixtofour
    low = int(address) & 0xFFFF_FFFF
    is_compatible = int(address) >> 32 == 0 and low > 1
    return ipaddress.IPv4Address(low) if address in _NAT64 or is_compatible else address


def _is_metadata(address: Address) -> bool:
    return str(address) in ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")


def _may_be_private(allow_private: bool | None) -> bool:  # noqa: FBT001 - hands its caller's on
    return bool(settings.UPSTREAM_ALLOW_PRIVATE if allow_private is None else allow_private)


def _private(host: str) -> str:
    return (
        f"{host} is not on the public internet, and this server calls private addresses only when "
        "its operator sets UPSTREAM_ALLOW_PRIVATE."
    )
