"""Counting of requests in Redis: exact over all processes, by ``django-ratelimit``."""

import logging
import time
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest
from django_ratelimit.core import get_usage
from redis.exceptions import RedisError

log = logging.getLogger(__name__)
RETRY_SECONDS = 1.0
"""For so long after a failure, requests that pass uncounted do not wait for Redis again."""


class NotCounted(Exception):
    """Redis did not answer: whether the limit is reached is unknown."""


@dataclass(frozen=True)
class Usage:
    """How far a limit is used up; ``reset`` is in seconds from now."""

    limit: int
    count: int
    reset: int

    @property
    def is_over(self) -> bool:
        return self.count > self.limit

    @property
    def remaining(self) -> int:
        return max(0, self.limit - self.count)

    def headers(self) -> dict[str, str]:
        """The three headers that tell a client, and ``Retry-After`` when it has to wait."""
        told = {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(self.remaining),
            "X-RateLimit-Reset": str(self.reset),
        }
        return told | {"Retry-After": str(self.reset)} if self.is_over else told


class _Breaker:
    """When Redis may be asked again on behalf of requests that do not depend on it."""

    closed_until = 0.0


def may_ask() -> bool:
    """Whether Redis is worth asking: it did not fail within the last second."""
    return time.monotonic() >= _Breaker.closed_until


def count(request: HttpRequest, *, group: str, value: str, rate: str) -> Usage:
    """Count one more use of ``value`` in ``group`` against a rate such as ``10/m``.

    Not safe to repeat. The request remembers its tightest usage for the answer's headers. Raises
    ``NotCounted``.
    """
    try:
        found = get_usage(
            request, group=group, key=lambda _group, _request: value, rate=rate, increment=True
        )
    except (RedisError, OSError) as error:
        _Breaker.closed_until = time.monotonic() + RETRY_SECONDS
        log.warning("requests are not counted: %s", type(error).__name__)
        raise NotCounted from error
    if found is None or found["time_left"] < 0:
        raise NotCounted
    usage = Usage(found["limit"], found["count"], found["time_left"] + 1)
    remember(request, usage)
    return usage


def remember(request: Any, usage: Usage) -> None:
    """Keep the usage on Django's request (under DRF's, if need be) if it is the tightest so far."""
    request = getattr(request, "_request", request)
    earlier: Usage | None = getattr(request, "rate_usage", None)
    if earlier is None or (usage.remaining, -usage.reset) < (earlier.remaining, -earlier.reset):
        request.rate_usage = usage
