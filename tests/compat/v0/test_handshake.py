"""Credentials and the resume position in the handshake of a V0 socket."""

from urllib.parse import urlencode

import pytest
from socketio.exceptions import ConnectionRefusedError as ConnectionRefused

from compat.v0 import handshake
from compat.v0.sockets import parse_cursor
from conversations.realtime.access import MayNotSteer
from conversations.services import conversation_key
from tests.factories.conversations import ConversationFactory

pytestmark = pytest.mark.django_db


def build_scope(conversation, **query):
    query = {"conversation_id": conversation.pk.hex} | query
    return {"headers": [], "query_string": urlencode(query).encode(), "client": ("127.0.0.1", 1)}


def admit(scope):
    watcher = handshake.admit(scope)
    return watcher.user_id, watcher.conversation_id


def test_conversation_key_joins_its_own_conversation_only(alice, conversation):
    key = conversation_key(conversation=conversation, user=alice)
    other = ConversationFactory(created_by=alice)

    assert admit(build_scope(conversation, session_api_key=key)) == (alice.pk, conversation.pk)
    with pytest.raises(ConnectionRefused, match="is not allowed to join"):
        handshake.admit(build_scope(other, session_api_key=key))


def test_viewer_joins_but_is_refused_commands(alice, bob, conversation):
    conversation.visibility = "organization"
    conversation.save()
    bob.memberships.update(role="viewer")
    scope = build_scope(
        conversation, session_api_key=conversation_key(conversation=conversation, user=bob)
    )

    assert admit(scope) == (bob.pk, conversation.pk)
    with pytest.raises(MayNotSteer), handshake.admit(scope).authorized_command():
        pytest.fail("a viewer was allowed to steer")


@pytest.mark.parametrize(
    ("latest_event_id", "after"),
    [("-1", 0), ("7", 7), ("", 0), ("x", 0), ("1.5", 0), ("9" * 30, 0), ("²", 0)],
)
def test_invalid_latest_event_id_resumes_from_the_start(latest_event_id, after):
    assert (
        parse_cursor(
            {
                "headers": [],
                "query_string": urlencode({"latest_event_id": latest_event_id}).encode(),
            }
        )
        == after
    )
