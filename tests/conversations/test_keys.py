"""Conversation keys: their user, their scopes, and the events that end them."""

import pytest
from django.test import Client

from accounts import services as accounts
from accounts.models import UserSession
from accounts.services import invitations, organizations, sessions
from accounts.sign_in.browser_sessions import get_session_user
from conversations import services
from conversations.models import Conversation
from conversations.services.keys import SCOPES
from tests.factories.accounts import UserFactory
from tests.factories.conversations import ConversationFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def conversation(alice):
    return ConversationFactory(created_by=alice)


def authenticate_by_key(user, **fields):
    """Return the user of a request with a new API key, and the row of the key."""
    row, token = accounts.issue_api_key(user=user, name="x", **fields)
    return accounts.authenticate_api_key(token).user, row


def authenticate_by_session(rf, user):
    """Return the user of a request with a new browser session."""
    client = Client()
    client.force_login(user)
    request = rf.get("/")
    request.session = client.session
    return get_session_user(request)


def find_holder(token):
    """Return the ids of the key's user and conversation, or None if the key is invalid."""
    match = services.authenticate_conversation_key(token)
    return match and (match[0].pk, match[1].pk)


def test_key_is_deterministic_and_identifies_its_user_and_conversation(conversation, alice, rf):
    users = [alice, authenticate_by_key(alice)[0], authenticate_by_session(rf, alice)]
    tokens = [services.conversation_key(conversation=conversation, user=user) for user in users]

    assert tokens == [services.conversation_key(conversation=conversation, user=u) for u in users]
    assert len(set(tokens)) == 3
    assert [find_holder(token) for token in tokens] == [(alice.pk, conversation.pk)] * 3


def test_key_opens_one_conversation_with_fixed_scopes(conversation, alice):
    ConversationFactory(created_by=alice)

    user, _ = services.authenticate_conversation_key(
        services.conversation_key(conversation=conversation, user=alice)
    )

    assert list(Conversation.objects.visible_to(user)) == [conversation]
    assert user.key_scopes == SCOPES


def test_key_issued_to_an_api_key_has_no_more_scopes_than_the_api_key(conversation, alice):
    program, _ = authenticate_by_key(alice, scopes=["conversations.view"])

    user, _ = services.authenticate_conversation_key(
        services.conversation_key(conversation=conversation, user=program)
    )

    assert user.key_scopes == {"conversations.view"}


def test_key_issued_to_an_api_key_is_valid_only_in_the_networks_of_the_api_key(conversation, alice):
    _, token = accounts.issue_api_key(user=alice, name="x", allowed_networks=["10.0.0.0/8"])
    program = accounts.authenticate_api_key(token, address="10.1.1.1").user
    key = services.conversation_key(conversation=conversation, user=program)

    assert services.authenticate_conversation_key(key, address="10.2.2.2")
    assert services.authenticate_conversation_key(key, address="192.0.2.1") is None
    assert services.authenticate_conversation_key(key) is None


def test_malformed_or_altered_key_is_refused(conversation, alice):
    key = services.conversation_key(conversation=conversation, user=alice)
    other = ConversationFactory(created_by=alice)
    head, _, mac = key.partition(".")
    of_other = services.conversation_key(conversation=other, user=alice)

    assert services.authenticate_conversation_key(key)
    for text in (
        "",
        "null",
        "ocs_",
        "ocs_.",
        head,
        f"{head}.",
        f"{head}.{mac[:-1]}",
        f"{head}.{mac[:-1]}{'0' if mac[-1] != '0' else '1'}",
        f"{of_other.partition('.')[0]}.{mac}",
        key.removeprefix("ocs_"),
        key.replace("ocs_", "oh_"),
        "ocs_" + "é" * 44 + "." + mac,
        "\0",
    ):
        assert services.authenticate_conversation_key(text) is None, text


class TestEndOfKey:
    def test_key_ends_with_the_session(self, conversation, alice, rf):
        user = authenticate_by_session(rf, alice)
        key = services.conversation_key(conversation=conversation, user=user)
        assert find_holder(key)

        sessions.end_session(session=UserSession.objects.get(user=alice), reason="signed out")

        assert find_holder(key) is None

    def test_key_ends_with_the_api_key(self, conversation, alice):
        user, row = authenticate_by_key(alice)
        key = services.conversation_key(conversation=conversation, user=user)
        assert find_holder(key)

        accounts.revoke_api_key(key=row)

        assert find_holder(key) is None

    @pytest.mark.parametrize("by", ["session", "token"])
    def test_key_ends_with_a_new_password(self, conversation, alice, rf, by):
        user = authenticate_by_session(rf, alice) if by == "session" else alice
        key = services.conversation_key(conversation=conversation, user=user)
        assert find_holder(key)

        alice.set_password("another long password")
        alice.save()

        assert find_holder(key) is None

    def test_key_ends_with_the_rotation_of_the_conversations_keys(self, conversation, alice):
        key = services.conversation_key(conversation=conversation, user=alice)
        assert find_holder(key)

        rotated = services.rotate_keys(conversation_id=conversation.pk)

        assert find_holder(key) is None
        assert find_holder(services.conversation_key(conversation=rotated, user=alice))

    def test_key_ends_when_the_visibility_changes(self, conversation, alice):
        key = services.conversation_key(conversation=conversation, user=alice)
        assert find_holder(key)

        services.set_sharing(
            conversation_id=conversation.pk, by=conversation.created_by, visibility="organization"
        )

        assert find_holder(key) is None

    def test_key_ends_with_the_membership(self, alice):
        team = organizations.create_organization(user=alice, name="Team")
        bob = UserFactory()
        _, link = invitations.invite(organization=team, by=alice, role="member")
        invitations.accept_invitation(user=bob, token=link.rpartition("/")[2])
        shared = ConversationFactory(created_by=alice, organization=team, visibility="organization")
        key = services.conversation_key(conversation=shared, user=bob)
        assert find_holder(key) == (bob.pk, shared.pk)

        organizations.remove_member(organization=team, by=alice, user_id=bob.pk)

        assert find_holder(key) is None

    def test_key_ends_when_its_user_is_suspended_or_its_conversation_deleted(
        self, conversation, alice, bob
    ):
        conversation_of_bob = ConversationFactory(created_by=bob)
        keys = [
            services.conversation_key(conversation=row, user=user)
            for row, user in ((conversation, alice), (conversation_of_bob, bob))
        ]
        assert [find_holder(key) for key in keys] == [
            (alice.pk, conversation.pk),
            (bob.pk, conversation_of_bob.pk),
        ]

        accounts.suspend_user(user=alice)
        Conversation.objects.filter(pk=conversation_of_bob.pk).update(
            deleted_at=conversation_of_bob.created_at
        )

        assert [find_holder(key) for key in keys] == [None, None]


def test_key_is_built_without_a_query(conversation, alice, django_assert_num_queries):
    with django_assert_num_queries(0):
        services.conversation_key(conversation=conversation, user=alice)
