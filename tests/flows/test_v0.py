"""A V0 client on the running server: chat, confirmation, stop, reconnect and refused connections."""

import time

import httpx2
import pytest
from websockets.exceptions import InvalidStatus

from tests.fakes.socket_io import Refused, V0Client, state_of
from tests.fakes.stack import Stack, Talk, figure

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]


def join(talk: Talk, *, after: int = -1, **more) -> V0Client:
    headers = {"Authorization": f"Bearer {talk.owner.key}"}
    return V0Client(talk.stack.url, talk.id.hex, after=after, headers=headers, **more)


@pytest.fixture(scope="module")
def talk(stack: Stack) -> Talk:
    """The conversation of all tests of this module. The last test deletes it."""
    return stack.owner.converse(title="V0", confirmation_policy="always")


@pytest.mark.slow
def test_v0_client_confirms_rejects_stops_and_reconnects_without_repeated_events(talk: Talk):
    with join(talk) as client:
        client.wait_state("awaiting_user_input", seconds=150)
        client.say("!run echo first > one.txt\n!finish Done.")
        client.wait_state("awaiting_user_confirmation")
        client.act("change_agent_state", agent_state="user_confirmed")
        client.wait_state("finished")
        while client.events and state_of(client.events[-1]) != "finished":
            client.read_for(0.2)

        client.say("!run touch two.txt\n!finish Done.")
        client.wait_state("awaiting_user_confirmation")
        client.act("change_agent_state", agent_state="user_rejected")
        client.wait(lambda event: event.get("observation") == "user_rejected")
        client.say("!run sleep 60\n!finish Done.")
        client.wait_state("awaiting_user_confirmation")
        client.act("change_agent_state", agent_state="user_confirmed")
        client.wait(lambda event: event.get("action") == "change_agent_state")
        client.wait(lambda event: state_of(event) == "running" and "id" in event)
        client.act("change_agent_state", agent_state="stopped")
        client.wait_state("paused")
        client.read_for(1)
        live = list(client.events)

    events = [event for event in live if "id" in event and not event.get("status_update")]
    middle = events[len(events) // 2]["id"]
    with join(talk, after=middle) as resumed, join(talk, path="/socket.io") as complete:
        resumed.wait_state("paused")
        complete.wait_state("paused")
        resumed.read_for(0.5)
        complete.read_for(0.5)

    ids = [event["id"] for event in events]
    assert ids == sorted(set(ids))
    texts = [
        e["args"]["content"]
        for e in events
        if e.get("action") == "message" and e["source"] == "user"
    ]
    assert len(texts) == 3
    observation = next(e for e in events if e.get("observation") == "run")
    action = next(e for e in events if e.get("action") == "run")
    assert (
        observation["cause"],
        observation["extras"]["metadata"]["exit_code"],
        observation["success"],
    ) == (
        action["id"],
        0,
        True,
    )
    assert resumed.ids == sorted(set(resumed.ids))
    assert min(resumed.ids) > middle
    not_states = [e for e in events if state_of(e) is None]
    assert [
        e for e in complete.events if state_of(e) is None and "id" in e and "timestamp" in e
    ] == not_states
    assert [e for e in resumed.events if state_of(e) is None and "timestamp" in e] == [
        e for e in not_states if e["id"] > middle
    ]
    assert [state_of(e) for e in complete.events if state_of(e)] == ["paused"]
    figure(
        "V0 client",
        events=len(ids),
        twice=len(ids) - len(set(ids)),
        after_reconnect=len(resumed.ids),
    )
    talk.compare_logs()


def read_refusal(talk: Talk, **more) -> str:
    with pytest.raises(Refused) as refused, V0Client(talk.stack.url, talk.id.hex, **more):
        pass
    return refused.value.args[0]["message"]


def test_refused_connection_names_the_reason(talk: Talk):
    url, owner, stranger = talk.stack.url, talk.owner, talk.stack.stranger
    origin = {"Origin": url}
    owner_headers = {"Authorization": f"Bearer {owner.key}"}
    stranger_headers = {"Authorization": f"Bearer {stranger.key}"}

    with pytest.raises(Refused) as without_id, V0Client(url, None, headers=owner_headers):
        pass
    with pytest.raises(Refused) as unknown_id, V0Client(url, "0" * 32, headers=owner_headers):
        pass

    assert without_id.value.args[0] == {"message": "No conversation_id in query params"}
    assert unknown_id.value.args[0]["message"].endswith(
        f"is not allowed to join conversation {'0' * 32}"
    )
    assert (
        read_refusal(talk, headers=origin)
        == "No keycloak_auth cookie or valid Authorization header"
    )
    assert read_refusal(talk, headers=origin, session_api_key="null").startswith("No keycloak_auth")
    assert (
        read_refusal(talk, headers=origin, session_api_key="ocs_x.y") == "invalid_session_api_key"
    )
    assert "is not allowed to join" in read_refusal(talk, headers=stranger_headers)


@pytest.mark.parametrize("headers", [{}, {"Origin": "http://evil.example"}, {"Origin": "null"}])
def test_socket_without_own_origin_is_403(talk: Talk, headers):
    with (
        pytest.raises(InvalidStatus) as refused,
        V0Client(talk.stack.url, talk.id.hex, headers=headers),
    ):
        pass

    assert refused.value.response.status_code == 403


def test_polling_transport_is_400_invalid_transport(talk: Talk):
    response = httpx2.get(
        f"{talk.stack.url}/socket.io/",
        params={"EIO": "4", "transport": "polling", "conversation_id": talk.id.hex},
        trust_env=False,
    )

    assert (response.status_code, response.json()) == (400, "Invalid transport")


def test_revoked_api_key_disconnects_sockets_of_its_conversation_keys(talk: Talk):
    stack = talk.stack
    created = stack.owner.call("POST", "api-keys", expect=201, json={"name": "soon revoked"}).json()
    response = httpx2.get(
        f"{stack.url}/api/conversations/{talk.id.hex}",
        headers={"Authorization": f"Bearer {created['key']}"},
        trust_env=False,
    )
    key = response.json()["session_api_key"]

    with V0Client(stack.url, talk.id.hex, session_api_key=key) as client:
        client.wait(state_of)
        client.say("!say hello")
        client.wait(lambda event: event.get("message") == "!say hello")
        stack.owner.call("DELETE", f"api-keys/{created['id']}", expect=204)
        began = time.monotonic()
        ended = client.wait_end()
        seconds = time.monotonic() - began

    assert ended == "disconnect"
    assert seconds < 5
    assert read_refusal(talk, session_api_key=key) == "invalid_session_api_key"
    figure("V0 socket after its key was revoked", seconds=round(seconds, 2))


def test_refused_action_gets_an_error_event_and_the_socket_stays_usable(talk: Talk):
    with join(talk) as client:
        client.wait(state_of)
        for action in (
            {"action": "run", "args": {"command": "id"}},
            {},
            [],
            "x",
            None,
            {"action": "message", "args": []},
        ):
            client.emit("oh_user_action", action)
            assert client.wait(lambda event: event.get("error") is True)["message"]
        client.act("change_agent_state", agent_state="user_confirmed")
        refusal = client.wait(lambda event: event.get("error") is True)
        client.emit(
            "oh_action", {"action": "message", "args": {"content": "!say by the older name"}}
        )
        message = client.wait(lambda event: event.get("message") == "!say by the older name")
        client.emit("nothing_we_know", {"a": 1})
        client.say("!say still here")
        client.wait(lambda event: event.get("message") == "!say still here")

    assert "no longer waiting" in refusal["message"]
    assert (message["args"]["content"], message["source"]) == ("!say by the older name", "user")


def test_deleted_conversation_disconnects_its_sockets(talk: Talk):
    with join(talk) as client:
        client.wait(state_of)
        talk.owner.call("DELETE", talk.path, expect=204)

        assert client.wait_end() == "disconnect"
