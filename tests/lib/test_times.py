"""Parsing of times as clients write them."""

from datetime import UTC, datetime

import pytest

from lib.times import parse_time

TEN = datetime(2026, 11, 29, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-29T10:00:00+00:00",
        "2026-11-29T10:00:00 00:00",  # a plus that was not percent-encoded
        "2026-11-29T10:00:00Z",
        "2026-11-29t10:00:00z",
        "2026-11-29T10:00:00",
        "2026-11-29 10:00:00",
        "2026-11-29T10:00",
        "2026-11-29T12:00:00 02:00",
        "2026-11-29T12:00:00+0200",
        "2026-11-29T12:00:00 02",
        "2026-11-29T04:30:00-05:30",
        "2026-11-29T10:00:00.000000Z",
        "2026-11-29T10:00:00.000000999Z",
        "2026-11-29T10:00:00,0",
        " 2026-11-29T10:00:00Z ",
        "2026-11-29 10:00:00 +0000",  # Ruby and Go
        "2026-11-29 12:00:00 +02:00",
        "2026-11-29 10:00:00  0000",
        "2026-11-29 10:00:00 Z",
    ],
)
def test_spellings_of_one_moment(text):
    assert parse_time(text) == TEN


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-29", datetime(2026, 11, 29, tzinfo=UTC)),
        ("2026-11-29T10:00:00.5Z", TEN.replace(microsecond=500_000)),
        ("2026-11-29T10:00:00.123 01:00", datetime(2026, 11, 29, 9, 0, 0, 123_000, UTC)),
        ("0001-01-01", datetime(1, 1, 1, tzinfo=UTC)),
    ],
)
def test_dates_and_fractions(text, moment):
    assert parse_time(text) == moment


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "yesterday",
        "1764410400",
        "2026-13-01",
        "2026-02-30T00:00:00Z",
        "2026-11-29T25:00:00",
        "2026-11-29T10:00:60Z",
        "2026-11-29T10:00:00+24:00",
        "2026-11-29T10:00:00+01:60",
        "2026-11-29T10:00:00 UTC",
        "2026-11-29T10:00:00Z Z",
        "２０２６-11-29T10:00:00Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "0000-01-01",
        "2026-11-29T10:00:00\0",
        "2026-11-29T10:00:00." + "0" * 40,
    ],
)
def test_other_text_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        parse_time(text)
