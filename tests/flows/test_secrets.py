"""A custom secret with the real engine: the terminal has its value, our log hides it, and its use is recorded."""

import json

import pytest

from tests.fakes.stack import Stack

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]
VALUE = "Sec-value-of-the-flow-0123"


@pytest.mark.slow
def test_secret_is_used_in_the_sandbox_and_hidden_in_the_log(stack: Stack):
    secret = {"name": "FLOW_TOKEN", "value": VALUE}
    created = stack.owner.call("POST", "secrets", json=secret, expect=201).json()
    talk = stack.owner.converse(title="Secrets")
    talk.wait_ready()

    talk.do(
        '!run printf %s "$FLOW_TOKEN" > plain.txt; base64 plain.txt > coded.txt; '
        "cat plain.txt coded.txt\n!finish Done."
    )

    def read_file(path):
        return talk.owner.call("GET", f"{talk.path}/files/content?path={path}", expect=200).content

    assert read_file("plain.txt").decode() == VALUE
    events = talk.events()
    log = json.dumps(events)
    assert VALUE not in log
    assert read_file("coded.txt").decode().strip()[:-4] not in log
    [shown] = [
        event["payload"]["observation"]["content"]
        for event in events
        if event["kind"] == "ObservationEvent" and event["payload"]["tool_name"] == "terminal"
    ]
    assert "<secret_hidden>" in json.dumps(shown)
    uses = stack.owner.get(f"secrets/{created['id']}/uses")["items"]
    assert {use["conversation"] for use in uses} == {str(talk.id)}


@pytest.mark.slow
def test_secret_is_gone_when_others_may_steer(stack: Stack):
    """The running sandbox stops, and the next message finds the files but not the creator's secret."""
    secret = {"name": "LENT_TOKEN", "value": f"{VALUE}-lent"}
    stack.owner.call("POST", "secrets", json=secret, expect=201)
    talk = stack.owner.converse(title="Lending")
    talk.wait_ready()
    talk.do('!run printf "first:%s" "${#LENT_TOKEN}" > first.txt\n!finish Done.')

    sharing = {"visibility": "organization", "others_may_steer": True}
    record = talk.owner.call("PATCH", talk.path, json=sharing, expect=200).json()
    assert record["lender"] == "organization"
    # The status is still "finished" when the message is posted: wait for the run that it begins.
    talk.do('!run printf "second:%s" "${#LENT_TOKEN}" > second.txt\n!finish Done.')

    def read_file(path):
        return talk.owner.call("GET", f"{talk.path}/files/content?path={path}", expect=200).content

    assert read_file("first.txt").decode() == f"first:{len(VALUE) + 5}"
    assert read_file("second.txt") == b"second:0"
    events = talk.events()
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert "equipment_changed" in json.dumps(events)
