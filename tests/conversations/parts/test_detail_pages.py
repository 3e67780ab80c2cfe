import re

import pytest

from conversations.models import Conversation, Feedback, ShareLink


@pytest.fixture
def alice_client(client, alice):
    client.force_login(alice)
    return client


@pytest.fixture
def details(story):
    return f"/conversations/{story.pk}/details"


def test_share_link_is_shown_once_and_opens_until_it_is_revoked(
    alice_client, client, story, details
):
    response = alice_client.post(details, {"intent": "share", "days": "7"})

    address = re.search(r'href="[^"]*(/shared/[\w-]+)" data-made', response.text)[1]
    assert client.get(address).status_code == 200
    again = alice_client.get(details)
    assert again.status_code == 200
    assert "Revoke" in again.text
    assert address not in again.text

    alice_client.post(details, {"intent": "revoke", "share": ShareLink.objects.get().pk})
    assert client.get(address).status_code == 404


def test_tags_and_confirmation_settings_are_changed_by_forms(alice_client, story, details):
    alice_client.post(details, {"intent": "tags", "tags": "b, a,,b"})
    alice_client.post(details, {"intent": "confirmation", "policy": "always", "analyzer": "none"})

    story.refresh_from_db()
    assert story.tags == ["a", "b"]
    assert (story.confirmation_policy, story.security_analyzer) == ("always", "none")


@pytest.mark.parametrize(
    "form",
    [
        {"intent": "share", "days": "9999"},
        {"intent": "tags", "tags": "x" * 60},
        {"intent": "confirmation", "policy": "x", "analyzer": "llm"},
    ],
)
def test_invalid_form_shows_an_error(alice_client, details, form):
    assert 'class="field-error"' in alice_client.post(details, form, follow=True).text


def test_conversation_is_rated_forked_and_archived_by_forms(alice_client, story):
    base = f"/conversations/{story.pk}"
    alice_client.post(f"{base}/feedback", {"seq": "4", "good": "yes"})
    forked = alice_client.post(f"{base}/fork")
    alice_client.post(f"{base}/archive")

    fork = Conversation.objects.get(parent=story)
    assert forked.headers["Location"] == f"/conversations/{fork.pk}"
    assert (Feedback.objects.get().seq, Feedback.objects.get().rating) == (4, 5)
    home = alice_client.get("/")
    assert home.status_code == 200
    assert str(fork.pk) in home.text
    assert str(story.pk) not in home.text
    assert str(story.pk) in alice_client.get("/?archived=1").text
    alice_client.post(f"{base}/unarchive")
    assert str(story.pk) in alice_client.get("/").text


def test_search_on_home_marks_matches_or_says_that_there_are_none(alice_client, story):
    matching = alice_client.get("/", {"q": "begun"})
    empty = alice_client.get("/", {"q": "<b>zebra"})

    assert "Results for “&lt;b&gt;zebra”" in empty.text
    assert "<mark>begun</mark>" in matching.text
    assert "No conversation matches “&lt;b&gt;zebra”." in empty.text
    assert "data-prompt" not in empty.text


def test_teammate_sees_no_form_for_links_and_may_not_create_them(client, bob, story, details):
    story.visibility = "organization"
    story.save()
    client.force_login(bob)

    response = client.get(details)
    assert response.status_code == 200
    assert "Create link" not in response.text
    assert (
        "Only the creator"
        in client.post(details, {"intent": "share", "days": "1"}, follow=True).text
    )
    assert not ShareLink.objects.exists()


def test_stranger_gets_404_for_the_details(client, charlie, details):
    client.force_login(charlie)

    assert client.get(details).status_code == 404
