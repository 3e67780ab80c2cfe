"""The real engine at work while parts of the server are killed, stopped and restarted.

``CHAOS_SEED`` repeats a run's random moments.
"""

import contextlib
import json
import os
import random
import signal
import socket as sockets
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from tests.fakes.stack import Stack, Talk, closing_code, figure, state_of

pytestmark = [pytest.mark.engine, pytest.mark.timeout(420)]
SEED = int(os.environ.get("CHAOS_SEED") or random.randrange(1_000_000))
PROMISED_SECONDS = 15
ENDS = ("finished", "error")
REASONS = ("SandboxNotice", "ConversationErrorEvent", "AgentErrorEvent")


@pytest.fixture(scope="module")
def talk(stack: Stack) -> Talk:
    talk = stack.owner.converse(title="Under fire")
    talk.wait_ready()
    return talk


@pytest.fixture
def dice(request) -> random.Random:
    return random.Random(f"{SEED} {request.node.name}")


def steps(count: int, *, pause: float = 0.3) -> str:
    lines = [f"!run sleep {pause}; echo step {number}" for number in range(count)]
    return "\n".join([f"Number {time.monotonic_ns()}.", *lines, "!finish Done."])


def how_it_ended(talk: Talk, after: int) -> str | None:
    """``finished``, ``error`` or the reason that was given, for what was said at ``after``; None while it goes on."""
    events = talk.events(after=after)
    if ended := [state for event in events if (state := state_of(event)) in ENDS]:
        return ended[-1]
    reasons = [event["kind"] for event in events if event["kind"] in REASONS]
    return reasons[-1] if reasons and talk.record()["execution_status"] == "error" else None


def kill_during_run(
    talk: Talk, kill: Callable[[], float], *, wait: float, from_run: bool, count: int = 5
) -> dict[str, Any]:
    """Say something, kill a while later, and see that it ends; what happened, in seconds."""
    told = len(talk.deliveries())
    said = talk.say(steps(count))
    if from_run:
        talk.wait_run(said["seq"])
    time.sleep(wait)
    killed = kill()
    while not (ended := how_it_ended(talk, said["seq"])):
        assert time.monotonic() < killed + 90, talk.record()
        time.sleep(0.1)
    seconds = time.monotonic() - killed
    talk.wait_ready()
    talk.compare_logs(seconds=30)
    delivered = talk.deliveries()[told:]
    assert len(delivered) == len(set(delivered)) <= 1
    assert ended != "finished" or len(delivered) == 1
    return {"killed_after": round(wait, 2), "ended": ended, "seconds": round(seconds, 1)}


@pytest.mark.parametrize("role", ["manager", "web", "worker"])
def test_a_role_is_killed_in_the_middle_of_a_run(stack, talk, dice, role):
    result = kill_during_run(
        talk, lambda: stack.kill(role), wait=dice.uniform(0, 1.5), from_run=True
    )

    figure(f"kill -9 of {role}", seed=SEED, **result)
    assert result["ended"] == "finished"
    assert result["seconds"] < PROMISED_SECONDS


def test_a_worker_is_killed_while_it_delivers(stack, talk, dice):
    result = kill_during_run(
        talk, lambda: stack.kill("worker"), wait=dice.uniform(0, 0.15), from_run=False, count=2
    )

    figure("kill -9 of worker, delivering", seed=SEED, **result)
    assert result["ended"] == "finished"


def test_the_engine_is_killed_in_the_middle_of_a_run(talk, dice):
    result = kill_during_run(talk, talk.kill_engine, wait=dice.uniform(0.2, 2), from_run=True)
    talk.do("!run echo alive\n!finish Done.")

    figure("kill -9 of the engine", seed=SEED, **result)
    assert result["ended"] in ("error", *REASONS)
    assert result["seconds"] < PROMISED_SECONDS
    notices = [e["payload"]["message"] for e in talk.events() if e["kind"] == "SandboxNotice"]
    assert any("stopped unexpectedly" in notice for notice in notices)
    talk.compare_logs()


@pytest.mark.siege
@pytest.mark.timeout(1500)
def test_everything_is_killed_many_times(stack, dice):
    results: list[dict[str, Any]] = []
    for _ in range(6):
        talk = stack.owner.converse(title="Under heavy fire")
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
    slowest = max(results, key=lambda one: one["seconds"])
    figure(
        "kills",
        seed=SEED,
        kills=len(results),
        ended=Counter(r["ended"] for r in results),
        slowest=slowest,
    )


def test_a_paused_manager_comes_back_and_writes_nothing(stack, talk):
    stack.add("manager2", "manager")
    try:
        stack.pid("manager2")
        owner = _wait(lambda: stack.manager_of(talk))
        _wait(lambda: all("is running" in stack.log(name) for name in ("manager", "manager2")))
        before = _lease(talk)
        said = talk.say(steps(24))
        talk.wait_run(said["seq"])

        paused = stack.signal(owner, signal.SIGSTOP)
        other = _wait(lambda: (name := stack.manager_of(talk)) != owner and name)
        seconds = time.monotonic() - paused
        time.sleep(1)
        stack.signal(owner, signal.SIGCONT)
        talk.wait(lambda _: how_it_ended(talk, said["seq"]), seconds=120)
        after = _lease(talk)
        count = talk.compare_logs()
        _wait(lambda: _refusals(stack, owner))
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
    assert "stale" in _write_under(talk, generation=before["generation"])


def _refusals(stack: Stack, name: str) -> list[str]:
    said = ("is followed by another manager", "lost the lease")
    return [line for line in stack.log(name).splitlines() if any(words in line for words in said)]


def _lease(talk: Talk) -> dict[str, Any]:
    return talk.stack.sql("SELECT * FROM conversations_lease WHERE conversation_id = %s", talk.id)[
        0
    ]


def _write_under(talk: Talk, *, generation: int) -> str:
    """What becomes of an event that is written under a generation."""
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


def _wait(look: Callable[[], Any], *, seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
    return found


def test_a_socket_cut_twenty_times_gets_each_event_once(talk, dice):
    said = talk.say(steps(14, pause=0.2))
    talk.wait_run(said["seq"])
    seen: list[int] = []
    cuts = 0
    while not how_it_ended(talk, said["seq"]) or seen[-1:] != [talk.record()["last_seq"]]:
        is_cut = cuts < 20
        with talk.owner.socket(talk.id, after=seen[-1] if seen else 0) as socket:
            enough = time.monotonic() + (dice.uniform(0.02, 0.6) if is_cut else 5)
            while (rest := enough - time.monotonic()) > 0:
                try:
                    frame = json.loads(socket.recv(timeout=rest))
                except TimeoutError:
                    break
                assert frame["type"] != "reset"
                if frame["type"] == "event":
                    seen.append(frame["seq"])
                if (
                    not is_cut
                    and how_it_ended(talk, said["seq"])
                    and seen[-1] == talk.record()["last_seq"]
                ):
                    break
            if is_cut:
                cuts += 1
                socket.socket.shutdown(
                    sockets.SHUT_RDWR
                )  # no close frame, as when a train enters a tunnel

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


class Caller(threading.Thread):
    """Reads and writes without pause, over one kept connection or a new one each time; counts what fails."""

    def __init__(self, talk: Talk, *, keeps: bool) -> None:
        super().__init__(daemon=True)
        self.talk, self.keeps = talk, keeps
        self.done = threading.Event()
        self.answers: Counter[str] = Counter()

    def run(self) -> None:
        while not self.done.is_set():
            with httpx2.Client(trust_env=False, timeout=30) as client:
                for _ in range(200 if self.keeps else 1):
                    if not self._call(client) or self.done.is_set():
                        break

    def _call(self, client: httpx2.Client) -> bool:
        headers = {"Authorization": f"Bearer {self.talk.owner.key}"}
        try:
            url = f"{self.talk.stack.url}/api/v1/{self.talk.path}"
            answer = client.patch(url, json={"title": f"Title {time.time()}"}, headers=headers)
        except httpx2.TransportError as error:
            self.answers[type(error).__name__] += 1
            return False
        self.answers[str(answer.status_code)] += 1
        return answer.status_code < 500


def test_web_is_ended_in_order_under_load(stack, talk):
    """A rolling restart: requests wait at the listening socket, sockets are told to come back (1012)."""
    if talk.record()["last_seq"] < 3:
        talk.do(steps(1))
    callers = [Caller(talk, keeps=number % 2 == 0) for number in range(4)]
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
        _wait(lambda: stack.roles["web"].process is None or stack.roles["web"].due_at)
        stack.pid("web")
        stack.wait_web()
        last = talk.record()["last_seq"]
        with talk.owner.socket(talk.id, after=last - 3) as socket:
            got = [json.loads(socket.recv(timeout=10))["seq"] for _ in range(3)]
            resumed += got == [last - 2, last - 1, last]
    time.sleep(1)
    for caller in callers:
        caller.done.set()
    for caller in callers:
        caller.join(30)
    fresh = sum((c.answers for c in callers if not c.keeps), Counter())
    kept = sum((c.answers for c in callers if c.keeps), Counter())

    figure(
        "SIGTERM of web under load",
        close_codes=codes,
        resumed=resumed,
        new_connections=fresh,
        kept_connections=kept,
    )
    assert codes == {1012: 10}
    assert resumed == 2
    assert set(fresh) == {"200"}, "a request over a new connection failed"
    assert not [status for status in kept if status.isdigit() and status != "200"]
