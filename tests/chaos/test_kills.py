"""Runs of the real engine while processes of the server are killed, paused and restarted.

``CHAOS_SEED`` repeats the random choices of an earlier run.
"""

import contextlib
import json
import os
import random
import signal
import socket as sockets
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.chaos.callers import Caller
from tests.chaos.runs import REASON_KINDS, find_run_end, write_script
from tests.fakes.stack import Stack, Talk, closing_code, figure
from tests.waiting import wait_until

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(420)]
SEED = int(os.environ.get("CHAOS_SEED") or random.randrange(1_000_000))
RUN_END_SECONDS = 15
"""The documented limit from a kill to the end of the run."""


@pytest.fixture(scope="module")
def talk(stack: Stack) -> Talk:
    talk = stack.owner.converse(title="Killed processes")
    talk.wait_ready()
    return talk


@pytest.fixture
def dice(request) -> random.Random:
    return random.Random(f"{SEED} {request.node.name}")


def kill_during_run(
    talk: Talk, kill: Callable[[], float], *, wait: float, from_run: bool, count: int = 5
) -> dict[str, Any]:
    """Send a message, kill a process ``wait`` seconds later, and wait until the run ends.

    Check that our log equals the engine's and that the message was delivered at most once. Return the times and the end.
    """
    earlier_deliveries = len(talk.deliveries())
    message = talk.say(write_script(count))
    if from_run:
        talk.wait_run(message["seq"])
    time.sleep(wait)
    killed = kill()
    run_end = wait_until(
        lambda: find_run_end(talk, message["seq"]), "the run to end", seconds=90, pause=0.1
    )
    seconds = time.monotonic() - killed
    talk.wait_ready()
    talk.compare_logs(seconds=30)
    delivered = talk.deliveries()[earlier_deliveries:]
    assert len(delivered) == len(set(delivered)) <= 1
    assert run_end != "finished" or len(delivered) == 1
    return {"killed_after": round(wait, 2), "ended": run_end, "seconds": round(seconds, 1)}


@pytest.mark.parametrize("role", ["manager", "web", "worker"])
def test_run_finishes_although_a_role_is_killed(stack, talk, dice, role):
    result = kill_during_run(
        talk, lambda: stack.kill(role), wait=dice.uniform(0, 1.5), from_run=True
    )

    figure(f"kill -9 of {role}", seed=SEED, **result)
    assert result["ended"] == "finished"
    assert result["seconds"] < RUN_END_SECONDS


def test_message_is_delivered_although_the_worker_is_killed(stack, talk, dice):
    result = kill_during_run(
        talk, lambda: stack.kill("worker"), wait=dice.uniform(0, 0.15), from_run=False, count=2
    )

    figure("kill -9 of worker, delivering", seed=SEED, **result)
    assert result["ended"] == "finished"


def test_run_ends_with_a_notice_when_its_engine_is_killed(talk, dice):
    result = kill_during_run(talk, talk.kill_engine, wait=dice.uniform(0.2, 2), from_run=True)
    talk.do("!run echo alive\n!finish Done.")

    figure("kill -9 of the engine", seed=SEED, **result)
    assert result["ended"] in ("error", *REASON_KINDS)
    assert result["seconds"] < RUN_END_SECONDS
    notices = [e["payload"]["message"] for e in talk.events() if e["kind"] == "SandboxNotice"]
    assert any("stopped unexpectedly" in notice for notice in notices)
    talk.compare_logs()


@pytest.mark.chaos
@pytest.mark.timeout(1500)
def test_every_run_ends_and_no_event_is_lost_in_thirty_kills(stack, dice):
    results: list[dict[str, Any]] = []
    for _ in range(6):
        talk = stack.owner.converse(title="Thirty kills")
        talk.wait_ready()
        for _ in range(5):
            role = dice.choice(["manager", "web", "worker", "engine", "manager and web", "all"])

            def kill(role: str = role, talk: Talk = talk) -> float:
                if role == "engine":
                    return talk.kill_engine()
                names = {"all": "manager web worker", "manager and web": "manager web"}.get(
                    role, role
                )
                return [stack.kill(name) for name in names.split()][-1]

            is_running = dice.random() < 0.7
            wait = dice.uniform(0, 3 if is_running else 0.3)
            results.append(
                {"role": role} | kill_during_run(talk, kill, wait=wait, from_run=is_running)
            )
        talk.owner.call("DELETE", talk.path, expect=204)
    slowest = max(results, key=lambda result: result["seconds"])
    figure(
        "kills",
        seed=SEED,
        kills=len(results),
        run_end=Counter(r["ended"] for r in results),
        slowest=slowest,
    )


def test_manager_paused_beyond_its_lease_writes_nothing_afterwards(stack, talk):
    stack.add("manager2", "manager")
    try:
        stack.pid("manager2")
        owner = wait_until(lambda: stack.manager_of(talk), "a manager to follow the conversation")
        wait_until(
            lambda: all("is running" in stack.log(name) for name in ("manager", "manager2")),
            "both managers to run",
        )
        before = read_lease(talk)
        message = talk.say(write_script(24))
        talk.wait_run(message["seq"])

        paused = stack.signal(owner, signal.SIGSTOP)
        other = wait_until(
            lambda: (name := stack.manager_of(talk)) != owner and name,
            "another manager to take over",
        )
        seconds = time.monotonic() - paused
        time.sleep(1)
        stack.signal(owner, signal.SIGCONT)
        talk.wait(lambda _: find_run_end(talk, message["seq"]), seconds=120)
        after = read_lease(talk)
        count = talk.compare_logs()
        wait_until(
            lambda: log_mentions_lost_lease(stack, owner), "the paused manager to notice the loss"
        )
    finally:
        for name in ("manager", "manager2"):
            os.kill(stack.pid(name), signal.SIGCONT)
        stack.remove("manager2")

    figure(
        "a manager is paused beyond its lease", seconds_to_take_over=round(seconds, 1), events=count
    )
    assert seconds < 10
    assert {owner, other} == {"manager", "manager2"}
    assert after["generation"] == before["generation"] + 1
    assert "stale" in write_with_generation(talk, generation=before["generation"])


def log_mentions_lost_lease(stack: Stack, name: str) -> bool:
    phrases = ("is followed by another manager", "lost the lease")
    return any(phrase in stack.log(name) for phrase in phrases)


def read_lease(talk: Talk) -> dict[str, Any]:
    return talk.stack.sql("SELECT * FROM conversations_lease WHERE conversation_id = %s", talk.id)[
        0
    ]


def write_with_generation(talk: Talk, *, generation: int) -> str:
    """Store an event under a generation of the lease; return ``stale`` if it is rejected."""
    return talk.stack.python(
        "import sys, uuid, django; django.setup()\n"
        "from conversations import services\n"
        "from conversations.engine.payloads import Durable, parse_event\n"
        "from conversations.models import Conversation\n"
        "key, generation = uuid.UUID(sys.argv[1]), int(sys.argv[2])\n"
        "seq = Conversation.objects.get(pk=key).engine_seq + 1\n"
        'frame = Durable(seq, parse_event(b\'{"id":"forged","kind":"X"}\', seq=seq))\n'
        "try:\n"
        "    services.ingest_events(conversation_id=key, generation=generation, frames=[frame])\n"
        "except services.StaleLease:\n"
        "    print('stale')\n",
        str(talk.id),
        str(generation),
    )


def test_socket_that_is_cut_twenty_times_receives_each_event_once(talk, dice):
    message = talk.say(write_script(14, pause=0.2))
    talk.wait_run(message["seq"])
    seen: list[int] = []
    cuts = 0
    while not find_run_end(talk, message["seq"]) or seen[-1:] != [talk.record()["last_seq"]]:
        is_cut = cuts < 20
        with talk.owner.socket(talk.id, after=seen[-1] if seen else 0) as socket:
            read_until = time.monotonic() + (dice.uniform(0.02, 0.6) if is_cut else 5)
            while (rest := read_until - time.monotonic()) > 0:
                try:
                    frame = json.loads(socket.recv(timeout=rest))
                except TimeoutError:
                    break
                assert frame["type"] != "reset"
                if frame["type"] == "event":
                    seen.append(frame["seq"])
                if (
                    not is_cut
                    and find_run_end(talk, message["seq"])
                    and seen[-1] == talk.record()["last_seq"]
                ):
                    break
            if is_cut:
                cuts += 1
                socket.socket.shutdown(
                    sockets.SHUT_RDWR
                )  # without a close frame, as when a network fails

    figure(
        "a socket is cut",
        seed=SEED,
        cuts=cuts,
        events=len(seen),
        doubled=len(seen) - len(set(seen)),
    )
    assert cuts == 20
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) == len(talk.rows())


def test_restart_of_web_fails_no_new_connection_and_closes_sockets_with_1012(stack, talk):
    if talk.record()["last_seq"] < 3:
        talk.do(write_script(1))
    callers = [Caller(talk, keeps_connection=number % 2 == 0) for number in range(4)]
    for caller in callers:
        caller.start()
    codes: Counter[int] = Counter()
    resumed = 0
    for _ in range(2):
        with contextlib.ExitStack() as opened:
            watchers = [opened.enter_context(talk.owner.socket(talk.id, after=0)) for _ in range(5)]
            for socket in watchers:
                assert json.loads(socket.recv(timeout=10))["type"] == "event"
            time.sleep(0.5)
            stack.signal("web", signal.SIGTERM)
            for socket in watchers:
                codes[closing_code(socket)[0]] += 1
        wait_until(
            lambda: stack.roles["web"].process is None or stack.roles["web"].due_at, "web to end"
        )
        stack.pid("web")
        stack.wait_web()
        last = talk.record()["last_seq"]
        with talk.owner.socket(talk.id, after=last - 3) as socket:
            seqs = [json.loads(socket.recv(timeout=10))["seq"] for _ in range(3)]
            resumed += seqs == [last - 2, last - 1, last]
    time.sleep(1)
    for caller in callers:
        caller.done.set()
    for caller in callers:
        caller.join(30)
    new_results = sum((c.results for c in callers if not c.keeps_connection), Counter())
    kept_results = sum((c.results for c in callers if c.keeps_connection), Counter())

    figure(
        "SIGTERM of web under load",
        close_codes=codes,
        resumed=resumed,
        new_connections=new_results,
        kept_connections=kept_results,
    )
    assert codes == {1012: 10}
    assert resumed == 2
    assert set(new_results) == {"200"}, "a request over a new connection failed"
    assert not [status for status in kept_results if status.isdigit() and status != "200"]
