"""A V1 client on the running server: start, chat, confirmation, pause and reconnect by socket and REST."""

import json
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
from websockets.sync.client import connect

from tests.fakes.stack import Stack, Talk, closing_code, figure
from tests.waiting import wait_until

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]
SECONDS = 90


class V1Client:
    """A client like OpenHands' web client: it sends its key in the query and reads the whole log at each connect."""

    def __init__(self, stack: Stack, conversation_id: str, key: str) -> None:
        self.stack, self.id, self.key = stack, conversation_id, key

    @contextmanager
    def socket(self, query: str = "resend_all=true&"):
        url = self.stack.url.replace("http", "ws", 1)
        address = f"{url}/sockets/events/{self.id}?{query}session_api_key={self.key}"
        with connect(address, open_timeout=30, close_timeout=1, proxy=None) as opened:
            yield opened

    def post(self, what: str, **body: Any) -> int:
        """Send a POST with the conversation's key as its only credential. Return the status."""
        response = httpx2.post(
            f"{self.stack.url}/api/conversations/{self.id}/{what}",
            headers={"X-Session-API-Key": self.key},
            json=body,
            timeout=30,
            trust_env=False,
        )
        return response.status_code


def say(socket: Any, text: str) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": text}]}
    socket.send(json.dumps(message))


def read_until(socket: Any, is_there: Any) -> list[dict[str, Any]]:
    """Read frames until ``is_there(frame)`` is true for the last. Return them."""
    frames: list[dict[str, Any]] = []
    while not (frames and is_there(frames[-1])):
        frames.append(json.loads(socket.recv(timeout=SECONDS)))
        frame = frames[-1]
        assert frame["id"], frame
        assert frame["timestamp"], frame
        assert frame["source"] in ("agent", "user", "environment"), frame
    return frames


def is_status(*statuses: str) -> Any:
    def check(frame: dict[str, Any]) -> bool:
        return frame.get("key") == "execution_status" and frame.get("value") in statuses

    return check


def event_ids(frames: list[dict[str, Any]]) -> list[str]:
    """Return the ids of the frames in order, without full states, which are not in the log."""
    return [frame["id"] for frame in frames if frame.get("key") != "full_state"]


def user_texts(frames: list[dict[str, Any]]) -> list[str]:
    messages = [frame for frame in frames if frame["kind"] == "MessageEvent"]
    return [
        message["llm_message"]["content"][0]["text"]
        for message in messages
        if message["source"] == "user"
    ]


@pytest.fixture(scope="module")
def foreign(stack: Stack) -> Talk:
    """A conversation of another user. It starts while the first tests run."""
    return stack.stranger.converse(title="Theirs")


@pytest.fixture(scope="module")
def client(stack: Stack, foreign: Talk) -> V1Client:
    message = {"role": "user", "content": [{"type": "text", "text": "!say Hello."}]}
    body = {"parent_conversation_id": None, "initial_message": message}
    start = stack.owner.call("POST", "app-conversations", expect=200, json=body).json()
    [start] = wait_until(
        lambda: [
            task
            for task in stack.owner.get("app-conversations/start-tasks", ids=start["id"])
            if task["status"] in ("READY", "ERROR")
        ],
        "the start task to end",
        seconds=150,
    )
    assert start["status"] == "READY", start
    [record] = stack.owner.get("app-conversations", ids=start["app_conversation_id"])
    assert record["conversation_url"].startswith(stack.url)
    return V1Client(stack, record["id"], record["session_api_key"])


def test_v1_client_chats_pauses_and_reconnects_without_lost_events(stack, client):
    with client.socket() as socket:
        first = json.loads(socket.recv(timeout=SECONDS))
        assert (first["kind"], first["key"]) == ("ConversationStateUpdateEvent", "full_state")
        assert {"execution_status", "stats"} <= set(first["value"])
        frames = read_until(socket, is_status("finished"))
        assert user_texts(frames) == ["!say Hello."]

        say(socket, "!run sleep 60\n!finish Done.")
        running = read_until(socket, lambda frame: frame["kind"] == "ActionEvent")
        assert client.post("pause") == 200
        paused = read_until(socket, is_status("paused"))

        socket.send("not json")
        error = read_until(socket, lambda frame: frame["kind"] == "ServerErrorEvent")[-1]
        assert error["code"] == "bad-frame"

        say(socket, "!say Thank you.")
        rest = read_until(socket, is_status("finished"))
    live = event_ids(frames + running + paused + rest)
    assert len(set(live)) == len(live)
    assert user_texts(running + rest) == ["!run sleep 60\n!finish Done.", "!say Thank you."]

    count = stack.owner.get("events/count", conversation_id__eq=client.id)
    with client.socket() as socket:
        resent = [json.loads(socket.recv(timeout=SECONDS)) for _ in range(count + 1)]
    assert resent[0]["key"] == "full_state"
    assert [event_id for event_id in event_ids(resent) if event_id in set(live)] == live
    figure("a V1 client", frames=len(live), counted=count, resent=len(resent) - 1)

    with client.socket(f"resend_mode=since&after_timestamp={rest[0]['timestamp']}&") as socket:
        late = read_until(socket, is_status("finished"))
    assert set(event_ids(late)) <= set(live)
    assert "!say Hello." not in user_texts(late)


@pytest.mark.slow
def test_confirmation_is_answered_by_rest_and_not_by_a_message(stack):
    talk: Talk = stack.owner.converse(title="Careful", confirmation_policy="always")
    talk.wait_ready()
    [record] = stack.owner.get("app-conversations", ids=str(talk.id))
    client = V1Client(stack, record["id"], record["session_api_key"])
    with client.socket() as socket:
        say(socket, "!run touch one.txt\n!finish Done.")
        read_until(socket, is_status("waiting_for_confirmation"))
        say(socket, "go on")
        read_until(socket, lambda frame: user_texts([frame]) == ["go on"])
        assert client.post("run") == 200
        assert talk.record()["execution_status"] == "waiting_for_confirmation"
        assert len(talk.deliveries()) == 1
        assert not (talk.project() / "one.txt").exists()

        assert client.post("events/respond_to_confirmation", accept=True) == 200
        read_until(
            socket,
            lambda frame: (
                frame["kind"] == "ObservationEvent"
                and frame["observation"]["kind"] == "TerminalObservation"
            ),
        )
    assert (talk.project() / "one.txt").exists()


def test_socket_with_a_wrong_or_foreign_key_is_closed(stack, client, foreign):
    foreign.wait_ready()
    url = f"{stack.url.replace('http', 'ws', 1)}/sockets/events/{client.id}"
    [record] = stack.stranger.get("app-conversations", ids=str(foreign.id))
    for query, code in (
        ("?session_api_key=ocs_x.y", 4001),
        (f"?session_api_key={record['session_api_key']}", 4004),
    ):
        with connect(url + query, proxy=None) as socket:
            assert closing_code(socket)[0] == code
    with connect(url, proxy=None) as socket:
        socket.send(json.dumps({"type": "auth", "session_api_key": "wrong"}))
        assert closing_code(socket)[0] == 4001
