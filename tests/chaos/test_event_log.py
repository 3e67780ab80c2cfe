"""The event log while writers and web are killed and Redis and PostgreSQL are restarted.

``CHAOS_SEED`` repeats the random choices of an earlier run.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2
import pytest
import redis
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tests.chaos.checker import Ack, Verdict, examine
from tests.chaos.writer import create_event_id, shuffle_numbers
from tests.fakes.stack import Person, Stack, figure
from tests.prepare import ROOT
from tests.waiting import wait_until

SEED = int(os.environ.get("CHAOS_SEED") or random.randrange(1_000_000))
CALM_SECONDS = 5.0
"""Time within which every client must have the whole log after the last fault."""


# --- The checker itself -----------------------------------------------------------


def create_clean_log() -> tuple[list[tuple[int, str]], list[Ack], list[list[int]]]:
    log = [(seq, f"event {seq}") for seq in range(1, 21)]
    acks = [Ack("even" if seq % 2 == 0 else "odd", name, seq) for seq, name in log]
    return log, acks, [list(range(1, 21))]


def remove_event(log, seq):
    return [entry for entry in log if entry[0] != seq]


def swap_events(log):
    names = [name for _, name in log]
    names[3], names[5] = names[5], names[3]
    return [(seq, name) for (seq, _), name in zip(log, names, strict=True)]


@pytest.mark.parametrize(
    ("alter", "faults"),
    [
        (lambda log: log, set()),
        (
            lambda log: [(n, name) for n, (_, name) in enumerate(remove_event(log, 7), 1)],
            {"lost", "moved"},
        ),
        (lambda log: remove_event(log, 7), {"lost", "gaps"}),
        (lambda log: remove_event(log, 20), {"lost"}),
        (lambda log: [*log, (21, "event 7")], {"doubled", "moved", "inversions"}),
        (lambda log: [*remove_event(log, 7), (8, "event 7")], {"gaps", "moved"}),
        (swap_events, {"moved", "inversions"}),
    ],
    ids=[
        "clean",
        "lost",
        "lost with its number",
        "lost at the end",
        "doubled",
        "number twice",
        "swapped",
    ],
)
def test_checker_finds_each_fault_of_an_altered_log(alter, faults):
    log, acks, _ = create_clean_log()

    verdict = examine(alter(log), acks)

    assert {name for name, count in asdict(verdict).items() if count} == faults


@pytest.mark.parametrize(
    "alter",
    [
        lambda seen: seen[:-1],
        lambda seen: seen[:5] + seen[6:],
        lambda seen: [*seen[:5], seen[4], *seen[5:]],
        lambda seen: [*seen[:5], seen[6], seen[5], *seen[7:]],
    ],
    ids=["behind", "gap", "doubled", "swapped"],
)
def test_checker_finds_a_client_with_missing_doubled_or_swapped_events(alter):
    log, acks, [seen] = create_clean_log()

    assert examine(log, acks, [seen]).is_clean
    assert examine(log, acks, [seen, alter(seen)]).incomplete == 1


# --- Writers and readers --------------------------------------------------------


class Writers:
    """Writer processes, forked from a parent process that has loaded Django (``tests.chaos.writer``)."""

    def __init__(self, stack: Stack) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="notes-", dir=stack.folder))
        self.log = (stack.folder / "logs" / "writers.log").open("ab")
        self.plans: list[dict[str, Any]] = []
        self.pids: dict[int, int] = {}
        self.restarts = 0
        self._parent = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.chaos.writer"],
            cwd=ROOT,
            env=stack.environment | {"OH_ROLE": "writer"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )

    def add(self, **plan: Any) -> None:
        plan["notes"] = str(self.folder / f"notes-{len(self.plans)}")
        Path(plan["notes"]).touch()
        self.plans.append(plan)
        self._start(len(self.plans) - 1)

    def _start(self, index: int) -> None:
        assert self._parent.stdin
        assert self._parent.stdout
        self._parent.stdin.write(json.dumps(self.plans[index]) + "\n")
        self._parent.stdin.flush()
        self.pids[index] = int(self._parent.stdout.readline())

    def is_done(self, index: int) -> bool:
        return Path(self.plans[index]["notes"]).with_suffix(".done").exists()

    @property
    def busy(self) -> list[int]:
        return [index for index in range(len(self.plans)) if not self.is_done(index)]

    def kill(self, index: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pids[index], signal.SIGKILL)

    def restart_dead(self) -> None:
        """Restart the writers that were killed before they finished."""
        for index in self.busy:
            try:
                os.kill(self.pids[index], 0)
            except ProcessLookupError:
                if not self.is_done(index):
                    self.restarts += 1
                    self._start(index)

    def acks(self, conversation: UUID) -> list[Ack]:
        """Return the acknowledgements of a conversation.

        Messages are in the order of their acknowledgements. Frames are sorted by their number, because two writers
        store the frames of one engine.
        """
        entries = []
        for plan in self.plans:
            if plan["conversation"] != str(conversation):
                continue
            for line in Path(plan["notes"]).read_text().splitlines():
                sender, number, seq = line.split(" ")
                name = create_event_id(plan["conversation"], sender, int(number))
                entries.append(
                    (
                        plan["kind"] == "frames",
                        int(number),
                        Ack(sender, name, int(seq) if seq else None),
                    )
                )
        messages = [entry for entry in entries if not entry[0]]
        frames = sorted((entry for entry in entries if entry[0]), key=lambda entry: entry[1])
        return [ack for *_, ack in (*messages, *frames)]

    def count(self) -> int:
        return sum(Path(plan["notes"]).read_bytes().count(b"\n") for plan in self.plans)

    def stop(self) -> None:
        for index in self.pids:
            self.kill(index)
        assert self._parent.stdin
        assert self._parent.stdout
        self._parent.stdin.close()
        self._parent.wait(10)
        self._parent.stdout.close()
        self.log.close()


class RestSender(threading.Thread):
    """A thread that posts messages by REST. It repeats each until it is accepted, and posts some twice."""

    def __init__(self, person: Person, conversation: UUID, name: str, count: int) -> None:
        super().__init__(daemon=True)
        self.person, self.conversation, self.sender, self.count = person, conversation, name, count
        self.acks: list[Ack] = []
        self.results: Counter[str] = Counter()

    def run(self) -> None:
        dice = random.Random(self.sender)
        order = shuffle_numbers(self.sender, self.count)
        with httpx2.Client(trust_env=False, timeout=20) as client:
            for turn, number in enumerate(order):
                self._post(client, number)
                if dice.random() < 0.1:
                    self._post(client, order[dice.randrange(turn + 1)])

    def _post(self, client: httpx2.Client, number: int) -> None:
        message_id = create_event_id(str(self.conversation), self.sender, number)
        while True:
            try:
                response = client.post(
                    f"{self.person.stack.url}/api/v1/conversations/{self.conversation}/messages",
                    json={"text": f"{self.sender} {number}", "message_id": message_id},
                    headers={"Authorization": f"Bearer {self.person.key}"},
                )
            except httpx2.TransportError as error:
                self.results[type(error).__name__] += 1
                time.sleep(0.1)
                continue
            self.results[str(response.status_code)] += 1
            if response.status_code == 202:
                self.acks.append(Ack(self.sender, message_id, response.json()["seq"]))
                return
            time.sleep(0.1)


@dataclass
class Client:
    """A WebSocket client that reconnects behind its last event. It may be slow, or cut its connections."""

    conversation: UUID
    pause: float = 0.0
    is_cut: bool = False
    seen: list[int] = field(default_factory=list)
    codes: Counter = field(default_factory=Counter)
    resets: int = 0

    @property
    def kind(self) -> str:
        return "slow" if self.pause else "cut" if self.is_cut else "plain"

    async def run(self, person: Person, dice: random.Random) -> None:
        url = person.stack.url.replace("http", "ws", 1)
        while True:
            after = self.seen[-1] if self.seen else 0
            try:
                async with connect(
                    f"{url}/ws/v1/conversations/{self.conversation}?after={after}",
                    additional_headers={"Authorization": f"Bearer {person.key}"},
                    close_timeout=0.1,
                    proxy=None,
                    max_queue=2,
                ) as socket:
                    await self._read(socket, dice)
            except (OSError, WebSocketException, TimeoutError) as error:
                code = getattr(getattr(error, "rcvd", None), "code", None)
                self.codes[str(code or type(error).__name__)] += 1
            await asyncio.sleep(0.1)

    async def _read(self, socket: Any, dice: random.Random) -> None:
        ends = time.monotonic() + dice.uniform(0.1, 1.5)
        while not self.is_cut or time.monotonic() < ends:
            frame = json.loads(await asyncio.wait_for(socket.recv(), 1.5 if self.is_cut else None))
            self.resets += frame["type"] == "reset"
            if frame["type"] == "event":
                self.seen.append(frame["seq"])
            if self.pause:
                await asyncio.sleep(self.pause)
        socket.transport.abort()


class Clients(threading.Thread):
    """A thread that runs all WebSocket clients in an event loop of its own."""

    def __init__(self, person: Person, clients: list[Client]) -> None:
        super().__init__(daemon=True)
        self.person, self.clients = person, clients
        self._loop = asyncio.new_event_loop()

    def run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._run())
        self._loop.run_until_complete(
            asyncio.sleep(0.2)
        )  # cut connections are closed in a later turn
        self._loop.close()

    async def _run(self) -> None:
        self._all = asyncio.gather(
            *(c.run(self.person, random.Random(f"{SEED} {n}")) for n, c in enumerate(self.clients))
        )
        await self._all

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._all.cancel)
        self.join(10)


# --- The test ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quiet_stack():
    """Start a server without an engine and without workers, whose services may be restarted."""
    running = Stack(
        roles=("web",), environment={"SOCKET_BUFFER_BYTES": "8192", "DATABASE_POOL_SIZE": "6"}
    )
    running.start()
    yield running
    running.stop()


def create_conversations(stack: Stack, count: int) -> list[UUID]:
    """Create conversations whose sandboxes never start, because only their logs matter."""
    output = stack.python(
        "import sys, django; django.setup()\n"
        "from accounts.models import User\n"
        "from conversations import services\n"
        "from conversations.models import StartTask\n"
        "user = User.objects.get(email='owner@example.com')\n"
        "for _ in range(int(sys.argv[1])):\n"
        "    print(services.create_conversation(user=user).pk)\n",
        str(count),
    )
    return [UUID(line) for line in output.split()]


def read_log(stack: Stack, conversation: UUID) -> list[tuple[int, str]]:
    rows = stack.sql(
        "SELECT seq, event_id FROM conversations_event WHERE conversation_id = %s", conversation
    )
    return [(row["seq"], row["event_id"]) for row in rows]


@dataclass
class ChaosRun:
    """A run of writers and clients while ``kills`` processes are killed and services are restarted."""

    stack: Stack
    senders: int
    count: int
    kills: int
    dice: random.Random

    def __post_init__(self) -> None:
        self.logs = create_conversations(self.stack, 2)
        self.writers = Writers(self.stack)
        self.rest = [
            RestSender(self.stack.owner, log, f"rest{number}", self.count)
            for number, log in enumerate(self.logs)
        ]
        watching = [Client(log) for log in self.logs] + [
            Client(log, is_cut=True) for log in self.logs * 2
        ]
        watching += [Client(log, pause=0.003) for log in self.logs]
        self.clients = Clients(self.stack.owner, watching)
        self.faults: Counter[str] = Counter()

    def run(self) -> None:
        """Write all events while faults are injected; return when every event is acknowledged."""
        self.clients.start()
        posting = self.senders - len(self.rest) - len(self.logs)
        for index, log in enumerate(self.logs):
            names = [
                f"sender{number}" for number in range(posting) if number % len(self.logs) == index
            ]
            self.writers.add(
                kind="messages", conversation=str(log), senders=names, count=self.count
            )
            for _ in range(2):  # two writers that take the lease from each other
                self.writers.add(
                    kind="frames", conversation=str(log), senders=["engine"], count=self.count
                )
        for sender in self.rest:
            sender.start()
        self._inject_faults()
        for sender in self.rest:
            sender.join(120)
            assert not sender.is_alive(), sender.results
        self.stack.wait_web()

    def _inject_faults(self) -> None:
        """Kill a process after each equal share of the work, so that the last kill is before its end."""
        total, killed = self.senders * self.count, 0
        deadline = time.monotonic() + 60 + total / 15
        while self.writers.busy:
            assert time.monotonic() < deadline, (self.writers.busy, self.faults)
            written = self.writers.count() + sum(len(sender.acks) for sender in self.rest)
            # Several kills may be due, because a fast machine writes many events between two checks.
            while killed < self.kills and written > total * 0.8 * killed / self.kills:
                killed += 1
                self._kill()
                if killed % max(1, self.kills // 5) == 0:
                    self._disturb_services(killed // max(1, self.kills // 5))
            self.writers.restart_dead()
            time.sleep(0.03)

    def _kill(self) -> None:
        if self.dice.random() < 0.25 or not self.writers.busy:
            self.stack.kill("web")
            self.faults["web killed"] += 1
            return
        index = self.dice.choice(self.writers.busy)
        self.writers.kill(index)
        self.faults[f"writer of {self.writers.plans[index]['kind']} killed"] += 1

    def _disturb_services(self, number: int) -> None:
        if number == 3:
            self.stack.restart_service("PostgreSQL")
            self.faults["PostgreSQL restarted"] += 1
        elif number == 2:
            self.stack.restart_service("Redis")
            self.faults["Redis restarted"] += 1
        else:
            with redis.Redis.from_url(self.stack.services.redis_url) as client:
                client.flushall()
            self.faults["Redis flushed"] += 1

    def wait_for_clients(self, *, seconds: float = 60) -> dict[str, float]:
        """Wait until each client has its whole log, or for ``seconds``; return the slowest time by kind of client."""
        calm = time.monotonic()
        lengths = {log: len(read_log(self.stack, log)) for log in self.logs}
        late, times = list(self.clients.clients), {}
        while late and time.monotonic() < calm + seconds:
            for client in [c for c in late if len(c.seen) >= lengths[c.conversation]]:
                late.remove(client)
                times[client.kind] = round(time.monotonic() - calm, 2)
            time.sleep(0.02)
        return times | {client.kind: seconds for client in late}

    def judge(self) -> list[Verdict]:
        verdicts = []
        for log, sender in zip(self.logs, self.rest, strict=True):
            seen = [c.seen for c in self.clients.clients if c.conversation == log]
            acks = self.writers.acks(log) + sender.acks
            verdicts.append(examine(read_log(self.stack, log), acks, seen))
        return verdicts

    def stop(self) -> None:
        self.clients.stop()
        self.writers.stop()


def run_chaos(stack: Stack, *, senders: int, count: int, kills: int) -> None:
    began = time.monotonic()
    run = ChaosRun(stack, senders, count, kills, random.Random(SEED))
    try:
        run.run()
        worked = time.monotonic() - began
        calm = run.wait_for_clients()
        verdicts = run.judge()
    finally:
        run.stop()
    events = [len(read_log(stack, log)) for log in run.logs]
    codes = sum((client.codes for client in run.clients.clients), Counter())
    total = {
        name: sum(asdict(verdict)[name] for verdict in verdicts) for name in asdict(verdicts[0])
    }
    figure(
        "the event log under faults",
        seed=SEED,
        senders=senders,
        events=sum(events),
        acknowledgements=run.writers.count() + sum(len(s.acks) for s in run.rest),
        faults=run.faults,
        sockets=len(run.clients.clients),
        socket_ends=codes,
        rest_answers=sum((s.results for s in run.rest), Counter()),
        seconds=round(worked, 1),
        seconds_of_calm_until_complete=calm,
        **total,
    )
    assert sum(events) == senders * count
    assert all(verdict.is_clean for verdict in verdicts), verdicts
    assert sum(count for name, count in run.faults.items() if "killed" in name) >= kills
    assert not any(client.resets for client in run.clients.clients)
    assert max(calm.values()) < CALM_SECONDS
    assert_jobs_match(stack, run)


def assert_jobs_match(stack: Stack, run: ChaosRun) -> None:
    """Check that each message has its delivery and its job, which are committed in one transaction."""
    for log in run.logs:
        messages = stack.sql(
            "SELECT count(*) AS n FROM conversations_event WHERE conversation_id = %s AND kind = 'UserMessage'",
            log,
        )
        rows = stack.sql(
            "SELECT count(*) AS n FROM conversations_outgoingmessage WHERE conversation_id = %s",
            log,
        )
        jobs = stack.sql(
            "SELECT count(*) AS n FROM procrastinate_jobs WHERE task_name = 'conversations.tasks.deliver_messages'"
            " AND args->>'conversation_id' = %s",
            str(log),
        )
        assert messages == rows == jobs


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_no_event_is_lost_doubled_or_moved_while_processes_are_killed(quiet_stack):
    run_chaos(quiet_stack, senders=10, count=300, kills=30)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_no_event_is_lost_doubled_or_moved_in_the_long_run(quiet_stack):
    size = float(os.environ.get("CHAOS_SIZE") or 1)
    run_chaos(quiet_stack, senders=40, count=int(2_500 * size), kills=max(20, int(200 * size)))


def test_event_without_a_nudge_arrives_by_polling(quiet_stack):
    [log] = create_conversations(quiet_stack, 1)
    with quiet_stack.owner.socket(log) as socket:
        assert json.loads(socket.recv(timeout=10))["type"] == "status"
        quiet_stack.service("Redis").stop()
        try:
            post = {"text": "Hello", "message_id": create_event_id(str(log), "last", 0)}
            quiet_stack.owner.call("POST", f"conversations/{log}/messages", json=post, expect=202)
            began = time.monotonic()
            time.sleep(0.5)
        finally:
            quiet_stack.service("Redis").start()
        while json.loads(socket.recv(timeout=30))["type"] != "event":
            pass
        seconds = time.monotonic() - began

    figure("a nudge is lost", seconds_to_repair=round(seconds, 1))
    assert seconds < CALM_SECONDS


# --- Controls: designs that lose events ------------------------------------------------


def test_control_acknowledgement_before_the_commit_loses_an_event(quiet_stack):
    [log] = create_conversations(quiet_stack, 1)
    writers = Writers(quiet_stack)
    try:
        dies_at = shuffle_numbers("hasty", 20)[10]
        plan = {"kind": "messages", "conversation": str(log), "senders": ["hasty"], "count": 20}
        writers.add(**plan, acks_first=True, dies_at=dies_at)
        # The writer has read its plan. After its restart it must not die again.
        writers.plans[0]["dies_at"] = -1

        def is_restarted() -> bool:
            writers.restart_dead()
            return writers.restarts > 0

        wait_until(is_restarted, "the writer to die and be restarted")
        wait_until(lambda: not writers.busy, "the writer to finish")
        verdict = examine(read_log(quiet_stack, log), writers.acks(log))
    finally:
        writers.stop()

    figure("control: acknowledge first, write later", lost=verdict.lost)
    assert verdict.lost == 1


def test_control_payloads_pushed_through_redis_are_lost_during_its_restart(quiet_stack):
    [log] = create_conversations(quiet_stack, 1)
    seen: list[int] = []
    is_over = threading.Event()

    def listen() -> None:
        while not is_over.is_set():
            with (
                contextlib.suppress(redis.RedisError, OSError),
                redis.Redis.from_url(quiet_stack.services.redis_url) as client,
                client.pubsub() as subscription,
            ):
                subscription.subscribe("pushed")
                while not is_over.is_set():
                    message = subscription.get_message(ignore_subscribe_messages=True, timeout=0.1)
                    if message:
                        seen.append(int(message["data"]))
            time.sleep(0.05)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    writers = Writers(quiet_stack)
    try:
        time.sleep(0.3)
        writers.add(
            kind="messages", conversation=str(log), senders=["pusher"], count=150, pushes=True
        )
        wait_until(lambda: writers.count() >= 40, "40 acknowledgements", pause=0.02)
        quiet_stack.restart_service("Redis")
        wait_until(lambda: not writers.busy, "the writer to finish", seconds=60)
        received = sorted(set(seen))
        verdict = examine(read_log(quiet_stack, log), writers.acks(log), [received])
    finally:
        is_over.set()
        listener.join(10)
        writers.stop()

    figure("control: push by Redis", sent=len(read_log(quiet_stack, log)), received=len(received))
    assert verdict.incomplete == 1
    assert verdict == Verdict(0, 0, 0, 0, 0, 1)
