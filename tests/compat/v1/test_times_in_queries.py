"""Times in the query strings of all compatibility routes: every usual spelling is read, and a word is refused."""

import pytest

from conversations.models import Conversation
from tests.conversations.conftest import ingest, make_frame

pytestmark = pytest.mark.django_db
EARLY = (
    "2000-01-01T00:00:00+00:00",  # without percent-encoding: the plus arrives as a space
    "2000-01-01T00:00:00%2B00:00",
    "2000-01-01T00:00:00Z",
    "2000-01-01T00:00:00",
    "2000-01-01T00:00:00.123456789Z",
    "2000-01-01",
)
ROUTES = (
    "/api/v1/app-conversations/count?created_at__gte=",
    "/api/v1/app-conversations/count?updated_at__gte=",
    "/api/v1/app-conversations/start-tasks/count?created_at__gte=",
    "/api/v1/events/count?timestamp__gte=",
    "/api/conversations/{id}/events?start_date=",
    "/api/conversations/{id}/events/count?timestamp__gte=",
)


@pytest.mark.parametrize("time", EARLY)
@pytest.mark.parametrize("route", ROUTES)
def test_time_is_read_as_intended(api, running, route, time):
    ingest(running, make_frame(0))

    response = api.get(route.format(id=running.pk) + time)

    body = response.json()
    assert response.status_code == 200, body
    assert body == 1 if isinstance(body, int) else body["events"]


@pytest.mark.parametrize("time", ["yesterday", "1764410400", "2026-02-30", "", "%ff"])
@pytest.mark.parametrize("route", ROUTES)
def test_word_is_refused_by_name(api, conversation, route, time):
    response = api.get(route.format(id=conversation.pk) + time)

    name = route.rpartition("?")[2].rstrip("=")
    assert response.status_code == 422, response.content
    assert response.json()["error"].startswith(f"{name}: ")
    assert Conversation.objects.exists()
