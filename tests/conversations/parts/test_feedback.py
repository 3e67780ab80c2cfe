from datetime import timedelta

import pytest
from django.utils import timezone

from conversations.models import Feedback
from tests.conftest import key_client


def url(conversation, seq=4):
    return f"/api/v1/conversations/{conversation.pk}/events/{seq}/feedback"


def test_a_word_is_kept_and_read_back(api, story):
    said = {"rating": 4, "reason": "good ✓", "metadata": {"client": "x"}}

    given = api.put(url(story), said, format="json")

    assert given.status_code == 200
    assert given.json() == {
        "seq": 4,
        **said,
        "created_at": given.json()["created_at"],
        "updated_at": given.json()["updated_at"],
    }
    assert api.get(url(story)).json() == given.json()


def test_the_newest_word_counts(api, story):
    api.put(url(story), {"rating": 1, "reason": "bad"}, format="json")
    Feedback.objects.update(created_at=timezone.now() - timedelta(days=1))

    api.put(url(story), {"rating": 5}, format="json")

    row = Feedback.objects.get()
    assert (row.rating, row.reason) == (5, "")
    assert row.created_at < row.updated_at


def test_everybody_has_a_word_of_their_own(api, bob, story):
    story.visibility = "organization"
    story.save()
    api.put(url(story), {"rating": 1}, format="json")
    other = key_client(bob, organization=story.organization)

    other.put(url(story), {"rating": 5}, format="json")

    listed = api.get(f"/api/v1/conversations/{story.pk}/feedback").json()["items"]
    assert [(one["seq"], one["rating"]) for one in listed] == [(4, 1)]
    assert Feedback.objects.count() == 2


def test_all_words_come_in_the_order_of_the_log(api, story):
    for seq in (8, 1, 4):
        api.put(url(story, seq), {"rating": 3}, format="json")

    listed = api.get(f"/api/v1/conversations/{story.pk}/feedback").json()["items"]

    assert [one["seq"] for one in listed] == [1, 4, 8]


def test_taking_back_can_be_repeated(api, story):
    api.put(url(story), {"rating": 3}, format="json")

    assert [api.delete(url(story)).status_code for _ in range(2)] == [204, 204]
    assert api.get(url(story)).json()["rating"] is None


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"rating": 0},
        {"rating": 6},
        {"rating": 3, "metadata": {"x": "y" * 5_000}},
        {"rating": 3, "metadata": {"x": "a\0b"}},
        {"rating": 3, "reason": "a\0b"},
    ],
)
def test_what_cannot_be_kept_is_refused(api, story, said):
    assert api.put(url(story), said, format="json").status_code == 400


def test_there_must_be_such_an_event(api, story):
    for seq in (0, 11, 2**62):
        assert api.put(url(story, seq), {"rating": 3}, format="json").status_code == 404
        assert api.get(url(story, seq)).status_code == 404
