"""Confirmations: the agent's question is answered once, by a confirmation and never by a message."""

import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.fakes.stack import Stack, Talk, figure

pytestmark = [pytest.mark.engine, pytest.mark.contract, pytest.mark.timeout(300)]
WAITING = "waiting_for_confirmation"


@pytest.fixture(scope="module")
def talk(stack: Stack) -> Talk:
    talk = stack.owner.converse(title="Careful", confirmation_policy="always")
    talk.wait_ready()
    return talk


def wait_for_question(talk: Talk, script: str) -> dict:
    """Post a message and wait for the agent's next request for confirmation. Return the record."""
    message = talk.say(script)
    return talk.wait(
        lambda record: (
            record["execution_status"] == WAITING and (record["asked_seq"] or 0) > message["seq"]
        )
    )


def get_workspace(talk: Talk) -> Path:
    return talk.project()


def read_rejections(talk: Talk) -> list[str]:
    return [
        e["payload"]["rejection_reason"]
        for e in talk.events()
        if e["kind"] == "UserRejectObservation"
    ]


def test_message_approves_nothing_and_five_clicks_approve_once(talk):
    record = wait_for_question(talk, "!run touch one.txt\n!finish Done.")
    talk.say("!say I heard you.")
    time.sleep(2)
    held, approved = talk.deliveries(), (get_workspace(talk) / "one.txt").exists()
    answers: list[int] = []

    def approve() -> None:
        body = {"accept": True, "asked_seq": record["asked_seq"]}
        answers.append(talk.owner.call("POST", f"{talk.path}/confirmation", json=body).status_code)

    clicks = [threading.Thread(target=approve) for _ in range(5)]
    for click in clicks:
        click.start()
    for click in clicks:
        click.join()
    talk.wait(
        lambda record: record["execution_status"] == "finished" and len(talk.deliveries()) == 2
    )

    assert (len(held), approved) == (1, False)
    assert Counter(answers) == {202: 1, 409: 4}
    assert (get_workspace(talk) / "one.txt").exists()
    assert [event["kind"] for event in talk.events()].count("UserConfirmation") == 1
    talk.compare_logs()
    figure("five clicks", approvals=answers.count(202), refused=answers.count(409))


def test_rejection_reason_reaches_the_agent(talk):
    record = wait_for_question(talk, "!run touch two.txt\n!finish Done.")

    talk.post("confirmation", accept=False, reason="not that one", asked_seq=record["asked_seq"])
    talk.wait_status("finished", after=record["last_seq"])
    stale = talk.owner.call(
        "POST", f"{talk.path}/confirmation", json={"accept": True, "asked_seq": record["asked_seq"]}
    )

    assert read_rejections(talk) == ["not that one"]
    assert not (get_workspace(talk) / "two.txt").exists()
    assert stale.status_code == 409
    talk.compare_logs()


@pytest.mark.slow
def test_second_message_sent_before_the_question_is_not_an_approval(talk):
    """The second message arrives before the agent has asked about the first."""
    for number in range(3):
        name = f"sneaky{number}.txt"
        before = len(talk.deliveries())
        message = talk.say(f"!sleep 0.7\n!run touch {name}\n!finish Done.")
        talk.say("!say And this?")
        record = talk.wait(
            lambda record, message=message: (record["asked_seq"] or 0) > message["seq"]
        )
        time.sleep(1.5)

        assert not (get_workspace(talk) / name).exists(), "a message approved an action"
        assert talk.record()["execution_status"] == WAITING
        assert len(talk.deliveries()) == before + 1
        talk.post("confirmation", accept=True, asked_seq=record["asked_seq"])
        talk.wait(
            lambda record, before=before: (
                record["execution_status"] == "finished" and len(talk.deliveries()) == before + 2
            )
        )
        assert (get_workspace(talk) / name).exists()
    figure("messages behind a message", tries=3, implicit_approvals=0)


@pytest.mark.slow
def test_approval_after_an_engine_restart_makes_the_agent_ask_again(talk):
    script = "!run touch three.txt\n!run touch three.txt\n!finish Done."
    record = wait_for_question(talk, script)
    run = talk.sandbox()["run"]

    died = talk.kill_engine()
    talk.wait(lambda record: record["status"] != "running", seconds=20)
    noticed = time.monotonic() - died
    talk.wait_ready()
    back = talk.wait(lambda record: record["execution_status"] == WAITING and record["asked_seq"])
    seconds = round(time.monotonic() - died, 1)
    talk.post("confirmation", accept=True, asked_seq=back["asked_seq"])
    again = talk.wait(
        lambda record: (
            record["execution_status"] == WAITING and (record["asked_seq"] or 0) > back["asked_seq"]
        )
    )
    exists_before = (get_workspace(talk) / "three.txt").exists()
    talk.post("confirmation", accept=True, asked_seq=again["asked_seq"])
    talk.wait_status("finished", after=again["last_seq"])

    assert talk.sandbox()["run"] == run + 1
    assert not exists_before
    assert (get_workspace(talk) / "three.txt").exists()
    assert "restarted" in read_rejections(talk)[-1]
    assert [event["kind"] for event in talk.events(after=record["last_seq"])].count(
        "SandboxNotice"
    ) == 1
    talk.compare_logs()
    messages = [text for text in talk.deliveries() if text == script]
    assert len(messages) == 1
    figure(
        "engine killed while it waits",
        seconds_to_notice=round(noticed, 2),
        seconds_to_ask_again=seconds,
    )
