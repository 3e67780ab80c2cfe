"""Credentials and the resume position in the handshake of a V0 socket."""

from urllib.parse import urlencode

import pytest
from socketio.exceptions import ConnectionRefusedError as ConnectionRefused

from accounts import services as accounts
from compat.v0 import handshake
from conversations.realtime.access import MayNotSteer
from conversations.services import conversation_key
from tests.factories.conversations import ConversationFactory

pytestmark = pytest.mark.django_db


def build_scope(conversation, **query):
    query = {"conversation_id": conversation.pk.hex} | query
    return {"headers": [], "query_string": urlencode(query).encode(), "client": ("127.0.0.1", 1)}


def join(scope):
    """Return the watcher of a handshake, as the socket does."""
    watcher = handshake.read_watcher(scope)
    handshake.raise_refusal(scope, watcher, watcher.check_access_now())
    return watcher


def admit(scope):
    watcher = join(scope)
    return watcher.user_id, watcher.conversation_id


def test_conversation_key_joins_its_own_conversation_only(alice, conversation):
    key = conversation_key(conversation=conversation, user=alice)
    other = ConversationFactory(created_by=alice)

    assert admit(build_scope(conversation, session_api_key=key)) == (alice.pk, conversation.pk)
    with pytest.raises(ConnectionRefused, match="is not allowed to join"):
        join(build_scope(other, session_api_key=key))


def test_viewer_joins_but_is_refused_commands(alice, bob, conversation):
    conversation.visibility = "organization"
    conversation.save()
    bob.memberships.update(role="viewer")
    scope = build_scope(
        conversation, session_api_key=conversation_key(conversation=conversation, user=bob)
    )

    assert admit(scope) == (bob.pk, conversation.pk)
    with pytest.raises(MayNotSteer), join(scope).authorized_command():
        pytest.fail("a viewer was allowed to steer")


def build_cursor_scope(latest_event_id):
    return {
        "headers": [],
        "query_string": urlencode({"latest_event_id": latest_event_id}).encode(),
    }


@pytest.mark.parametrize(
    ("latest_event_id", "after"),
    [("-1", 0), ("7", 7), (" 7 ", 7), ("-5", 0), ("", 0), ("null", 0), ("undefined", 0)],
)
def test_latest_event_id_is_the_resume_position(latest_event_id, after):
    assert handshake.parse_cursor(build_cursor_scope(latest_event_id)) == after


@pytest.mark.parametrize(
    "latest_event_id", ["x", "1.5", "9" * 30, "²", "--1", "-", "1e3", "0x1", "\0", "NaN"]
)
def test_malformed_latest_event_id_is_refused_and_named(latest_event_id):
    with pytest.raises(ConnectionRefused) as refused:
        handshake.parse_cursor(build_cursor_scope(latest_event_id))
    assert refused.value.error_args["message"].startswith("latest_event_id: Send ")


@pytest.mark.parametrize("query", [{}, {"conversation_id": ""}])
def test_missing_conversation_id_is_refused_with_openhands_message(query):
    scope = {"headers": [], "query_string": urlencode(query).encode()}

    with pytest.raises(ConnectionRefused) as refused:
        join(scope)
    assert refused.value.error_args == {"message": "No conversation_id in query params"}


@pytest.mark.parametrize("key", ["", "null", "undefined", "None", " "])
def test_empty_key_counts_as_no_credentials(conversation, key):
    with pytest.raises(ConnectionRefused, match="No keycloak_auth cookie"):
        join(build_scope(conversation, session_api_key=key))


@pytest.mark.parametrize("key", ["ocs_x.y", "oh_x.y", "x"])
def test_invalid_key_is_refused_with_openhands_code(conversation, key):
    with pytest.raises(ConnectionRefused) as refused:
        join(build_scope(conversation, session_api_key=key))
    assert refused.value.error_args == {"message": "invalid_session_api_key"}


def test_api_key_in_the_query_joins_like_a_conversation_key(alice, conversation):
    _, key = accounts.issue_api_key(user=alice, name="v0")

    assert admit(build_scope(conversation, session_api_key=key)) == (alice.pk, conversation.pk)


def test_key_in_the_header_precedes_the_key_in_the_query(alice, conversation):
    key = conversation_key(conversation=conversation, user=alice)
    scope = build_scope(conversation, session_api_key="x")

    assert admit(scope | {"headers": [(b"x-session-api-key", key.encode())]})[0] == alice.pk


@pytest.mark.parametrize("conversation_id", ["x", "0" * 32, "y" * 300])
def test_unknown_or_malformed_id_is_refused_and_named(alice, conversation, conversation_id):
    _, key = accounts.issue_api_key(user=alice, name="v0")
    scope = build_scope(conversation, conversation_id=conversation_id, session_api_key=key)

    with pytest.raises(ConnectionRefused) as refused:
        join(scope)
    sentence = f"User {alice.pk} is not allowed to join conversation {conversation_id[:100]}"
    assert refused.value.error_args == {"message": sentence}


def test_last_of_repeated_parameters_counts():
    scope = {"query_string": b"a=1&a=2&b=%C3%A9&c=%ff"}

    assert handshake.parse_query(scope) == {"a": "2", "b": "é", "c": "\ufffd"}
