"""The query string of a V1 socket: from which place of the log events are sent again."""

from dataclasses import dataclass
from datetime import datetime
from urllib.parse import parse_qs

from compat.v1.base import Unprocessable
from lib.times import parse_time

YES = frozenset({"true", "1", "yes", "on", "t", "y"})
NO = frozenset({"false", "0", "no", "off", "f", "n"})
MODES = ("all", "since")
"""The values of ``resend_mode``, as in openhands-agent-server 1.58.2."""


@dataclass(frozen=True, slots=True)
class Resending:
    """The earlier events that a client asks for: all, those since a moment, or none."""

    is_all: bool = False
    since: datetime | None = None


def parse_query(text: str) -> dict[str, str]:
    """Return the parameters of a query string. The last value of a repeated parameter counts, as in REST."""
    return {name: values[-1] for name, values in parse_qs(text, keep_blank_values=True).items()}


def parse_resending(query: dict[str, str]) -> Resending:
    """Return what a V1 socket's parameters ask for.

    ``resend_mode`` has precedence over ``resend_all``. ``after_timestamp`` alone means ``since``. Raise
    ``Unprocessable`` for a value that is not valid and for ``since`` without a time.
    """
    mode, flag = query.get("resend_mode"), query.get("resend_all")
    if mode is not None and mode not in MODES:
        raise Unprocessable("resend_mode: Send `all` or `since`, or leave it out.")
    if flag is not None and flag.lower() not in YES | NO:
        raise Unprocessable("resend_all: Send true or false.")
    since = None
    if (text := query.get("after_timestamp")) is not None:
        try:
            since = parse_time(text)
        except ValueError as error:
            raise Unprocessable(
                "after_timestamp: This is not a time. Send a time such as 2026-11-29T10:00:00Z."
            ) from error
    if mode == "since" and since is None:
        raise Unprocessable("after_timestamp: `resend_mode=since` needs this time.")
    if mode is None and flag is not None and flag.lower() in YES:
        mode = "all"
    return Resending(is_all=mode == "all", since=None if mode == "all" else since)
