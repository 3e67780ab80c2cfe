"""Redis is lost for a minute, in the middle of everything, and comes back as another that knows nothing.

Claims, the log and delivery go on, by looking now and then; reading is allowed, signing in is not. Once it is back
everything is as before by itself.
"""

import contextlib
import json
import math
import os
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from uuid import UUID

import httpx2
import pytest
import redis

from tests.chaos.checker import examine
from tests.chaos.readers import NUDGED_SECONDS, LongPoll, Reader, Socket, Stream
from tests.chaos.test_cluster import INTERVAL, Cluster
from tests.chaos.test_kills import how_it_ended, steps
from tests.fakes.stack import Person, Stack, Talk, figure

pytestmark = [pytest.mark.siege, pytest.mark.timeout(900)]
PASSWORD = "correct horse battery"
CLAIM_SECONDS = 6.0
LATE_SECONDS = 6.0
"""A poll every three seconds, and patience on a busy machine."""
BACK_SECONDS = 4.0
"""Until nudges flow again: whoever listens tries to reach Redis once a second."""
NODES_SECONDS = 10.0
READING_SECONDS = 10.0
PATIENCE_SECONDS = 60
"""Redis stays away for so much longer until a run that began without it ends: an engine's start takes its time."""
LATE_EVENTS = 60
READING = ("by key", "a page of events", "by cookie")
REFUSED = {
    "signing in": (503, "attempts-not-counted", True),
    "signing in by the page": (503, "", True),
    "spending": (503, "requests-not-counted", True),
    "nodes": (503, "registry-unavailable", True),
}
METRICS_TOKEN = "metrics"
MAKE_STAFF = f"""\
import json, django
django.setup()
from accounts import services
user = services.create_user(
    email="staff@example.com", name="staff", password="{PASSWORD}", is_staff=True, is_superuser=True
)
_, key = services.issue_api_key(user=user, name="test")
print(json.dumps({{"id": str(user.pk), "organization": str(user.personal_organization.pk), "key": key}}))
"""
MAKE_CONVERSATION = """\
import sys, django
django.setup()
from accounts.models import User
from conversations import services
user = User.objects.get(email="owner@example.com")
print(services.create_conversation(user=user, message=sys.argv[1], message_id="first").pk)
"""


@pytest.fixture(scope="module")
def cluster():
    """Every role, with the limits that people have but for the number of their readings."""
    stack = Stack(
        roles=("web", "realtime", "worker", "manager"),
        environment={
            "RATE_LIMITS": "address=100000/m,read=100000/m",
            "METRICS_TOKEN": METRICS_TOKEN,
            "NODE_TTL_SECONDS": "9",
            "SANDBOX_MAX_RUNNING": "100",  # those of one test still run in the next
        },
    )
    stack.start()
    made = json.loads(stack.python(MAKE_STAFF))
    stack.people["staff"] = Person(name="staff", stack=stack, **made)
    found = Cluster(stack)
    try:
        yield found
    finally:
        found.stop()
        stack.stop()


@pytest.fixture
def closing():
    with contextlib.ExitStack() as steps:
        yield steps


class Browser:
    """Somebody at the pages: a cookie, and whatever signing in needs."""

    def __init__(self, stack: Stack, closing: contextlib.ExitStack) -> None:
        self.client = httpx2.Client(base_url=stack.url, trust_env=False, timeout=30)
        closing.callback(self.client.close)

    def sign_in(self, email: str = "staff@example.com") -> httpx2.Response:
        self.client.get("/api/v1/auth/csrf")
        return self.client.post(
            "/api/v1/auth/sign-in",
            json={"email": email, "password": PASSWORD},
            headers={"X-XSRF-TOKEN": self.client.cookies["XSRF-TOKEN"]},
        )

    def sign_in_by_page(self) -> httpx2.Response:
        self.client.get("/api/v1/auth/csrf")
        form = {"email": "staff@example.com", "password": PASSWORD}
        headers = {"X-XSRF-TOKEN": self.client.cookies["XSRF-TOKEN"]}
        return self.client.post("/sign-in", data=form, headers=headers)


class Again(threading.Thread):
    """Does one thing again and again and counts the answers."""

    def __init__(self, ask: Callable[[], Any], *, pause: float) -> None:
        super().__init__(daemon=True)
        self.ask, self.pause = ask, pause
        self.done = threading.Event()
        self.answers: Counter[Any] = Counter()
        self.slowest = 0.0

    def run(self) -> None:
        while not self.done.is_set():
            started = time.monotonic()
            try:
                self.answers[self.ask()] += 1
            except httpx2.TransportError as error:
                self.answers[type(error).__name__] += 1
            self.slowest = max(self.slowest, time.monotonic() - started)
            self.done.wait(self.pause)


class Claims(threading.Thread):
    """Looks when conversations are there to be claimed, and when somebody has claimed them."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(daemon=True)
        self.stack = stack
        self.wanted: dict[UUID, float] = {}
        self.claimed: dict[UUID, float] = {}
        self.done = threading.Event()
        self.start()

    def run(self) -> None:
        while not self.done.wait(0.05):
            for row in self.stack.sql(
                "SELECT conversation_id AS key, following_run FROM conversations_lease WHERE is_wanted"
            ):
                self.wanted.setdefault(row["key"], time.monotonic())
                if row["following_run"] is not None:
                    self.claimed.setdefault(row["key"], time.monotonic())

    def slowest(self, keys: list[UUID]) -> float:
        """Seconds until the last of these was followed."""
        try:
            until(lambda: set(keys) <= self.claimed.keys(), seconds=30)
        finally:
            self.done.set()
            self.join(10)
        return max(self.claimed[key] - self.wanted[key] for key in keys)


class Fresh(threading.Thread):
    """A conversation on the real engine, from its first message to the end of its run."""

    def __init__(self, owner: Person) -> None:
        super().__init__(daemon=True)
        self.owner = owner
        self.ended: str | None = None
        self.ended_after: float | None = None
        self.start()

    def run(self) -> None:
        started = time.monotonic()
        made = self.owner.stack.python(MAKE_CONVERSATION, steps(3))
        self.talk = Talk(self.owner, UUID(made.strip()), {})
        until(lambda: how_it_ended(self.talk, 0), seconds=150)
        self.ended = how_it_ended(self.talk, 0)
        self.ended_after = time.monotonic() - started


def refusal(answer: httpx2.Response) -> tuple[int, str, bool]:
    """What an answer says to whoever is turned away: status, code, and whether it says when to come back."""
    is_json = "json" in answer.headers["content-type"]
    seconds = answer.headers.get("Retry-After", "")
    return answer.status_code, answer.json().get("code", "") if is_json else "", seconds.isdigit()


def gauges(stack: Stack) -> dict[str, float]:
    headers = {"Authorization": f"Bearer {METRICS_TOKEN}"}
    text = httpx2.get(f"{stack.url}/metrics", headers=headers, timeout=30, trust_env=False).text
    lines = [line.rpartition(" ") for line in text.splitlines() if line.startswith("oh_node")]
    found: Counter[str] = Counter()
    for name, _, value in lines:
        found[name.partition("{")[0]] += float(value)  # type: ignore[assignment]
    return dict(found)


def roles(stack: Stack) -> list[str]:
    answer = stack.people["staff"].call("GET", "nodes")
    return sorted(one["role"] for one in answer.json()["items"]) if answer.is_success else []


def until(look: Callable[[], Any], *, seconds: float) -> float:
    """Wait until something is so; the seconds it took."""
    started = time.monotonic()
    while not look():
        assert time.monotonic() < started + seconds, "it did not happen"
        time.sleep(0.05)
    return time.monotonic() - started


def followed(stack: Stack, keys: list[UUID]) -> bool:
    """Whether a manager has the engine's socket of each of these open."""
    rows = stack.sql(
        "SELECT count(*) AS n FROM conversations_lease"
        " WHERE following_run IS NOT NULL AND conversation_id = ANY(%s)",
        keys,
    )
    return bool(rows[0]["n"] == len(keys))


def length(stack: Stack, keys: list[UUID]) -> int:
    """How many of their engines' events these have."""
    rows = stack.sql(
        "SELECT count(*) AS n FROM conversations_event"
        " WHERE engine_seq IS NOT NULL AND conversation_id = ANY(%s)",
        keys,
    )
    return int(rows[0]["n"])


def run_id(stack: Stack) -> str:
    with redis.Redis.from_url(stack.services.redis_url) as client:
        return str(client.info("server")["run_id"])


def is_whole(reader: Reader, lengths: dict[UUID, int]) -> bool:
    return len(reader.seen) >= lengths[reader.conversation]


def worst(readers: list[Reader], since: float, until: float) -> dict[str, float]:
    """The latest event of a span, in seconds, by kind of client."""
    found: dict[str, float] = {}
    for reader in readers:
        late = max(reader.lateness(since, until), default=0.0)
        found[reader.kind] = round(max(found.get(reader.kind, 0.0), late), 2)
    return found


def readers_of(stack: Stack, keys: list[UUID]) -> list[Reader]:
    """One of each kind on each of these, and sockets at either role."""
    owner, found = stack.owner, []
    for key in keys:
        found += [Socket(owner, stack.url, key), Socket(owner, stack.realtime_url, key)]
        found += [Stream(owner, stack.realtime_url, key), LongPoll(owner, stack.url, key)]
    for reader in found:
        reader.start()
    return found


class Outage:
    """One loss of Redis, from before to behind it: who works, reads and asks meanwhile, and what they saw."""

    def __init__(self, cluster: Cluster, closing: contextlib.ExitStack, how: str, seconds: int):
        self.cluster, self.stack, self.owner = cluster, cluster.stack, cluster.stack.owner
        self.how, self.seconds = how, seconds
        self.browser, self.newcomer = Browser(self.stack, closing), Browser(self.stack, closing)
        self.pids = {name: self.stack.pid(name) for name in self.stack.roles}
        self.asking: dict[str, Again] = {}
        self.late_keys: list[UUID] = []
        self.late_readers: list[Reader] = []

    # --- Before ---

    def prepare(self) -> None:
        """A conversation at work on the real engine, two that tell by the clock, and clients of all kinds."""
        started = time.monotonic()
        self.real = self.owner.converse(title="While Redis is away")
        self.real.wait_ready()
        self.usual_seconds = time.monotonic() - started
        assert self.browser.sign_in().status_code == 200
        until(lambda: len(roles(self.stack)) == len(self.stack.roles), seconds=30)
        self.count = round((self.seconds + PATIENCE_SECONDS + 70) / INTERVAL)
        self.keys = self.cluster.converse(2, events=self.count)
        until(lambda: followed(self.stack, self.keys), seconds=30)
        self.calm = time.time()
        self.readers = readers_of(self.stack, self.keys)
        until(lambda: all(len(one.seen) > 5 for one in self.readers), seconds=30)
        time.sleep(4)
        self.said = self.real.say(steps(12, pause=1))
        self.real.wait_run(self.said["seq"])

    # --- Meanwhile ---

    def lose(self) -> None:
        self.first = run_id(self.stack)
        number = signal.SIGKILL if self.how == "killed" else signal.SIGSTOP
        os.kill(self.stack.service("Redis").process.pid, number)
        self.lost = time.time()

    def ask(self) -> None:
        """Read, and try what is refused, all the time."""
        owner, staff, one, other = self.owner, self.stack.people["staff"], *self.keys
        asks: dict[str, tuple[float, Callable[[], Any]]] = {
            "by key": (0.3, lambda: owner.call("GET", f"conversations/{one}").status_code),
            "a page of events": (
                0.3,
                lambda: owner.call("GET", f"conversations/{other}/events?after=3").status_code,
            ),
            "by cookie": (0.5, lambda: self.browser.client.get("/api/v1/users/me").status_code),
            "signing in": (3, lambda: refusal(self.newcomer.sign_in())),
            "signing in by the page": (7, lambda: refusal(self.newcomer.sign_in_by_page())),
            "spending": (5, lambda: refusal(owner.call("POST", "conversations", json={}))),
            "nodes": (5, lambda: refusal(staff.call("GET", "nodes"))),
            "metrics": (5, lambda: gauges(self.stack).get("oh_node_registry_up")),
        }
        for name, (pause, ask) in asks.items():
            self.asking[name] = Again(ask, pause=pause)
            self.asking[name].start()

    def work(self) -> None:
        """What begins now: a conversation on the real engine, others to be claimed, clients of old and new ones."""
        self.fresh = Fresh(self.owner)
        claims = Claims(self.stack)
        self.late_keys = self.cluster.converse(8, events=LATE_EVENTS)
        self.claim_seconds = claims.slowest(self.late_keys)
        more = [Socket(self.owner, self.stack.url, key) for key in self.late_keys[2:]]
        more.append(Socket(self.owner, self.stack.url, self.keys[0]))
        for reader in more:
            reader.start()
        self.late_readers = readers_of(self.stack, self.late_keys[:2]) + more
        time.sleep(max(0.0, self.lost + self.seconds - time.time()))
        until(lambda: self.fresh.ended_after and self.end_of_run(), seconds=PATIENCE_SECONDS)
        joined = [one.joined_at or math.inf for one in self.late_readers]
        began = [one.began for one in self.late_readers]
        self.join_seconds = max(at - before for at, before in zip(joined, began, strict=True))

    def end_of_run(self) -> str | None:
        return how_it_ended(self.real, self.said["seq"])

    def bring_back(self) -> None:
        """Another Redis, at the same address and empty."""
        for thread in self.asking.values():
            thread.done.set()
        for thread in self.asking.values():
            thread.join(40)
        service = self.stack.service("Redis")
        service.process.kill()
        service.stop()
        self.away_seconds = time.time() - self.lost
        service.start()
        self.back = time.time()

    # --- Afterwards ---

    def recover(self) -> None:
        """See that everything is as it was, and the logs and the clients to their ends."""
        stack, everything = self.stack, len(self.stack.roles)
        assert run_id(stack) != self.first
        self.nodes_seconds = until(lambda: len(roles(stack)) == everything, seconds=60)
        until(lambda: gauges(stack).get("oh_nodes") == everything, seconds=60)
        self.metrics_seconds = time.time() - self.back
        assert self.newcomer.sign_in().status_code == 200
        self.tries = {self.newcomer.sign_in("nobody@example.com").status_code for _ in range(25)}
        self.owner.call("POST", "conversations", json={}, expect=201)
        time.sleep(max(0.0, self.back + 15 - time.time()))
        self.settled = time.time()
        until(lambda: length(stack, self.keys) >= 2 * self.count, seconds=180)
        self.lengths = {
            key: len(Talk(self.owner, key, {}).rows()) for key in (*self.keys, *self.late_keys)
        }
        with contextlib.suppress(AssertionError):  # judged below
            until(lambda: all(is_whole(one, self.lengths) for one in self.clients), seconds=20)
        for reader in self.clients:
            reader.done.set()
        for reader in self.clients:
            reader.join(40)

    @property
    def clients(self) -> list[Reader]:
        return self.readers + self.late_readers

    def judge(self) -> dict[str, int]:
        """What is wrong with the logs, and with what each client was sent of them."""
        old = self.cluster.judge(self.keys, events=self.count)
        new = self.cluster.judge(self.late_keys, events=LATE_EVENTS)
        incomplete = 0
        for key in self.lengths:
            log = [(row["seq"], row["event_id"]) for row in Talk(self.owner, key, {}).rows()]
            seen = [one.seqs for one in self.clients if one.conversation == key]
            incomplete += examine(log, [], seen).incomplete
        return {name: old[name] + new[name] for name in old} | {"incomplete": incomplete}

    def late_meanwhile(self) -> dict[str, float]:
        return worst(self.clients, self.lost, self.back - 1)

    def late_afterwards(self) -> list[float]:
        since = self.back + BACK_SECONDS
        return [one for reader in self.readers for one in reader.lateness(since, self.settled)]

    def nudged_seconds(self) -> float:
        """Until every client was told at once again."""
        found = [one.nudged_after(self.back) for one in self.readers]
        return max(math.inf if one is None else one for one in found)


def tell(outage: Outage, verdict: dict[str, int]) -> None:
    asking = outage.asking
    figure(
        f"Redis is {outage.how} and comes back empty",
        seconds_away=round(outage.away_seconds, 1),
        clients=len(outage.clients),
        seconds_until_claimed=round(outage.claim_seconds, 1),
        seconds_until_joined=round(outage.join_seconds, 1),
        seconds_late_before=worst(outage.readers, outage.calm + 1, outage.lost - 1),
        seconds_late_meanwhile=outage.late_meanwhile(),
        seconds_until_nudged_again=round(outage.nudged_seconds(), 2),
        milliseconds_late_afterwards=round(
            statistics.median(outage.late_afterwards() or [-1]) * 1000
        ),
        seconds_for_a_new_run=round(outage.fresh.ended_after or math.inf, 1),
        seconds_until_an_engine_is_usually_ready=round(outage.usual_seconds, 1),
        seconds_until_nodes_are_back=round(outage.nodes_seconds, 1),
        seconds_until_metrics_are_back=round(outage.metrics_seconds, 1),
        readings=sum(asking[name].answers.total() for name in READING),
        slowest_reading=round(max(asking[name].slowest for name in READING), 2),
        refused={name: asking[name].answers.total() for name in REFUSED},
        faults={f"Redis {outage.how}": 1},
        **verdict,
    )


@pytest.mark.engine
@pytest.mark.parametrize(("how", "seconds"), [("killed", 60), ("frozen", 30)])
def test_redis_is_lost_and_comes_back_empty(cluster, closing, how, seconds):
    outage = Outage(cluster, closing, how, seconds)
    outage.prepare()
    outage.lose()
    try:
        outage.ask()
        outage.work()
    finally:
        outage.bring_back()
    outage.recover()
    verdict = outage.judge()
    tell(outage, verdict)

    events = 2 * outage.count + 8 * LATE_EVENTS
    nothing = {"lost": 0, "doubled": 0, "moved": 0, "gaps": 0, "incomplete": 0}
    assert verdict == {"events": events} | nothing
    assert not [(one.kind, one.ends) for one in outage.clients if one.ends or one.resets]
    assert outage.end_of_run() == outage.fresh.ended == "finished"
    assert outage.real.compare_logs()
    assert outage.fresh.talk.compare_logs()
    assert outage.claim_seconds <= CLAIM_SECONDS
    assert outage.join_seconds <= LATE_SECONDS
    assert max(outage.late_meanwhile().values()) <= LATE_SECONDS
    for reader in outage.readers:  # else nobody polled, and this test saw no loss at all
        assert max(reader.lateness(outage.lost + 1, outage.back - 1)) > NUDGED_SECONDS
    assert outage.nudged_seconds() <= BACK_SECONDS
    late = outage.late_afterwards()
    assert sum(one < NUDGED_SECONDS for one in late) >= max(50, 0.95 * len(late))
    for name in READING:
        assert set(outage.asking[name].answers) == {200}, (name, outage.asking[name].answers)
        assert outage.asking[name].slowest < READING_SECONDS
    for name, wanted in REFUSED.items():
        assert set(outage.asking[name].answers) == {wanted}, (name, outage.asking[name].answers)
    assert set(outage.asking["metrics"].answers) == {0.0}
    assert outage.nodes_seconds <= NODES_SECONDS
    assert outage.tries == {401, 429}
    assert {name: outage.stack.pid(name) for name in outage.stack.roles} == outage.pids


def test_control_without_polls_a_client_is_late(closing):
    stack = Stack(roles=("web", "manager"), environment={"HUB_POLL_SECONDS": "300"})
    closing.callback(stack.stop)
    stack.start()
    cluster = Cluster(stack)
    closing.callback(cluster.stop)
    keys = cluster.converse(1, events=120)
    reader = Socket(stack.owner, stack.url, keys[0])
    reader.start()
    until(lambda: len(reader.seen) > 5, seconds=60)

    lost = time.time()
    os.kill(stack.service("Redis").process.pid, signal.SIGKILL)
    time.sleep(3 * LATE_SECONDS)
    stack.restart_service("Redis")
    until(lambda: len(reader.seen) >= 120, seconds=90)
    reader.done.set()
    reader.join(40)

    late = max(reader.lateness(lost, lost + LATE_SECONDS))
    figure("control: no polls while Redis is away", seconds_late=round(late, 1))
    assert late > LATE_SECONDS
    assert reader.seqs == list(range(1, len(reader.seen) + 1))
