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
from tests.conversations.parts.conftest import KEY, add_agent_message, add_event


def post_share(api, conversation, **body):
    body = {"expires_at": (timezone.now() + timedelta(days=1)).isoformat()} | body
    return api.post(f"/api/v1/conversations/{conversation.pk}/shares", body, format="json")


@pytest.fixture
def link(api, story):
    """Return the record of a link to the first eight events."""
    response = post_share(api, story, through_seq=8)
    assert response.status_code == 201, response.content
    return response.json()


@pytest.fixture
def anonymous_client():
    return APIClient()


def read_statuses(anonymous_client, link):
    """Return the response statuses of the three addresses of a link."""
    paths = ("/api/v1/shared/{token}", "/api/v1/shared/{token}/events", "/shared/{token}")
    return [anonymous_client.get(path.format(**link)).status_code for path in paths]


def test_token_is_returned_once_and_not_stored(api, story, link):
    shares = api.get(f"/api/v1/conversations/{story.pk}/shares").json()["items"]

    assert len(link["token"]) >= 40
    assert link["url"].endswith(f"/shared/{link['token']}")
    assert shares == [{k: v for k, v in link.items() if k not in ("token", "url")}]
    row = ShareLink.objects.values().get()
    assert link["token"] not in json.dumps(row, default=str)


def test_anonymous_client_reads_up_to_the_pinned_event_without_secrets(
    anonymous_client, story, link
):
    record = anonymous_client.get(f"/api/v1/shared/{link['token']}")
    events = anonymous_client.get(f"/api/v1/shared/{link['token']}/events")

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


def test_shared_events_are_read_in_pages(anonymous_client, link):
    seqs, after = [], 0
    while after is not None:
        page = anonymous_client.get(
            f"/api/v1/shared/{link['token']}/events", {"after": after, "limit": 3}
        ).json()
        seqs += [event["seq"] for event in page["items"]]
        after = page["next"]

    assert seqs == list(range(1, 9))


def test_events_after_the_pinned_event_are_not_shown(anonymous_client, story, link):
    add_agent_message(story, "said after the link was made")

    page = b"".join(anonymous_client.get(f"/shared/{link['token']}")).decode()

    assert "I have begun" in page
    assert KEY not in page
    assert "Later" not in page
    assert "said after" not in page


def test_link_without_a_pinned_event_ends_with_the_newest_event(api, story):
    assert post_share(api, story).json()["through_seq"] == 10


def test_state_updates_of_the_engine_are_not_shown(anonymous_client, api, story):
    add_event(story, "ConversationStateUpdateEvent", {"value": {"base_url": "http://10.0.0.1"}})
    token = post_share(api, story).json()["token"]

    response = anonymous_client.get(f"/api/v1/shared/{token}/events")
    assert [event["seq"] for event in response.json()["items"]] == list(range(1, 11))
    assert "10.0.0.1" not in response.text


def test_shared_page_has_a_strict_content_policy(anonymous_client, link):
    response = anonymous_client.get(f"/shared/{link['token']}")

    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "sandbox allow-scripts" in policy
    assert "unsafe" not in policy
    assert response.headers["X-Robots-Tag"] == "noindex, nofollow"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert response.headers["Cache-Control"] == "no-store"


def test_revoked_link_gets_404(api, anonymous_client, story, link):
    assert read_statuses(anonymous_client, link) == [200, 200, 200]
    path = f"/api/v1/conversations/{story.pk}/shares/{link['id']}"

    assert [api.delete(path).status_code for _ in range(2)] == [200, 200]

    assert read_statuses(anonymous_client, link) == [404, 404, 404]


@pytest.mark.parametrize(
    "end",
    [
        "link expired",
        "conversation deleted",
        "organization suspended",
        "links disabled",
        "token changed",
    ],
)
def test_ended_or_changed_link_gets_404(end, anonymous_client, story, link, settings):
    assert read_statuses(anonymous_client, link) == [200, 200, 200]
    if end == "link expired":
        ShareLink.objects.update(expires_at=timezone.now())
    elif end == "conversation deleted":
        services.delete_conversation(conversation_id=story.pk)
    elif end == "organization suspended":
        Organization.objects.update(suspended_at=timezone.now())
    elif end == "links disabled":
        settings.PUBLIC_LINKS = False
    else:
        link["token"] = link["token"][:-1] + ("A" if link["token"][-1] != "A" else "B")

    assert read_statuses(anonymous_client, link) == [404, 404, 404]


def test_views_are_counted_and_stored_by_network(api, anonymous_client, story, link):
    anonymous_client.get(f"/shared/{link['token']}", REMOTE_ADDR="203.0.113.77")
    anonymous_client.get(f"/api/v1/shared/{link['token']}", REMOTE_ADDR="2001:db8:1:2:3::4")
    anonymous_client.get(f"/api/v1/shared/{link['token']}/events")

    base = f"/api/v1/conversations/{story.pk}/shares"
    views = api.get(f"{base}/{link['id']}/views").json()["items"]
    assert [view["network"] for view in views] == ["2001:db8:1::/48", "203.0.113.0/24"]
    assert api.get(base).json()["items"][0]["view_count"] == 2
    assert "203.0.113.77" not in str(list(ShareView.objects.values()))


@pytest.mark.parametrize(
    ("address", "network"),
    [("::ffff:192.0.2.9", "192.0.2.0/24"), ("fe80::1%eth0", "fe80::/48"), ("", ""), ("unix", "")],
)
def test_address_is_masked_to_its_network(address, network):
    assert mask_address(address) == network


def test_oldest_views_beyond_the_limit_are_removed(api, story, link, monkeypatch):
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
def test_invalid_link_is_refused(api, story, body):
    assert post_share(api, story, **body).status_code == 400


def test_teammate_may_not_create_a_link(bob, story):
    story.visibility = "organization"
    story.save()

    refused = post_share(key_client(bob, organization=story.organization), story)

    assert (refused.status_code, refused.json()["code"]) == (403, "not-yours")


def test_link_is_refused_if_public_links_are_disabled(api, story, settings):
    settings.PUBLIC_LINKS = False

    refused = post_share(api, story)

    assert (refused.status_code, refused.json()["code"]) == (403, "sharing-forbidden")


def test_link_gets_404_when_its_creator_leaves_the_organization(
    story, link, anonymous_client, alice
):
    assert read_statuses(anonymous_client, link) == [200, 200, 200]

    alice.memberships.filter(organization=story.organization).delete()

    assert read_statuses(anonymous_client, link) == [404, 404, 404]
