"""A user's own model server behind the gateway: tokens, cost, failures and its key."""

import json
from pathlib import Path

import pytest

from tests.fakes.scripted_llm import ScriptedLLM
from tests.fakes.stack import Stack, Talk, figure

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(300)]
KEY = "upstream-key-canary"
PRICES = {"prompt": 3_000_000, "completion": 15_000_000, "cached": 300_000}


@pytest.fixture(scope="module")
def talk(stack: Stack):
    with ScriptedLLM(api_key=KEY) as model:
        prices = {f"{name}_micros_per_million": price for name, price in PRICES.items()}
        body = {"base_url": model.base_url, "model": "scripted", "api_key": KEY} | prices
        stack.owner.call("PUT", "settings/model-access", json=body, expect=200)
        try:
            talk = stack.owner.converse(title="Paid")
            talk.wait_ready()
            talk.model = model
            yield talk
        finally:
            stack.owner.call("DELETE", "settings/model-access", expect=204)


def read_usage(talk: Talk) -> tuple[int, dict[str, int]]:
    record = talk.record()
    return record["cost_micros"], record["tokens"]


def test_tokens_and_cost_are_the_sums_of_the_models_usage(talk):
    talk.do("!usage 1000 50 400\n!run echo hi\n!usage 2000 60\n!finish Done.")

    cost, tokens = read_usage(talk)
    calls = talk.stack.sql(
        "SELECT * FROM billing_modelcall WHERE conversation_id = %s ORDER BY id", talk.id
    )
    expected = 600 * 3 + 400 * 0.3 + 50 * 15 + 2000 * 3 + 60 * 15
    assert tokens == {"prompt": 3000, "completion": 110, "cached": 400}
    assert cost == expected == sum(call["cost_micros"] for call in calls)
    assert [call["outcome"] for call in calls] == ["answered"] * 2
    assert {request["api_key"] for request in talk.model.requests} == {KEY}
    figure("cost is summed", calls=len(calls), cost_micros=cost, tokens=tokens)


def test_refused_model_key_ends_the_run_with_one_error_and_resume_continues(talk):
    message = talk.say("!fail 401 1 No such key\n!run echo after all\n!finish Done.")
    talk.wait_run(message["seq"])
    record = talk.wait_status("error")
    errors = [
        e["payload"]
        for e in talk.events(after=message["seq"])
        if e["kind"] == "ConversationErrorEvent"
    ]

    talk.post("resume")
    talk.wait_status("finished", after=record["last_seq"])

    assert len(errors) == 1
    assert errors[0]["classification"]["kind"] == "auth"
    assert errors[0]["detail"]
    assert "after all" in json.dumps(talk.events(after=record["last_seq"]))
    assert len([text for text in talk.deliveries() if text.startswith("!fail 401")]) == 1
    talk.compare_logs()
    figure("a refused key", code=errors[0]["code"], detail=errors[0]["detail"])


@pytest.mark.parametrize("failure", ["500 1", "429 1", "drop 1"])
def test_transient_model_failure_causes_no_error_event(talk, failure):
    message = talk.say(f"!fail {failure}\n!run echo survived {failure}\n!finish Done.")
    talk.wait_run(message["seq"])
    talk.wait_status("finished", "error")

    events = talk.events(after=message["seq"])
    assert f"survived {failure}" in json.dumps(
        [e for e in events if e["kind"] == "ObservationEvent"]
    )
    assert not [e for e in events if e["kind"] == "ConversationErrorEvent"]


def test_upstream_key_is_absent_from_the_sandbox(talk):
    row = talk.sandbox()
    # The file control.txt shows that the search works.
    search = talk.engine().execute(
        f"echo {KEY} > control.txt; grep -rlF {KEY} {row['workspace']}/..; rm control.txt",
        cwd=row["workspace"],
    )
    # A command inherits the engine's environment. Reading that of the engine itself may be refused.
    environment = talk.engine().execute(
        "env; tr '\\0' '\\n' < /proc/$PPID/environ", cwd=row["workspace"]
    )

    hits = [line for line in search.stdout.splitlines() if "bash_events" not in line]
    assert [Path(hit).name for hit in hits] == ["control.txt"]
    assert "OH_SANDBOX_ID" in environment.stdout
    assert KEY not in environment.stdout
    talk.owner.call("DELETE", talk.path, expect=204)
