import re

import pytest

from conversations.models import Conversation, Feedback, ShareLink


@pytest.fixture
def page(client, alice):
    client.force_login(alice)
    return client


@pytest.fixture
def details(story):
    return f"/conversations/{story.pk}/details"


def test_a_link_is_shown_once_and_opens(page, client, story, details):
    made = page.post(details, {"intent": "share", "days": "7"})

    address = re.search(r'href="[^"]*(/shared/[\w-]+)" data-made', made.text)[1]
    assert client.get(address).status_code == 200
    assert address not in page.get(details).text

    page.post(details, {"intent": "revoke", "share": ShareLink.objects.get().pk})
    assert client.get(address).status_code == 404


def test_tags_and_questions_are_changed_by_forms(page, story, details):
    page.post(details, {"intent": "tags", "tags": "b, a,,b"})
    page.post(details, {"intent": "confirmation", "policy": "always", "analyzer": "none"})

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
def test_what_makes_no_sense_is_said(page, details, form):
    assert 'class="notice error"' in page.post(details, form, follow=True).text


def test_forking_archiving_and_rating_by_forms(page, story):
    base = f"/conversations/{story.pk}"
    page.post(f"{base}/feedback", {"seq": "4", "good": "yes"})
    forked = page.post(f"{base}/fork")
    page.post(f"{base}/archive")

    fork = Conversation.objects.get(parent=story)
    assert forked.headers["Location"] == f"/conversations/{fork.pk}"
    assert (Feedback.objects.get().seq, Feedback.objects.get().rating) == (4, 5)
    assert str(story.pk) not in page.get("/").text
    assert str(story.pk) in page.get("/?archived=1").text
    page.post(f"{base}/unarchive")
    assert str(story.pk) in page.get("/").text


def test_the_home_page_finds_and_marks(page, story):
    found = page.get("/", {"q": "begun"})
    nothing = page.get("/", {"q": "<b>zebra"})

    assert "Results for “&lt;b&gt;zebra”" in nothing.text
    assert "<mark>begun</mark>" in found.text
    assert "No conversation matches “&lt;b&gt;zebra”." in nothing.text
    assert "data-prompt" not in nothing.text


def test_a_teammate_sees_no_form_that_makes_links(client, bob, story, details):
    story.visibility = "organization"
    story.save()
    client.force_login(bob)

    assert "Create link" not in client.get(details).text
    assert (
        "Only the creator"
        in client.post(details, {"intent": "share", "days": "1"}, follow=True).text
    )
    assert not ShareLink.objects.exists()


def test_a_stranger_finds_nothing(client, charlie, details):
    client.force_login(charlie)

    assert client.get(details).status_code == 404
