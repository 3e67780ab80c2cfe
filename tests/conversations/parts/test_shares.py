import json
from datetime import timedelta

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from accounts.models import Organization
from conversations import services
from conversations.models import ShareLink, ShareView
from conversations.services.shares import mask_address
from lib.redaction import HIDDEN
from tests.conftest import key_client
from tests.conversations.parts.conftest import KEY, answer


def make(api, conversation, **body):
    body = {"expires_at": (timezone.now() + timedelta(days=1)).isoformat()} | body
    return api.post(f"/api/v1/conversations/{conversation.pk}/shares", body, format="json")


@pytest.fixture
def link(api, story):
    """A link to the first eight events."""
    response = make(api, story, through_seq=8)
    assert response.status_code == 201, response.content
    return response.json()


@pytest.fixture
def anybody():
    return APIClient()


def seen(anybody, link):
    """The statuses of the three addresses of a link."""
    paths = ("/api/v1/shared/{token}", "/api/v1/shared/{token}/events", "/shared/{token}")
    return [anybody.get(path.format(**link)).status_code for path in paths]


def test_the_token_is_told_once_and_kept_nowhere(api, story, link):
    listed = api.get(f"/api/v1/conversations/{story.pk}/shares").json()["items"]

    assert len(link["token"]) >= 40
    assert link["url"].endswith(f"/shared/{link['token']}")
    assert listed == [{k: v for k, v in link.items() if k not in ("token", "url")}]
    row = ShareLink.objects.values().get()
    assert link["token"] not in json.dumps(row, default=str)


def test_anybody_reads_up_to_the_pinned_event_without_secrets(anybody, story, link):
    record = anybody.get(f"/api/v1/shared/{link['token']}")
    events = anybody.get(f"/api/v1/shared/{link['token']}/events")

    assert record.json() == {
        "title": story.title,
        "model": "demo",
        "repository": None,
        "created_at": record.json()["created_at"],
        "last_seq": 8,
        "expires_at": link["expires_at"],
    }
    assert [event["seq"] for event in events.json()["items"]] == list(range(1, 9))
    assert (events.json()["next"], events.json()["last_seq"]) == (None, 8)
    assert KEY not in events.text
    assert HIDDEN in events.text
    for response in (record, events):
        assert response.headers["X-Robots-Tag"] == "noindex, nofollow"
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert response.headers["Cache-Control"] == "no-store"


def test_events_come_in_pages(anybody, link):
    seqs, after = [], 0
    while after is not None:
        page = anybody.get(
            f"/api/v1/shared/{link['token']}/events", {"after": after, "limit": 3}
        ).json()
        seqs += [event["seq"] for event in page["items"]]
        after = page["next"]

    assert seqs == list(range(1, 9))


def test_what_comes_later_is_never_shown(anybody, story, link):
    answer(story, "said after the link was made")

    page = b"".join(anybody.get(f"/shared/{link['token']}")).decode()

    assert "I have begun" in page
    assert KEY not in page
    assert "Later" not in page
    assert "said after" not in page


def test_by_default_the_link_ends_with_the_newest_event(api, story):
    assert make(api, story).json()["through_seq"] == 10


def test_housekeeping_of_the_engine_is_not_shown(anybody, api, story):
    from tests.conversations.parts.conftest import add

    add(story, "ConversationStateUpdateEvent", {"value": {"base_url": "http://10.0.0.1"}})
    token = make(api, story).json()["token"]

    assert "10.0.0.1" not in anybody.get(f"/api/v1/shared/{token}/events").text


def test_the_page_is_only_itself(anybody, link):
    response = anybody.get(f"/shared/{link['token']}")

    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "sandbox allow-scripts" in policy
    assert "unsafe" not in policy
    assert response.headers["X-Robots-Tag"] == "noindex, nofollow"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert response.headers["Cache-Control"] == "no-store"


def test_revoked_it_is_gone(api, anybody, story, link):
    assert seen(anybody, link) == [200, 200, 200]
    path = f"/api/v1/conversations/{story.pk}/shares/{link['id']}"

    assert [api.delete(path).status_code for _ in range(2)] == [200, 200]

    assert seen(anybody, link) == [404, 404, 404]


@pytest.mark.parametrize("how", ["expired", "deleted", "suspended", "switched off", "changed"])
def test_it_is_gone_when(how, anybody, story, link, settings):
    if how == "expired":
        ShareLink.objects.update(expires_at=timezone.now())
    elif how == "deleted":
        services.delete_conversation(conversation_id=story.pk)
    elif how == "suspended":
        Organization.objects.update(suspended_at=timezone.now())
    elif how == "switched off":
        settings.PUBLIC_LINKS = False
    else:
        link["token"] = link["token"][:-1] + ("A" if link["token"][-1] != "A" else "B")

    assert seen(anybody, link) == [404, 404, 404]


def test_views_are_counted_by_network(api, anybody, story, link):
    anybody.get(f"/shared/{link['token']}", REMOTE_ADDR="203.0.113.77")
    anybody.get(f"/api/v1/shared/{link['token']}", REMOTE_ADDR="2001:db8:1:2:3::4")
    anybody.get(f"/api/v1/shared/{link['token']}/events")

    base = f"/api/v1/conversations/{story.pk}/shares"
    views = api.get(f"{base}/{link['id']}/views").json()["items"]
    assert [view["network"] for view in views] == ["2001:db8:1::/48", "203.0.113.0/24"]
    assert api.get(base).json()["items"][0]["view_count"] == 2
    assert "203.0.113.77" not in str(list(ShareView.objects.values()))


@pytest.mark.parametrize(
    ("address", "network"),
    [("::ffff:192.0.2.9", "192.0.2.0/24"), ("fe80::1%eth0", "fe80::/48"), ("", ""), ("unix", "")],
)
def test_networks_name_no_person(address, network):
    assert mask_address(address) == network


def test_old_views_make_room(api, story, link, monkeypatch):
    monkeypatch.setattr("conversations.services.shares.MAX_VIEWS", 5)
    share = ShareLink.objects.get()
    for _ in range(8):
        services.count_view(share=share, address="")
    share.view_count = 100

    services.count_view(share=share, address="")

    assert ShareView.objects.count() == 5


@pytest.mark.parametrize(
    "body",
    [
        {"expires_at": "2020-01-01T00:00:00Z"},
        {"expires_at": "2999-01-01T00:00:00Z"},
        {"expires_at": None},
        {"through_seq": 11},
        {"through_seq": 0},
    ],
)
def test_links_that_make_no_sense_are_refused(api, story, body):
    assert make(api, story, **body).status_code == 400


def test_only_its_creator_makes_links(bob, story):
    story.visibility = "organization"
    story.save()

    refused = make(key_client(bob, organization=story.organization), story)

    assert (refused.status_code, refused.json()["code"]) == (403, "not-yours")


def test_the_server_may_forbid_them(api, story, settings):
    settings.PUBLIC_LINKS = False

    refused = make(api, story)

    assert (refused.status_code, refused.json()["code"]) == (403, "sharing-forbidden")


def test_a_link_ends_when_its_maker_leaves_the_organization(story, link, anybody, alice):
    assert seen(anybody, link) == [200, 200, 200]

    alice.memberships.filter(organization=story.organization).delete()

    assert seen(anybody, link) == [404, 404, 404]
