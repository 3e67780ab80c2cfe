"""The time after which a model server may be called again, as its response headers state it."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MAX_SECONDS = 86_400
LIMIT_STATUSES = (429, 503)
"""The statuses for which headers about rate limits say when to try again."""
_NUMBER = re.compile(r"[0-9]{1,30}(\.[0-9]{0,30})?")
_DURATION = re.compile(
    r"(?:([0-9]{1,9})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m(?!s))?"
    r"(?:([0-9]{1,9}(?:\.[0-9]{1,9})?)s)?(?:([0-9]{1,9}(?:\.[0-9]{1,9})?)ms)?"
)
_FACTORS = (86_400.0, 3_600.0, 60.0, 1.0, 0.001)
_RESET = re.compile(r"(?:[a-z]+-)*ratelimit-(?:reset(?:-[a-z-]+)?|[a-z-]+-reset)")
"""``x-ratelimit-reset-tokens`` (OpenAI, Azure, Groq), ``x-ratelimit-reset`` (OpenRouter), ``ratelimit-reset``, and
``anthropic-ratelimit-tokens-reset``."""


def parse_retry_after(
    headers: Mapping[str, str], *, status: int = 429, now: datetime | None = None
) -> str:
    """Return the seconds to wait that a response's headers name, rounded up; an empty text if they name none.

    ``Retry-After`` is a number of seconds or a date in one of the three forms of RFC 9110 (sections 10.2.3 and 5.6.7);
    some servers send a fraction, a unit, a date of ISO 8601 or a Unix time. OpenAI's and Azure's servers also send
    ``retry-after-ms``, which is more exact. Without both, the headers about rate limits apply to ``LIMIT_STATUSES``.
    The result is at most ``MAX_SECONDS``.
    """
    at = now or datetime.now(UTC)
    milliseconds = headers.get("retry-after-ms", "").strip()
    if _NUMBER.fullmatch(milliseconds) and float(milliseconds):
        return format_seconds(float(milliseconds) / 1000)
    seconds = _parse(headers.get("retry-after", ""), at)
    if seconds is None and status in LIMIT_STATUSES:
        seconds = _find_reset(headers, at)
    return "" if seconds is None else format_seconds(seconds)


def format_seconds(seconds: float) -> str:
    """Return a number of seconds as ``Retry-After`` has it: whole, not negative, and at most ``MAX_SECONDS``."""
    return str(min(max(math.ceil(seconds), 0), MAX_SECONDS))


def parse_duration(text: str) -> float | None:
    """Return the seconds of a text such as ``34.07s``, ``6m0s`` or ``200ms``; None for any other text."""
    match = _DURATION.fullmatch(text) if text else None
    if match is None:
        return None
    parts = zip(match.groups(), _FACTORS, strict=True)
    return sum(float(number) * factor for number, factor in parts if number)


def _find_reset(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds until the exceeded limits are reset; of all limits if none is known to be exceeded."""
    times: list[tuple[bool, float]] = []
    for name in headers:
        if _RESET.fullmatch(name.lower()):
            seconds = _parse(headers[name], now)
            remaining = headers.get(name.lower().replace("reset", "remaining"), "").strip()
            if seconds is not None:
                times.append((remaining in ("0", "0.0"), seconds))
    exhausted = [seconds for is_exhausted, seconds in times if is_exhausted]
    return max(exhausted or [seconds for _, seconds in times], default=None)


def _parse(text: str, now: datetime) -> float | None:
    text = text.strip()
    first = text.partition(",")[0].strip()
    if _NUMBER.fullmatch(first):  # a header that a proxy doubled has two numbers
        number = float(first)
        if number >= 1e12:  # a Unix time in milliseconds
            return number / 1000 - now.timestamp()
        return number - now.timestamp() if number >= 1e9 else number
    if (seconds := parse_duration(first)) is not None:
        return seconds
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        try:
            date = parsedate_to_datetime(text)
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
    # The obsolete form of asctime() has no zone; RFC 9110 says that it is UTC.
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return (date - now).total_seconds()
