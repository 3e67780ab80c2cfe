"""Keys to one conversation: whose they are, what ends them, and that they open nothing else."""

import pytest
from django.test import Client

from accounts import services as accounts
from accounts.models import UserSession
from accounts.services import organizations, sessions
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


def known_by_key(user, **fields):
    """The user as a request with an API key has it, and the key."""
    row, token = accounts.issue_api_key(user=user, name="x", **fields)
    return accounts.authenticate_api_key(token).user, row


def known_by_session(rf, user):
    """The user as a browser's request has it."""
    client = Client()
    client.force_login(user)
    request = rf.get("/")
    request.session = client.session
    return get_session_user(request)


def holder(token):
    found = services.authenticate_conversation_key(token)
    return found and (found[0].pk, found[1].pk)


def test_a_key_names_its_user_and_conversation_and_is_the_same_every_time(conversation, alice, rf):
    users = [alice, known_by_key(alice)[0], known_by_session(rf, alice)]
    tokens = [services.conversation_key(conversation=conversation, user=user) for user in users]

    assert tokens == [services.conversation_key(conversation=conversation, user=u) for u in users]
    assert len(set(tokens)) == 3
    assert [holder(token) for token in tokens] == [(alice.pk, conversation.pk)] * 3


def test_a_key_shows_one_conversation_and_may_do_four_things(conversation, alice):
    ConversationFactory(created_by=alice)

    user, _ = services.authenticate_conversation_key(
        services.conversation_key(conversation=conversation, user=alice)
    )

    assert list(Conversation.objects.visible_to(user)) == [conversation]
    assert user.key_scopes == SCOPES


def test_a_key_shown_to_an_api_key_may_do_no_more_than_it(conversation, alice):
    program, _ = known_by_key(alice, scopes=["conversations.view"])

    user, _ = services.authenticate_conversation_key(
        services.conversation_key(conversation=conversation, user=program)
    )

    assert user.key_scopes == {"conversations.view"}


def test_a_key_shown_to_an_api_key_works_from_its_networks_only(conversation, alice):
    _, token = accounts.issue_api_key(user=alice, name="x", allowed_networks=["10.0.0.0/8"])
    program = accounts.authenticate_api_key(token, address="10.1.1.1").user
    key = services.conversation_key(conversation=conversation, user=program)

    assert services.authenticate_conversation_key(key, address="10.2.2.2")
    assert services.authenticate_conversation_key(key, address="192.0.2.1") is None
    assert services.authenticate_conversation_key(key) is None


def test_no_other_text_is_a_key(conversation, alice):
    key = services.conversation_key(conversation=conversation, user=alice)
    other = ConversationFactory(created_by=alice)
    head, _, mac = key.partition(".")
    of_other = services.conversation_key(conversation=other, user=alice)

    for odd in (
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
        assert services.authenticate_conversation_key(odd) is None, odd


class TestEnds:
    def test_with_the_sign_in(self, conversation, alice, rf):
        user = known_by_session(rf, alice)
        key = services.conversation_key(conversation=conversation, user=user)
        assert holder(key)

        sessions.end_session(session=UserSession.objects.get(user=alice), reason="signed out")

        assert holder(key) is None

    def test_with_the_api_key(self, conversation, alice):
        user, row = known_by_key(alice)
        key = services.conversation_key(conversation=conversation, user=user)
        assert holder(key)

        accounts.revoke_api_key(key=row)

        assert holder(key) is None

    @pytest.mark.parametrize("by", ["session", "token"])
    def test_with_a_new_password(self, conversation, alice, rf, by):
        user = known_by_session(rf, alice) if by == "session" else alice
        key = services.conversation_key(conversation=conversation, user=user)
        assert holder(key)

        alice.set_password("another long password")
        alice.save()

        assert holder(key) is None

    def test_for_everybody_by_rotation(self, conversation, alice):
        key = services.conversation_key(conversation=conversation, user=alice)

        rotated = services.rotate_keys(conversation_id=conversation.pk)

        assert holder(key) is None
        assert holder(services.conversation_key(conversation=rotated, user=alice))

    def test_with_a_change_of_who_may_see_it(self, conversation, alice):
        key = services.conversation_key(conversation=conversation, user=alice)

        services.set_visibility(conversation_id=conversation.pk, visibility="organization")

        assert holder(key) is None

    def test_with_membership(self, alice):
        team = organizations.create_organization(user=alice, name="Team")
        bob = UserFactory()
        _, link = organizations.invite(organization=team, by=alice, role="member")
        organizations.accept_invitation(user=bob, token=link.rpartition("/")[2])
        shared = ConversationFactory(created_by=alice, organization=team, visibility="organization")
        key = services.conversation_key(conversation=shared, user=bob)
        assert holder(key) == (bob.pk, shared.pk)

        organizations.remove_member(organization=team, by=alice, user_id=bob.pk)

        assert holder(key) is None

    def test_with_the_user_and_with_the_conversation(self, conversation, alice, bob):
        theirs = ConversationFactory(created_by=bob)
        keys = [
            services.conversation_key(conversation=row, user=user)
            for row, user in ((conversation, alice), (theirs, bob))
        ]
        accounts.suspend_user(user=alice)
        Conversation.objects.filter(pk=theirs.pk).update(deleted_at=theirs.created_at)

        assert [holder(key) for key in keys] == [None, None]


def test_making_a_key_asks_nothing_of_the_database(conversation, alice, django_assert_num_queries):
    with django_assert_num_queries(0):
        services.conversation_key(conversation=conversation, user=alice)
