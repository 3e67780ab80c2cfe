"""The client's address behind proxies, from ``X-Forwarded-For`` and ``Forwarded``. No Django.

Load balancers write the header in many forms. Azure Application Gateway and IIS add the port, some add brackets (or a
port without brackets) to an IPv6 address, some add its zone, and some send several headers.
"""

import re
from collections.abc import Callable, Iterable

from lib.addresses import Address, parse_address

_PORT = re.compile(r"(\d{1,5}|_[A-Za-z0-9._-]+)?")
"""A port, or the obfuscated port of RFC 7239, section 6.3. Some proxies write the colon without a port."""
_FORWARDED_FOR = re.compile(
    r"""(?:^|;)\s*for\s*=\s*("(?:[^"\\]|\\.)*"|[^;,\s"]*)\s*(?=;|$)""", re.IGNORECASE
)
_ELEMENTS = re.compile(r"""(?:[^,"]|"(?:[^"\\]|\\.)*")+|"[^"]*$""")


def parse_forwarded(text: str) -> Address | None:
    """Parse one address as proxies write it: with a port, in brackets, in quotes, with a zone, between spaces.

    Return None for all other texts, such as ``unknown`` and host names.
    """
    text = text.strip().strip('"').strip()
    if text.startswith("["):
        address, bracket, port = text[1:].partition("]")
        if not bracket or (port and not (port[0] == ":" and _PORT.fullmatch(port[1:]))):
            return None
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
        if not _PORT.fullmatch(port):
            return None
    else:
        address = text
    # The zone names an interface of the proxy. It means nothing here.
    host, percent, zone = address.strip().partition("%")
    parsed = parse_address(host)
    if parsed is None and not percent and host.count(":") > 2:
        # An IPv6 address with a port and without brackets, if the text cannot be an address itself.
        host, _, port = host.rpartition(":")
        parsed = parse_address(host) if _PORT.fullmatch(port) else None
    if percent and (not zone or parsed is None or ":" not in host):
        return None
    return parsed


def read_x_forwarded_for(values: Iterable[str]) -> list[str]:
    """Return the entries of all ``X-Forwarded-For`` headers, the client's first. Empty headers are left out.

    An empty entry inside a header stays, because a proxy may write it for an unknown client.
    """
    return [entry.strip() for value in values if value.strip() for entry in value.split(",")]


def read_forwarded(values: Iterable[str]) -> list[str]:
    """Return the ``for`` parameters of all ``Forwarded`` headers (RFC 7239), the client's first.

    An element without a valid ``for`` is returned as an empty text, because it stands for an unknown proxy.
    """
    entries = []
    for value in values:
        for element in _ELEMENTS.findall(value):
            if element.strip():
                found = _FORWARDED_FOR.search(element.strip())
                entries.append(found.group(1).strip('"') if found else "")
    return entries


def resolve_client(peer: str, entries: list[str], is_trusted: Callable[[str], bool]) -> str:
    """Return the address of the client behind trusted proxies; ``peer`` is the address of the connection.

    The entries are read from the right up to the first address that is not a trusted proxy. The client may have forged
    the entries to the left of that address.
    """
    if not is_trusted(peer):
        return peer
    for entry in reversed(entries):
        address = parse_forwarded(entry)
        if address is None:
            break  # proxies write addresses, so the client wrote this entry and those to its left
        peer = str(address)
        if not is_trusted(peer):
            break
    return peer
