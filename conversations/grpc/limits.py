"""The rate limits of gRPC calls: the counters of REST requests (``RATE_LIMITS``), by network address and by user."""

import grpc
from django.conf import settings
from django.http import HttpRequest

from accounts.limits import caller_name, client_network
from accounts.models import User
from lib import limits

WRITES = "/Append"
"""The end of the names of methods that change data. They count against ``write``, all others against ``read``."""


class TooManyCalls(Exception):
    """A caller exceeded a rate. The text is for the caller."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


def count_address(address: str) -> None:
    """Count a call against the rate ``address``. Raise ``TooManyCalls`` if it is exceeded."""
    if address:
        _count("address", client_network(_request(address)), "calls from your network address")


def count_invalid_key(address: str) -> None:
    """Count an invalid key against the rate ``keys`` of its network address. Raise ``TooManyCalls``."""
    network = client_network(_request(address)) if address else "unknown"
    _count("keys", network, "calls with invalid keys from your network address")


def count_call(user: User, method: str) -> None:
    """Count a call against the rate ``read`` or ``write`` of its key or user. Raise ``TooManyCalls`` above the rate."""
    group = "write" if method.endswith(WRITES) else "read"
    _count(group, caller_name(user), f"{group} calls")


def _count(group: str, value: str, what: str) -> None:
    rate = (settings.RATE_LIMITS or {}).get(group)
    if rate is None or not limits.is_redis_available():
        return
    try:
        usage = limits.count_in_blocks(HttpRequest(), group=f"{group}|", value=value, rate=rate)
    except limits.NotCounted:
        return
    if usage.is_over:
        raise TooManyCalls(f"Too many {what}. Try again in {usage.reset} seconds.")


def _request(address: str) -> HttpRequest:
    request = HttpRequest()
    request.META["REMOTE_ADDR"] = address
    return request
