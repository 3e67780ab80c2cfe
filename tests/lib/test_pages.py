"""Cursors and pages of lists."""

import base64
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest

from accounts.models import Organization
from lib.pages import MalformedCursor, Position, cut_page, page, parse_cursor

NOON = datetime(2026, 11, 29, 12, 0, 0, 123456, tzinfo=UTC)
POSITIONS = [Position(NOON, UUID(int=number)) for number in range(5)]


def test_cursor_is_parsed_to_its_position():
    assert parse_cursor(POSITIONS[3].cursor) == POSITIONS[3]


def test_cursor_of_another_time_zone_is_parsed_to_the_same_moment():
    noon_in_tokyo = NOON.astimezone(timezone(timedelta(hours=9)))

    assert parse_cursor(Position(noon_in_tokyo, UUID(int=1)).cursor) == Position(NOON, UUID(int=1))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "|",
        "2026-11-29",
        f"|{UUID(int=1)}",
        f"99999-01-01|{UUID(int=1)}",
        f"0001-01-01T00:00:00+23:59|{UUID(int=1)}",
        f"{NOON.isoformat()}|1",
    ],
)
def test_other_text_is_a_malformed_cursor(text):
    with pytest.raises(MalformedCursor):
        parse_cursor(base64.urlsafe_b64encode(text.encode()).decode())


@pytest.mark.parametrize("cursor", ["A", "\0", "é", "____"])
def test_text_that_is_not_base64_of_utf8_is_a_malformed_cursor(cursor):
    with pytest.raises(MalformedCursor):
        parse_cursor(cursor)


def test_cut_page_returns_a_cursor_only_if_rows_follow():
    assert cut_page(POSITIONS, 5, lambda position: position) == (POSITIONS, None)
    assert cut_page(POSITIONS, 2, lambda position: position) == (POSITIONS[:2], POSITIONS[1].cursor)


@pytest.mark.django_db
@pytest.mark.parametrize("is_descending", [True, False])
def test_pages_of_rows_with_equal_times_have_no_gaps(is_descending):
    organizations = [Organization.objects.create(name=f"n{number}") for number in range(5)]
    rows = Organization.objects.filter(name__startswith="n")
    rows.update(created_at=NOON)
    rows.filter(pk=organizations[0].pk).update(created_at=NOON + timedelta(seconds=1))

    read_rows, cursor = page(rows, limit=2, is_descending=is_descending)
    while cursor:
        next_rows, cursor = page(
            rows, limit=2, after=parse_cursor(cursor), is_descending=is_descending
        )
        read_rows += next_rows

    expected = [*sorted(row.pk for row in organizations[1:]), organizations[0].pk]
    assert [row.pk for row in read_rows] == (expected[::-1] if is_descending else expected)
