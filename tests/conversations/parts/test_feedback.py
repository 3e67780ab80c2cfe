from datetime import timedelta

import pytest
from django.utils import timezone

from conversations.models import Feedback
from tests.conftest import key_client


def build_url(conversation, seq=4):
    return f"/api/v1/conversations/{conversation.pk}/events/{seq}/feedback"


def test_rating_is_stored_and_read_back(api, story):
    rating = {"rating": 4, "reason": "good ✓", "metadata": {"client": "x"}}

    response = api.put(build_url(story), rating, format="json")

    assert response.status_code == 200
    assert response.json() == {
        "seq": 4,
        **rating,
        "created_at": response.json()["created_at"],
        "updated_at": response.json()["updated_at"],
    }
    assert api.get(build_url(story)).json() == response.json()


def test_new_rating_replaces_the_earlier_rating(api, story):
    api.put(build_url(story), {"rating": 1, "reason": "bad"}, format="json")
    Feedback.objects.update(created_at=timezone.now() - timedelta(days=1))

    api.put(build_url(story), {"rating": 5}, format="json")

    row = Feedback.objects.get()
    assert (row.rating, row.reason) == (5, "")
    assert row.created_at < row.updated_at


def test_every_user_has_a_separate_rating(api, bob, story):
    story.visibility = "organization"
    story.save()
    api.put(build_url(story), {"rating": 1}, format="json")
    other = key_client(bob, organization=story.organization)

    other.put(build_url(story), {"rating": 5}, format="json")

    ratings = api.get(f"/api/v1/conversations/{story.pk}/feedback").json()["items"]
    assert [(one["seq"], one["rating"]) for one in ratings] == [(4, 1)]
    assert Feedback.objects.count() == 2


def test_ratings_are_listed_in_the_order_of_the_log(api, story):
    for seq in (8, 1, 4):
        api.put(build_url(story, seq), {"rating": 3}, format="json")

    ratings = api.get(f"/api/v1/conversations/{story.pk}/feedback").json()["items"]

    assert [one["seq"] for one in ratings] == [1, 4, 8]


def test_deletion_of_a_rating_can_be_repeated(api, story):
    api.put(build_url(story), {"rating": 3}, format="json")

    assert [api.delete(build_url(story)).status_code for _ in range(2)] == [204, 204]
    assert api.get(build_url(story)).json()["rating"] is None


@pytest.mark.parametrize(
    "rating",
    [
        {},
        {"rating": 0},
        {"rating": 6},
        {"rating": 3, "metadata": {"x": "y" * 5_000}},
        {"rating": 3, "metadata": {"x": "a\0b"}},
        {"rating": 3, "reason": "a\0b"},
    ],
)
def test_invalid_rating_is_refused(api, story, rating):
    assert api.put(build_url(story), rating, format="json").status_code == 400


def test_rating_of_an_unknown_event_gets_404(api, story):
    for seq in (0, 11, 2**62):
        assert api.put(build_url(story, seq), {"rating": 3}, format="json").status_code == 404
        assert api.get(build_url(story, seq)).status_code == 404
