"""Times as clients write them in URLs and JSON."""

import re
from datetime import UTC, datetime, timedelta, timezone

_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)"
    r"(?:[Tt ](\d\d:\d\d(?::\d\d)?)(?:[.,](\d{1,30}))?"
    r"(?: ?([Zz])| ?([-+ ])(\d\d)(?::?(\d\d))?)?)?",
    re.ASCII,
)


def parse_time(text: str) -> datetime:
    """Return the moment in a text in UTC. Raise ``ValueError`` if the text is not a time.

    The form is ISO 8601: a date, or a date and a time with or without fractions and offset. A time without an offset is
    in UTC, and a date begins at midnight. Digits after the microseconds are dropped. In a query string a ``+`` that was
    not percent-encoded arrives as a space, so a space before the offset stands for a plus (WHATWG URL, section 5.1).
    Ruby and Go write another space before the sign.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError("not a time")
    day, clock, fraction, _, sign, hours, minutes = match.groups()
    moment = datetime.fromisoformat(f"{day}T{clock or '00:00'}")
    moment = moment.replace(microsecond=int((fraction or "0")[:6].ljust(6, "0")))
    offset = timedelta()
    if hours:
        if int(hours) > 23 or int(minutes or 0) > 59:
            raise ValueError("not an offset")
        offset = timedelta(hours=int(hours), minutes=int(minutes or 0))
    zone = timezone(-offset if sign == "-" else offset)
    try:
        return moment.replace(tzinfo=zone).astimezone(UTC)
    except OverflowError as error:  # within a day of the years 1 and 9999
        raise ValueError("not a time") from error
