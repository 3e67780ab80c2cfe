"""The proxies that this server trusts: which connections come from them, and which of their headers is read."""

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from django.conf import settings

from lib.addresses import parse_address
from lib.forwarded import read_forwarded, read_x_forwarded_for


@lru_cache(maxsize=8)
def networks(entries: Sequence[str]) -> tuple[Any, ...]:
    """Parse ``TRUSTED_PROXIES`` into networks. The entry ``unix`` (a proxy on a Unix socket) stays a string."""
    return tuple("unix" if e == "unix" else ipaddress.ip_network(e, strict=False) for e in entries)


def is_trusted(peer: str) -> bool:
    """Return whether an address is in ``TRUSTED_PROXIES``. All texts that are no address count as a Unix socket."""
    trusted = networks(tuple(settings.TRUSTED_PROXIES))
    address = parse_address(peer)
    if address is None:
        return "unix" in trusted
    return any(network != "unix" and address in network for network in trusted)


def forwarded_entries(headers: Iterable[tuple[bytes, str]]) -> list[str]:
    """Return the entries of the header that trusted proxies write, the client's first. Names are in lower case.

    Only one of the two headers is read: a proxy passes the other one on as the client sent it.
    """
    name = b"forwarded" if settings.TRUST_FORWARDED else b"x-forwarded-for"
    values = [value for header, value in headers if header == name]
    return read_forwarded(values) if settings.TRUST_FORWARDED else read_x_forwarded_for(values)
