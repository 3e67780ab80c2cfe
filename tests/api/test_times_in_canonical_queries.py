"""Times in query strings of the canonical API: every usual spelling is read, and a word is refused by name."""

from datetime import UTC, datetime, timedelta

import pytest

pytestmark = pytest.mark.django_db
ROUTES = ("usage/totals", "model-calls", "audit", "egress-decisions")
EARLIER = f"{datetime.now(UTC) - timedelta(days=2):%Y-%m-%d}"


@pytest.mark.parametrize(
    "end", ["T10:00:00+00:00", "T10:00:00%2B00:00", "T10:00:00Z", "+10:00:00", "T10:00:00", ""]
)
@pytest.mark.parametrize("route", ROUTES)
def test_time_is_read_as_intended(api, route, end):
    assert api.get(f"/api/v1/{route}?since={EARLIER}{end}").status_code == 200


@pytest.mark.parametrize("time", ["yesterday", "", "1764410400", "2026-02-30"])
@pytest.mark.parametrize("route", ROUTES)
def test_word_is_refused_by_name(api, route, time):
    response = api.get(f"/api/v1/{route}?since={time}")

    assert response.status_code == 400
    assert response.json()["detail"] == (
        "since: This is not a time. Send a time such as 2026-11-29T10:00:00Z."
    )
