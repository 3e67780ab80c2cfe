"""IP addresses: parsing, the resolver of host names, and classes of addresses. No Django."""

import ipaddress
import socket
from collections.abc import Callable
from functools import lru_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], list[str]]
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@lru_cache(maxsize=1024)  # each request parses the client's address twice
def parse_address(text: str) -> Address | None:
    """Parse an IP address. Return None if the text is not an address.

    An IPv4-mapped IPv6 address is returned as its IPv4 address.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


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


def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host name from the system's resolver. Raise ``OSError`` if there are none."""
    try:
        entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a label of the name is empty, or has more than 63 characters
        raise OSError(f"{host[:80]!r} is not a host name") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in entries))


def embedded_address(address: Address) -> Address:
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


def is_reserved(address: Address) -> bool:
    """Return whether an address is link-local, multicast, unspecified or a metadata service.

    Clouds serve the credentials of machines at such addresses. An embedded IPv4 address is checked in its place.
    """
    inner = embedded_address(address)
    return inner.is_link_local or inner.is_multicast or inner.is_unspecified or _is_metadata(inner)


def is_public(address: Address) -> bool:
    """Return whether an address, or the IPv4 address embedded in it, belongs to the public internet."""
    inner = embedded_address(address)
    is_special = inner.is_reserved or getattr(inner, "is_site_local", False)
    return inner.is_global and not is_special and not is_reserved(inner)


def _is_metadata(address: Address) -> bool:
    # Metadata services of clouds that are not at a link-local address: AWS (IPv6), Alibaba Cloud, Oracle Cloud.
    return str(address) in ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")
