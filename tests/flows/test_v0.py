"""Must be seen: a V0 client starts, chats, confirms, stops and reconnects; nothing comes twice, order is kept."""

import pytest

from tests.fakes.socket_io import V0Client, state_of
from tests.fakes.stack import Stack, Talk, figure

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]


def join(talk: Talk, *, after: int = -1, **more) -> V0Client:
    headers = {"Authorization": f"Bearer {talk.owner.key}"}
    return V0Client(talk.stack.url, talk.id.hex, after=after, headers=headers, **more)


def test_a_v0_client_from_start_to_reconnect(stack: Stack):
    talk = stack.owner.converse(title="V0", confirmation_policy="always")
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
        first = list(client.events)

    seen = [event for event in first if "id" in event and not event.get("status_update")]
    middle = seen[len(seen) // 2]["id"]
    with join(talk, after=middle) as again, join(talk, path="/socket.io") as whole:
        again.wait_state("paused")
        whole.wait_state("paused")
        again.read_for(0.5)
        whole.read_for(0.5)

    ids = [event["id"] for event in seen]
    assert ids == sorted(set(ids))
    said = [
        e["args"]["content"] for e in seen if e.get("action") == "message" and e["source"] == "user"
    ]
    assert len(said) == 3
    ran = next(e for e in seen if e.get("observation") == "run")
    asked = next(e for e in seen if e.get("action") == "run")
    assert (ran["cause"], ran["extras"]["metadata"]["exit_code"], ran["success"]) == (
        asked["id"],
        0,
        True,
    )
    assert again.ids == sorted(set(again.ids))
    assert min(again.ids) > middle
    not_states = [e for e in seen if state_of(e) is None]
    assert [
        e for e in whole.events if state_of(e) is None and "id" in e and "timestamp" in e
    ] == not_states
    assert [e for e in again.events if state_of(e) is None and "timestamp" in e] == [
        e for e in not_states if e["id"] > middle
    ]
    assert [state_of(e) for e in whole.events if state_of(e)] == ["paused"]
    figure(
        "V0 client", events=len(ids), twice=len(ids) - len(set(ids)), after_reconnect=len(again.ids)
    )
    talk.compare_logs()
