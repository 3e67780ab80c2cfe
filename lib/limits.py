"""Counters for rate limits in Redis, shared by all processes.

``count`` calls Redis for every use (with ``django-ratelimit``). ``count_in_blocks`` and ``count_amount`` reserve
several uses per call.
"""

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

from lib.causes import REDIS_UNREACHABLE, Cause, describe, find_cause
from lib.logs import once_a_minute

log = logging.getLogger(__name__)
RETRY_SECONDS = 1.0
"""For this time after a failure of Redis, requests that need no exact count do not wait for Redis."""
BLOCKS = 200
"""A process reserves 1/``BLOCKS`` of a limit at a time. A limit of 1,200 needs one call to Redis per six requests."""
MAX_BLOCKS = 20_000
"""The maximum number of counters for which a process keeps a block."""
_PERIODS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
"""Seconds of the units that a rate names, as in ``10/m``."""


class NotCounted(Exception):
    """Redis failed, so it is unknown whether the limit is reached. The message is the cause, a sentence for clients."""


@dataclass(frozen=True)
class Usage:
    """The usage of a limit. ``reset`` is the number of seconds until the counter starts at 0 again."""

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
        """Return the ``X-RateLimit-…`` headers, and ``Retry-After`` if the limit is exceeded."""
        headers = {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(self.remaining),
            "X-RateLimit-Reset": str(self.reset),
        }
        return headers | {"Retry-After": str(self.reset)} if self.is_over else headers


class _Breaker:
    """A circuit breaker: until ``open_until``, requests that need no exact count skip Redis."""

    open_until = 0.0


def is_redis_available() -> bool:
    """Return True if the last failure of Redis is at least ``RETRY_SECONDS`` ago, or if Redis never failed."""
    return time.monotonic() >= _Breaker.open_until


def _handle_failure(error: Exception) -> Cause:
    """Log why Redis failed, at most once a minute, and open the circuit breaker. Return the cause."""
    _Breaker.open_until = time.monotonic() + RETRY_SECONDS
    cause = find_cause(error) or REDIS_UNREACHABLE
    message = f"Rate limits cannot be checked. {describe(cause, error)}"
    once_a_minute(log, logging.WARNING, cause.code, message)
    return cause


def count(request: HttpRequest, *, group: str, value: str, rate: str) -> Usage:
    """Count one use of ``value`` in ``group`` against a rate such as ``10/m``, and return the usage.

    Not safe to repeat: each call counts. The usage is stored on the request for the response's headers. Raise
    ``NotCounted`` if Redis does not respond.
    """
    try:
        result = get_usage(
            request, group=group, key=lambda _group, _request: value, rate=rate, increment=True
        )
    except (RedisError, OSError) as error:
        raise NotCounted(_handle_failure(error).sentence) from error
    # This is how django-ratelimit reports a cache that failed without an exception.
    if result is None or result["time_left"] < 0:
        raise NotCounted(REDIS_UNREACHABLE.sentence)
    usage = Usage(result["limit"], result["count"], result["time_left"] + 1)
    remember(request, usage)
    return usage


@dataclass(slots=True)
class _Block:
    """The uses of one counter that this process has reserved.

    The block ends with the ``top``-th use of the counter, ``free`` uses of it are left, and it expires at ``until``
    (Unix time).
    """

    until: int
    top: int = 0
    free: int = 0


_blocks: dict[str, _Block] = {}
_blocks_lock = threading.Lock()


def drop_blocks() -> None:
    """Drop the reserved blocks of this process, so that the next use of every counter calls Redis."""
    with _blocks_lock:
        _blocks.clear()


def count_in_blocks(request: HttpRequest, *, group: str, value: str, rate: str) -> Usage:
    """Count one use as ``count`` does, but reserve blocks of uses in Redis, each 1/``BLOCKS`` of the limit.

    All processes together never exceed the limit. Uses that a process reserved but did not need are lost until the
    window ends, so each process may lower the limit by up to 0.5 %. Raise ``NotCounted`` if Redis does not respond.
    """
    # In ``10/5m``, the period is five minutes. In ``10/m``, it is one minute.
    amount, _, period = rate.partition("/")
    limit, seconds = int(amount), _PERIODS[period[-1]] * int(period[:-1] or 1)
    key = f"{group}{rate}|{value}"
    usage = _count_in_block(key, limit) or _reserve_block(key, limit, seconds)
    remember(request, usage)
    return usage


def _count_in_block(key: str, limit: int, amount: int = 1) -> Usage | None:
    """Use ``amount`` of the reserved uses of a counter. Return None if fewer are left."""
    now = time.time()
    with _blocks_lock:
        block = _blocks.get(key)
        if block is None or block.until <= now:
            return None
        if block.free < amount:
            return None
        block.free -= amount
        return Usage(limit, block.top - block.free, int(block.until - now) + 1)


def _reserve_block(key: str, limit: int, seconds: int, amount: int = 1) -> Usage:
    """Reserve a block of uses of a counter in Redis, and use ``amount`` of them, or none if the limit is reached."""
    now = time.time()
    name = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:32]
    # Each counter's window starts at another time, so that not all windows end together.
    offset = int(name[:8], 16) % seconds
    until = int(now) - (int(now) - offset) % seconds + seconds
    size = max(amount, limit // BLOCKS)
    counter = f"limit|{name}|{until}"
    try:
        # ``add`` creates the counter only if it does not exist. The counter expires shortly after its window.
        cache.add(counter, 0, seconds + 5)
        top = cache.incr(counter, size)
    except (
        RedisError,
        OSError,
        ValueError,
    ) as error:  # ValueError: the key expired between the calls
        raise NotCounted(_handle_failure(error).sentence) from error
    # Before this call the counter was at ``top - size``. Only uses below the limit are usable.
    usable = min(size, limit - (top - size))
    reset = int(until - now) + 1
    with _blocks_lock:
        if len(_blocks) >= MAX_BLOCKS:
            _drop_expired_blocks(now)
        block = _blocks.get(key)
        if block is None or block.until != until:
            block = _blocks[key] = _Block(until)
        if usable > 0 and block.free + usable >= amount:
            block.top = max(block.top, top - size + usable)
            block.free += usable - amount
            return Usage(limit, block.top - block.free, reset)
    if amount > 1:
        _give_back(counter, size)
    return Usage(limit, limit + 1, reset)


def _give_back(counter: str, size: int) -> None:
    """Return reserved uses to a counter, so that a smaller amount may still fit."""
    try:
        cache.decr(counter, size)
    except (RedisError, OSError, ValueError) as error:
        _handle_failure(error)


def _drop_expired_blocks(now: float) -> None:
    current = {key: block for key, block in _blocks.items() if block.until > now}
    _blocks.clear()
    # If still too many are left, drop all: memory stays bounded, and only their unused uses are lost.
    if len(current) < MAX_BLOCKS:
        _blocks.update(current)


def count_amount(*, group: str, value: str, amount: int, limit: int, seconds: int) -> Usage | None:
    """Count ``amount`` units of ``value`` in ``group`` in windows of ``seconds``, and return the usage.

    Units are reserved in blocks, as ``count_in_blocks`` does. An amount that exceeds the limit is not counted, so a
    later, smaller amount may still fit. Return None if Redis does not respond: the amount is then not limited.
    """
    if not is_redis_available():
        return None
    key = f"{group}{limit}/{seconds}|{value}"
    try:
        return _count_in_block(key, limit, amount) or _reserve_block(key, limit, seconds, amount)
    except NotCounted:
        return None


def remember(request: Any, usage: Usage) -> None:
    """Store a usage on the request. If a usage stored earlier leaves fewer uses, keep the earlier one.

    The response's headers report the stored usage. The request is Django's or DRF's.
    """
    request = getattr(request, "_request", request)
    earlier: Usage | None = getattr(request, "rate_usage", None)
    if earlier is None or (usage.remaining, -usage.reset) < (earlier.remaining, -earlier.reset):
        request.rate_usage = usage
