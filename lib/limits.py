"""Counting of requests in Redis, over all processes: exactly by ``django-ratelimit``, or in small blocks."""

import hashlib
import logging
import threading
import time
from dataclasses import dataclass
from typing import Any

from django.core.cache import cache
from django.http import HttpRequest
from django_ratelimit.core import get_usage
from redis.exceptions import RedisError

log = logging.getLogger(__name__)
RETRY_SECONDS = 1.0
"""After Redis failed, requests that may pass uncounted do not wait for it during this time."""
BLOCKS = 200
"""A process reserves this part of a limit at a time: a limit of 1,200 costs one call to Redis for six requests."""
REMEMBERED = 20_000
"""Counters of which a process keeps its reserved part."""
_PERIODS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
"""Seconds of the units that a rate names, as in ``10/m``."""


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
    """Return whether Redis is worth asking: it did not fail within the last ``RETRY_SECONDS``."""
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


@dataclass(slots=True)
class _Block:
    """What this process has taken of one counter: ``free`` uses up to the ``top``-th; ended at ``until``."""

    until: int
    top: int = 0
    free: int = 0


_blocks: dict[str, _Block] = {}
_taking = threading.Lock()


def forget() -> None:
    """Ask Redis anew about every counter."""
    with _taking:
        _blocks.clear()


def count_ahead(request: HttpRequest, *, group: str, value: str, rate: str) -> Usage:
    """Like ``count``, but uses are taken from Redis in blocks of a two-hundredth of the limit.

    Never more than the limit passes, over all processes. What a process took and did not use is lost to the
    others until the window ends, so up to half a percent less passes for each of them. Raises ``NotCounted``.
    """
    amount, _, period = rate.partition("/")
    limit, seconds = int(amount), _PERIODS[period[-1]] * int(period[:-1] or 1)
    key = f"{group}{rate}|{value}"
    usage = _taken(key, limit) or _from_redis(key, limit, seconds)
    remember(request, usage)
    return usage


def _taken(key: str, limit: int) -> Usage | None:
    """One use of the block that is at hand, if there is one."""
    now = time.time()
    with _taking:
        block = _blocks.get(key)
        if block is None or block.until <= now:
            return None
        if not block.free:
            return None
        block.free -= 1
        return Usage(limit, block.top - block.free, int(block.until - now) + 1)


def _from_redis(key: str, limit: int, seconds: int) -> Usage:
    now = time.time()
    name = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:32]
    offset = int(name[:8], 16) % seconds  # windows of different callers do not end all at once
    until = int(now) - (int(now) - offset) % seconds + seconds
    size = max(1, limit // BLOCKS)
    try:
        cache.add(f"limit|{name}|{until}", 0, seconds + 5)
        top = cache.incr(f"limit|{name}|{until}", size)
    except (RedisError, OSError, ValueError) as error:  # ValueError: it lapsed between the two
        _Breaker.closed_until = time.monotonic() + RETRY_SECONDS
        log.warning("requests are not counted: %s", type(error).__name__)
        raise NotCounted from error
    usable = min(size, limit - (top - size))
    reset = int(until - now) + 1
    with _taking:
        if len(_blocks) >= REMEMBERED:
            _drop_ended(now)
        block = _blocks.get(key)
        if block is None or block.until != until:
            block = _blocks[key] = _Block(until)
        if usable <= 0:
            return Usage(limit, limit + 1, reset)
        block.top = max(block.top, top - size + usable)
        block.free += usable - 1
        return Usage(limit, block.top - block.free, reset)


def _drop_ended(now: float) -> None:
    kept = {key: block for key, block in _blocks.items() if block.until > now}
    _blocks.clear()
    if len(kept) < REMEMBERED:  # else somebody invents callers: their blocks are small
        _blocks.update(kept)


def remember(request: Any, usage: Usage) -> None:
    """Keep the usage on Django's request (under DRF's, if need be) if it is the tightest so far."""
    request = getattr(request, "_request", request)
    earlier: Usage | None = getattr(request, "rate_usage", None)
    if earlier is None or (usage.remaining, -usage.reset) < (earlier.remaining, -earlier.reset):
        request.rate_usage = usage
