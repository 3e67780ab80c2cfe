"""The event log while everything around it fails: writers and web killed, Redis and PostgreSQL restarted.

``CHAOS_SEED`` repeats a run's random moments.
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
from tests.chaos.writer import event_id, order_of
from tests.fakes.stack import Person, Stack, figure
from tests.prepare import ROOT

SEED = int(os.environ.get("CHAOS_SEED") or random.randrange(1_000_000))
CALM_SECONDS = 5.0


# --- The judge is judged -----------------------------------------------------------


def clean_log() -> tuple[list[tuple[int, str]], list[Ack], list[list[int]]]:
    log = [(seq, f"event {seq}") for seq in range(1, 21)]
    acks = [Ack("even" if seq % 2 == 0 else "odd", name, seq) for seq, name in log]
    return log, acks, [list(range(1, 21))]


def without(log, seq):
    return [one for one in log if one[0] != seq]


def swapped(log):
    names = [name for _, name in log]
    names[3], names[5] = names[5], names[3]
    return [(seq, name) for (seq, _), name in zip(log, names, strict=True)]


@pytest.mark.parametrize(
    ("doctor", "wrong"),
    [
        (lambda log: log, set()),
        (
            lambda log: [(n, name) for n, (_, name) in enumerate(without(log, 7), 1)],
            {"lost", "moved"},
        ),
        (lambda log: without(log, 7), {"lost", "gaps"}),
        (lambda log: without(log, 20), {"lost"}),
        (lambda log: [*log, (21, "event 7")], {"doubled", "moved", "inversions"}),
        (lambda log: [*without(log, 7), (8, "event 7")], {"gaps", "moved"}),
        (swapped, {"moved", "inversions"}),
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
def test_the_checker_sees_a_doctored_log(doctor, wrong):
    log, acks, _ = clean_log()

    verdict = examine(doctor(log), acks)

    assert {name for name, count in asdict(verdict).items() if count} == wrong


@pytest.mark.parametrize(
    "doctor",
    [
        lambda seen: seen[:-1],
        lambda seen: seen[:5] + seen[6:],
        lambda seen: [*seen[:5], seen[4], *seen[5:]],
        lambda seen: [*seen[:5], seen[6], seen[5], *seen[7:]],
    ],
    ids=["behind", "gap", "doubled", "swapped"],
)
def test_the_checker_sees_what_a_client_was_sent(doctor):
    log, acks, [seen] = clean_log()

    assert examine(log, acks, [seen]).is_clean
    assert examine(log, acks, [seen, doctor(seen)]).incomplete == 1


# --- Who writes and who reads --------------------------------------------------------


class Writers:
    """Writer processes, forked from one that has Django loaded."""

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

    def revive(self) -> None:
        """Start again who is dead and not done."""
        for index in self.busy:
            try:
                os.kill(self.pids[index], 0)
            except ProcessLookupError:
                if not self.is_done(index):
                    self.restarts += 1
                    self._start(index)

    def acks(self, conversation: UUID) -> list[Ack]:
        """What was acknowledged; of frames, which are numbered by their engine, in that order."""
        found = []
        for plan in self.plans:
            if plan["conversation"] != str(conversation):
                continue
            for line in Path(plan["notes"]).read_text().splitlines():
                sender, number, seq = line.split(" ")
                name = event_id(plan["conversation"], sender, int(number))
                found.append(
                    (
                        plan["kind"] == "frames",
                        int(number),
                        Ack(sender, name, int(seq) if seq else None),
                    )
                )
        frames = sorted((one for one in found if one[0]), key=lambda one: one[1])
        return [ack for *_, ack in (*(one for one in found if not one[0]), *frames)]

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
    """Posts messages by REST, each until it is accepted, and some again."""

    def __init__(self, person: Person, conversation: UUID, name: str, count: int) -> None:
        super().__init__(daemon=True)
        self.person, self.conversation, self.sender, self.count = person, conversation, name, count
        self.acks: list[Ack] = []
        self.answers: Counter[str] = Counter()

    def run(self) -> None:
        dice = random.Random(self.sender)
        order = order_of(self.sender, self.count)
        with httpx2.Client(trust_env=False, timeout=20) as client:
            for turn, number in enumerate(order):
                self._post(client, number)
                if dice.random() < 0.1:
                    self._post(client, order[dice.randrange(turn + 1)])

    def _post(self, client: httpx2.Client, number: int) -> None:
        message_id = event_id(str(self.conversation), self.sender, number)
        while True:
            try:
                answer = client.post(
                    f"{self.person.stack.url}/api/v1/conversations/{self.conversation}/messages",
                    json={"text": f"{self.sender} {number}", "message_id": message_id},
                    headers={"Authorization": f"Bearer {self.person.key}"},
                )
            except httpx2.TransportError as error:
                self.answers[type(error).__name__] += 1
                time.sleep(0.1)
                continue
            self.answers[str(answer.status_code)] += 1
            if answer.status_code == 202:
                self.acks.append(Ack(self.sender, message_id, answer.json()["seq"]))
                return
            time.sleep(0.1)


@dataclass
class Client:
    """A socket's end: what it was sent over all its connections."""

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
    """All sockets, in one loop of their own."""

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
    """A server without an engine and without workers, whose services may be restarted."""
    running = Stack(
        roles=("web",), environment={"SOCKET_BUFFER_BYTES": "8192", "DATABASE_POOL_SIZE": "6"}
    )
    running.start()
    yield running
    running.stop()


def conversations(stack: Stack, count: int) -> list[UUID]:
    """Conversations whose agent never comes: only their logs matter."""
    made = stack.python(
        "import sys, django; django.setup()\n"
        "from accounts.models import User\n"
        "from conversations import services\n"
        "from conversations.models import StartTask\n"
        "user = User.objects.get(email='owner@example.com')\n"
        "for _ in range(int(sys.argv[1])):\n"
        "    print(services.create_conversation(user=user).pk)\n",
        str(count),
    )
    return [UUID(line) for line in made.split()]


def log_of(stack: Stack, conversation: UUID) -> list[tuple[int, str]]:
    rows = stack.sql(
        "SELECT seq, event_id FROM conversations_event WHERE conversation_id = %s", conversation
    )
    return [(row["seq"], row["event_id"]) for row in rows]


@dataclass
class Siege:
    """One run of the test."""

    stack: Stack
    senders: int
    count: int
    kills: int
    dice: random.Random

    def __post_init__(self) -> None:
        self.logs = conversations(self.stack, 2)
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
        """Write it all while things fail; returns when everything was acknowledged."""
        self.clients.start()
        posting = self.senders - len(self.rest) - len(self.logs)
        for index, log in enumerate(self.logs):
            mine = [
                f"sender{number}" for number in range(posting) if number % len(self.logs) == index
            ]
            self.writers.add(kind="messages", conversation=str(log), senders=mine, count=self.count)
            for _ in range(2):  # two managers that take the lease from each other
                self.writers.add(
                    kind="frames", conversation=str(log), senders=["engine"], count=self.count
                )
        for sender in self.rest:
            sender.start()
        self._besiege()
        for sender in self.rest:
            sender.join(120)
            assert not sender.is_alive(), sender.answers
        self.stack.wait_web()

    def _besiege(self) -> None:
        """Kill at equal shares of the work, so that the last kill falls before its end."""
        everything, killed = self.senders * self.count, 0
        deadline = time.monotonic() + 60 + everything / 15
        while self.writers.busy:
            assert time.monotonic() < deadline, (self.writers.busy, self.faults)
            written = self.writers.count() + sum(len(sender.acks) for sender in self.rest)
            # As many as the work that was done since is worth: on an idle machine a look is many events late.
            while killed < self.kills and written > everything * 0.9 * killed / self.kills:
                killed += 1
                self._kill()
                if killed % max(1, self.kills // 5) == 0:
                    self._shake(killed // max(1, self.kills // 5))
            self.writers.revive()
            time.sleep(0.03)

    def _kill(self) -> None:
        if self.dice.random() < 0.25 or not self.writers.busy:
            self.stack.kill("web")
            self.faults["web killed"] += 1
            return
        index = self.dice.choice(self.writers.busy)
        self.writers.kill(index)
        self.faults[f"writer of {self.writers.plans[index]['kind']} killed"] += 1

    def _shake(self, number: int) -> None:
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

    def settle(self, *, seconds: float = 60) -> dict[str, float]:
        """Wait until each client has everything, or long enough; the slowest of each kind, in seconds of calm."""
        calm = time.monotonic()
        lengths = {log: len(log_of(self.stack, log)) for log in self.logs}
        late, taken = list(self.clients.clients), {}
        while late and time.monotonic() < calm + seconds:
            for client in [c for c in late if len(c.seen) >= lengths[c.conversation]]:
                late.remove(client)
                taken[client.kind] = round(time.monotonic() - calm, 2)
            time.sleep(0.02)
        return taken | {client.kind: seconds for client in late}

    def judge(self) -> list[Verdict]:
        verdicts = []
        for log, sender in zip(self.logs, self.rest, strict=True):
            seen = [c.seen for c in self.clients.clients if c.conversation == log]
            acks = self.writers.acks(log) + sender.acks
            verdicts.append(examine(log_of(self.stack, log), acks, seen))
        return verdicts

    def stop(self) -> None:
        self.clients.stop()
        self.writers.stop()


def besiege(stack: Stack, *, senders: int, count: int, kills: int) -> None:
    began = time.monotonic()
    siege = Siege(stack, senders, count, kills, random.Random(SEED))
    try:
        siege.run()
        worked = time.monotonic() - began
        calm = siege.settle()
        verdicts = siege.judge()
    finally:
        siege.stop()
    events = [len(log_of(stack, log)) for log in siege.logs]
    codes = sum((client.codes for client in siege.clients.clients), Counter())
    total = {
        name: sum(asdict(verdict)[name] for verdict in verdicts) for name in asdict(verdicts[0])
    }
    figure(
        "the event log under faults",
        seed=SEED,
        senders=senders,
        events=sum(events),
        acknowledgements=siege.writers.count() + sum(len(s.acks) for s in siege.rest),
        faults=siege.faults,
        sockets=len(siege.clients.clients),
        socket_ends=codes,
        rest_answers=sum((s.answers for s in siege.rest), Counter()),
        seconds=round(worked, 1),
        seconds_of_calm_until_complete=calm,
        **total,
    )
    assert sum(events) == senders * count
    assert all(verdict.is_clean for verdict in verdicts), verdicts
    assert sum(count for name, count in siege.faults.items() if "killed" in name) >= kills
    assert not any(client.resets for client in siege.clients.clients)
    assert max(calm.values()) < CALM_SECONDS
    _jobs_match(stack, siege)


def _jobs_match(stack: Stack, siege: Siege) -> None:
    """A message and its delivery are one transaction: none without the other."""
    for log in siege.logs:
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


@pytest.mark.timeout(400)
def test_nothing_is_lost_doubled_or_moved(quiet_stack):
    besiege(quiet_stack, senders=10, count=300, kills=30)


@pytest.mark.siege
@pytest.mark.timeout(3600)
def test_nothing_is_lost_in_a_long_siege(quiet_stack):
    size = float(os.environ.get("CHAOS_SIZE") or 1)
    besiege(quiet_stack, senders=40, count=int(2_500 * size), kills=max(20, int(200 * size)))


def test_the_last_event_before_silence_arrives_without_redis(quiet_stack):
    """Its nudge went nowhere, and no later one makes up for it."""
    [log] = conversations(quiet_stack, 1)
    with quiet_stack.owner.socket(log) as socket:
        assert json.loads(socket.recv(timeout=10))["type"] == "status"
        quiet_stack.service("Redis").stop()
        try:
            post = {"text": "Anybody there?", "message_id": event_id(str(log), "last", 0)}
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


# --- What the design refuses is caught ------------------------------------------------


def test_control_acknowledging_before_the_commit_loses(quiet_stack):
    [log] = conversations(quiet_stack, 1)
    writers = Writers(quiet_stack)
    try:
        dies_at = order_of("hasty", 20)[10]
        plan = {"kind": "messages", "conversation": str(log), "senders": ["hasty"], "count": 20}
        writers.add(**plan, acks_first=True, dies_at=dies_at)
        deadline = time.monotonic() + 30
        while not writers.restarts:
            assert time.monotonic() < deadline
            writers.plans[0]["dies_at"] = -1
            writers.revive()
            time.sleep(0.05)
        while writers.busy:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        verdict = examine(log_of(quiet_stack, log), writers.acks(log))
    finally:
        writers.stop()

    figure("control: acknowledge first, write later", lost=verdict.lost)
    assert verdict.lost == 1


def test_control_pushing_payloads_through_redis_loses(quiet_stack):
    [log] = conversations(quiet_stack, 1)
    seen: list[int] = []
    is_over = threading.Event()

    def listen() -> None:
        while not is_over.is_set():
            with (
                contextlib.suppress(redis.RedisError, OSError),
                redis.Redis.from_url(quiet_stack.services.redis_url) as client,
                client.pubsub() as pushed,
            ):
                pushed.subscribe("pushed")
                while not is_over.is_set():
                    message = pushed.get_message(ignore_subscribe_messages=True, timeout=0.1)
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
        deadline = time.monotonic() + 60
        while writers.count() < 40:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        quiet_stack.restart_service("Redis")
        while writers.busy:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        pushed = sorted(set(seen))
        verdict = examine(log_of(quiet_stack, log), writers.acks(log), [pushed])
    finally:
        is_over.set()
        listener.join(10)
        writers.stop()

    figure("control: push by Redis", sent=len(log_of(quiet_stack, log)), received=len(pushed))
    assert verdict.incomplete == 1
    assert verdict == Verdict(0, 0, 0, 0, 0, 1)
