"""Host names and addresses as people and programs write them, and sets of host patterns."""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from lib.addresses import Address, embedded_address, literal_address, parse_address

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
# IDNA 2003, which Python implements, and IDNA 2008, which browsers use, encode these characters as different hosts.
_AMBIGUOUS = re.compile("[ßς\u200c\u200d]", re.IGNORECASE)


class BadHost(ValueError):
    """A host or a pattern is not valid. The message is a sentence for the person that wrote it."""


def normalize_host(text: str) -> str:
    """Return a host in the one spelling in which hosts are compared.

    A name becomes lower-case ASCII (IDN names in punycode) without a trailing dot. An IP address becomes its usual
    spelling, without brackets; all forms that the operating system accepts are recognized (``127.1``, ``0x7f.1``), and
    an IPv4-mapped IPv6 address becomes the IPv4 address. Raise ``BadHost`` for anything else. Safe to repeat.
    """
    if len(text) > 1000:
        raise BadHost("The host name is longer than 253 characters.")
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
        if ":" not in text:
            raise BadHost(f"“{_shown(text)}” is in brackets, but is not an IPv6 address.")
    if ":" in text:
        address = None if "%" in text else parse_address(text)
        if address is None:
            raise BadHost(f"“{_shown(text)}” is not an IPv6 address.")
        return str(address)
    name = _ascii_name(text)
    labels = name.split(".")
    if len(name) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise BadHost(f"“{_shown(text)}” is not a host name.")
    if (literal := literal_address(name)) is not None:
        return str(literal)
    if _NUMBER.fullmatch(labels[-1]):
        raise BadHost(f"“{_shown(text)}” ends in a number, but is not an IP address.")
    return name


def normalize_pattern(text: str, *, blocks: bool = False) -> str:
    """Return a host pattern in its normal spelling: ``pypi.org``, ``*.example.com`` or ``10.1.2.3``.

    ``*.example.com`` stands for all names below ``example.com``, but not for ``example.com``. With ``blocks``, CIDR
    blocks such as ``10.1.0.0/16`` are patterns too. Raise ``BadHost`` with a sentence that says how to write the
    pattern. Safe to repeat.
    """
    text = text.strip()
    if not text:
        raise BadHost("A host pattern is empty. Write a host name, such as example.com.")
    if "/" in text:
        return _normalize_block(text, blocks=blocks)
    if "*" in text:
        return _normalize_wildcard(text)
    match = re.fullmatch(r"(.*[^:]|\[.*\]):([0-9]+)", text)
    if match and (":" not in match[1] or match[1].startswith("[")):
        raise BadHost(
            f"“{_shown(text)}” has a port. Write only the host, {_shown(match[1])}: a pattern is for all ports."
        )
    return normalize_host(text)


@dataclass(frozen=True)
class HostSet:
    """A set of normal host patterns, which answers in constant time however many names it has."""

    patterns: tuple[str, ...]

    @classmethod
    def of(cls, patterns: Iterable[str], *, blocks: bool = False) -> "HostSet":
        """Normalize the patterns and drop duplicates. Raise ``BadHost`` for the first bad pattern."""
        normal = (normalize_pattern(pattern, blocks=blocks) for pattern in patterns)
        return cls(tuple(dict.fromkeys(normal)))

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(self.patterns)

    @cached_property
    def _networks(self) -> tuple[Network, ...]:
        literals = (p for p in self.patterns if "/" in p or parse_address(p) is not None)
        return tuple(ipaddress.ip_network(literal) for literal in literals)

    def has_host(self, host: str) -> bool:
        """Return whether a normal host is in the set: by its name, by a pattern, or as a literal address."""
        if (address := parse_address(host)) is not None:
            return self.has_address(address)
        labels = host.split(".")
        parents = (f"*.{'.'.join(labels[start:])}" for start in range(1, len(labels)))
        return host in self._names or any(parent in self._names for parent in parents)

    def has_address(self, address: Address) -> bool:
        """Return whether an address is named by itself or by a block."""
        return any(address in network for network in self._networks)

    def has_embedded(self, address: Address) -> bool:
        """Return whether an address, or the IPv4 address embedded in it, is named by itself or by a block."""
        return self.has_address(address) or self.has_address(embedded_address(address))

    def has_reserved(self, address: Address) -> bool:
        """Return whether an address is named by itself, or by a block of only link-local or only multicast addresses.

        A wider block, such as ``100.64.0.0/10``, does not include the metadata address in it.
        """
        return any(
            address in network
            for network in self._networks
            if network.num_addresses == 1 or network.is_link_local or network.is_multicast
        )


def _ascii_name(text: str) -> str:
    name = text
    if not text.isascii():
        if _AMBIGUOUS.search(text):
            raise BadHost(
                f"“{_shown(text)}” has a character that programs encode differently. Write it in punycode (xn--…)."
            )
        try:
            name = text.encode("idna").decode("ascii")
        except UnicodeError as error:
            raise BadHost(
                f"“{_shown(text)}” is not a valid international name. Write it in punycode (xn--…)."
            ) from error
    return name.lower().removesuffix(".")


def _normalize_wildcard(text: str) -> str:
    if text == "*":
        raise BadHost("“*” would match every host. Choose the profile “public” for that.")
    rest = text.removeprefix("*.")
    if "*" in rest:
        raise BadHost(
            f"“{_shown(text)}” is not a pattern: one * may stand at the beginning, as in *.example.com."
        )
    host = normalize_pattern(rest)
    if parse_address(host) is not None:
        raise BadHost(f"“{_shown(text)}” combines * with an IP address. Name each address.")
    return f"*.{host}"


def _normalize_block(text: str, *, blocks: bool) -> str:
    if match := re.fullmatch(r"[a-z][a-z0-9+.-]*://([^/?#]*)[^ ]*", text, re.IGNORECASE):
        host = match[1].rpartition("@")[2]
        raise BadHost(f"“{_shown(text)}” is a URL. Write only the host: {_shown(host)}.")
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise BadHost(
            f"“{_shown(text)}” is not a host. Write only the host name, without a path."
        ) from error
    if not blocks:
        raise BadHost(
            f"“{_shown(text)}” is a block of addresses, which this list does not take. Write host names."
        )
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        low = int(network.network_address) & 0xFFFF_FFFF
        network = ipaddress.IPv4Network((low, network.prefixlen - 96))
    elif parse_address(text.partition("/")[0]) != network.network_address:
        raise BadHost(f"“{_shown(text)}” has bits outside of the block. Write {network}.")
    return str(network)


def _shown(text: str) -> str:
    """Shorten a text and drop its unprintable characters, for a sentence."""
    return "".join(c for c in text[:100] if c.isprintable())
