"""The sharing dialog: what it says, and what it saves."""

import html

import pytest
from django.test import Client

from billing import services as billing
from conversations import services
from tests.conversations.sharing.conftest import READ_ONLY, REPOSITORY, STEERED


def read(client, conversation):
    return html.unescape(client.get(f"/conversations/{conversation.pk}/details").content.decode())


@pytest.fixture
def page(alice):
    client = Client()
    client.force_login(alice)
    return client


@pytest.fixture
def reader(bob):
    client = Client()
    client.force_login(bob)
    return client


def test_dialog_names_everything_that_a_steerer_reaches(equipped, page):
    conversation = services.create_conversation(user=equipped, title="x", repository=REPOSITORY)

    text = read(page, conversation)

    for name in ("OWN", "BOTH", "SHARED", "own", "lent"):
        assert f"<code>{name}</code>" in text
    assert "your token for github" in text
    assert "your 1 MCP server with their keys" in text
    assert "your search key" in text
    assert "whose calls you pay for" in text
    assert "cannot be recalled" in text
    assert "Sec-" not in text


def test_dialog_says_that_the_organization_lends_no_model(equipped, page):
    billing.clear_model_access(organization_id=equipped.personal_organization.pk, user_id=None)
    conversation = services.create_conversation(user=equipped, title="x")

    assert "there is none, so the agent cannot work" in read(page, conversation)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"circle": "read"}, ("organization", False, False)),
        ({"circle": "steer"}, ("organization", True, False)),
        ({"circle": "steer", "lends_personal": "1"}, ("organization", True, True)),
        ({"circle": "private"}, ("private", False, False)),
    ],
)
def test_form_saves_the_choice(alice, page, data, expected):
    conversation = services.create_conversation(user=alice, title="x", **STEERED)

    path = f"/conversations/{conversation.pk}/details"
    assert page.post(path, {"intent": "sharing"} | data).status_code == 302

    conversation.refresh_from_db()
    row = conversation
    assert (row.visibility, row.others_may_steer, row.lends_personal) == expected


def test_contradiction_is_explained(alice, page):
    conversation = services.create_conversation(user=alice, title="x")

    path = f"/conversations/{conversation.pk}/details"
    data = {"intent": "sharing", "circle": "read", "lends_personal": "1"}
    response = page.post(path, data)

    assert response.status_code == 400
    assert "applies only to a conversation that others may steer" in response.content.decode()


def test_reader_sees_the_state_and_cannot_change_it(alice, reader):
    conversation = services.create_conversation(user=alice, title="x", **READ_ONLY)

    assert "shared with you read-only" in read(reader, conversation)
    path = f"/conversations/{conversation.pk}/details"
    response = reader.post(path, {"intent": "sharing", "circle": "steer"})

    assert response.status_code == 403
    conversation.refresh_from_db()
    assert conversation.others_may_steer is False


def test_administrators_set_the_model_of_the_organization(alice, page, reader):
    path = f"/settings/model/{alice.personal_organization.pk}"
    data = {"base_url": "https://m.example.com/v1", "model": "lent-1", "intent": "save"}

    assert reader.post(path, data).status_code == 403
    assert page.post(path, data).status_code == 302
    assert "lends" in page.get(path).content.decode()
    access = billing.get_model_access(organization_id=alice.personal_organization.pk, user_id=None)
    assert access.model == "lent-1"
    assert page.post(path, {"intent": "demo"}).status_code == 302
    assert (
        billing.get_model_access(organization_id=alice.personal_organization.pk, user_id=None)
        is None
    )
