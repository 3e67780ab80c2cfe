"""An outage of Redis for a minute, after which it is empty.

During the outage claims, the log and deliveries continue by polling; reads are served, and sign-in is refused. After
the outage everything works as before, without intervention.
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
from tests.chaos.cluster import INTERVAL, SETTINGS, Cluster
from tests.chaos.readers import NUDGED_SECONDS, LongPoll, Reader, Socket, Stream
from tests.chaos.runs import find_run_end, write_script
from tests.fakes.stack import Person, Stack, Talk, figure
from tests.waiting import wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]
PASSWORD = "correct horse battery"
CLAIM_SECONDS = 6.0
LATE_SECONDS = 6.0
"""Clients poll every three seconds; the rest is a margin for a busy machine."""
BACK_SECONDS = 4.0
"""Time until nudges arrive again. Listeners try to reach Redis once a second."""
NODES_SECONDS = 10.0
READING_SECONDS = 10.0
PATIENCE_SECONDS = 60
"""Redis stays unreachable this much longer, until a run that began without it has ended: an engine starts slowly."""
LATE_EVENTS = 60
READING = ("by key", "a page of events", "by cookie")
REFUSED = {
    "sign-in": (503, "attempts-not-counted", True),
    "sign-in by page": (503, "", True),
    "create conversation": (503, "requests-not-counted", True),
    "nodes": (503, "registry-unavailable", True),
}
METRICS_TOKEN = "metrics"
CREATE_STAFF = f"""\
import json, django
django.setup()
from accounts import services
user = services.create_user(
    email="staff@example.com", name="staff", password="{PASSWORD}", is_staff=True, is_superuser=True
)
_, key = services.issue_api_key(user=user, name="test")
print(json.dumps({{"id": str(user.pk), "organization": str(user.personal_organization.pk), "key": key}}))
"""
CREATE_CONVERSATION = """\
import sys, django
django.setup()
from accounts.models import User
from conversations import services
user = User.objects.get(email="owner@example.com")
print(services.create_conversation(user=user, message=sys.argv[1], message_id="first").pk)
"""


@pytest.fixture(scope="module")
def cluster():
    """Start every role with the default rate limits, except for a high limit of reads."""
    stack = Stack(
        roles=("web", "realtime", "worker", "manager"),
        environment=SETTINGS
        | {
            "RATE_LIMITS": "address=100000/m,read=100000/m",
            "METRICS_TOKEN": METRICS_TOKEN,
            "NODE_TTL_SECONDS": "9",
            "SANDBOX_MAX_RUNNING": "100",  # sandboxes of one test still run in the next test
        },
    )
    stack.start()
    staff = json.loads(stack.python(CREATE_STAFF))
    stack.people["staff"] = Person(name="staff", stack=stack, **staff)
    running = Cluster(stack)
    try:
        yield running
    finally:
        running.stop()
        stack.stop()


@pytest.fixture
def cleanup():
    with contextlib.ExitStack() as callbacks:
        yield callbacks


class Browser:
    """A browser with a cookie and a CSRF token, which signs in by the API or by the page."""

    def __init__(self, stack: Stack, cleanup: contextlib.ExitStack) -> None:
        self.client = httpx2.Client(base_url=stack.url, trust_env=False, timeout=30)
        cleanup.callback(self.client.close)

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


class Repeater(threading.Thread):
    """A thread that repeats a call until ``done`` is set. ``results`` counts the results and errors."""

    def __init__(self, call: Callable[[], Any], *, pause: float) -> None:
        super().__init__(daemon=True)
        self.call, self.pause = call, pause
        self.done = threading.Event()
        self.results: Counter[Any] = Counter()
        self.slowest = 0.0

    def run(self) -> None:
        while not self.done.is_set():
            started = time.monotonic()
            try:
                self.results[self.call()] += 1
            except httpx2.TransportError as error:
                self.results[type(error).__name__] += 1
            self.slowest = max(self.slowest, time.monotonic() - started)
            self.done.wait(self.pause)


class Claims(threading.Thread):
    """A thread that records when conversations become claimable and when a manager follows them."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(daemon=True)
        self.stack = stack
        self.claimable_at: dict[UUID, float] = {}
        self.claimed_at: dict[UUID, float] = {}
        self.done = threading.Event()
        self.start()

    def run(self) -> None:
        while not self.done.wait(0.05):
            for row in self.stack.sql(
                "SELECT conversation_id AS key, following_run FROM conversations_lease WHERE is_wanted"
            ):
                self.claimable_at.setdefault(row["key"], time.monotonic())
                if row["following_run"] is not None:
                    self.claimed_at.setdefault(row["key"], time.monotonic())

    def measure_slowest(self, keys: list[UUID]) -> float:
        """Wait until all these conversations are followed; return the seconds of the slowest claim."""
        try:
            wait_until(
                lambda: set(keys) <= self.claimed_at.keys(), "the conversations to be claimed"
            )
        finally:
            self.done.set()
            self.join(10)
        return max(self.claimed_at[key] - self.claimable_at[key] for key in keys)


class NewRun(threading.Thread):
    """A thread that creates a conversation on the real engine and waits for the end of its first run."""

    def __init__(self, owner: Person) -> None:
        super().__init__(daemon=True)
        self.owner = owner
        self.run_end: str | None = None
        self.seconds: float | None = None
        self.start()

    def run(self) -> None:
        started = time.monotonic()
        key = self.owner.stack.python(CREATE_CONVERSATION, write_script(3))
        self.talk = Talk(self.owner, UUID(key.strip()), {})
        self.run_end = wait_until(
            lambda: find_run_end(self.talk, 0), "the new run to end", seconds=150
        )
        self.seconds = time.monotonic() - started


def describe_refusal(response: httpx2.Response) -> tuple[int, str, bool]:
    """Return a response's status, its problem code, and whether it has a Retry-After header in seconds."""
    is_json = "json" in response.headers["content-type"]
    seconds = response.headers.get("Retry-After", "")
    return (
        response.status_code,
        response.json().get("code", "") if is_json else "",
        seconds.isdigit(),
    )


def read_gauges(stack: Stack) -> dict[str, float]:
    headers = {"Authorization": f"Bearer {METRICS_TOKEN}"}
    text = httpx2.get(f"{stack.url}/metrics", headers=headers, timeout=30, trust_env=False).text
    lines = [line.rpartition(" ") for line in text.splitlines() if line.startswith("oh_node")]
    values: Counter[str] = Counter()
    for name, _, value in lines:
        values[name.partition("{")[0]] += float(value)  # type: ignore[assignment]
    return dict(values)


def list_roles(stack: Stack) -> list[str]:
    response = stack.people["staff"].call("GET", "nodes")
    return sorted(node["role"] for node in response.json()["items"]) if response.is_success else []


def are_followed(stack: Stack, keys: list[UUID]) -> bool:
    """Return whether a manager follows the engine of each of these conversations."""
    rows = stack.sql(
        "SELECT count(*) AS n FROM conversations_lease"
        " WHERE following_run IS NOT NULL AND conversation_id = ANY(%s)",
        keys,
    )
    return bool(rows[0]["n"] == len(keys))


def count_engine_events(stack: Stack, keys: list[UUID]) -> int:
    """Return the number of events that the logs of these conversations have from their engines."""
    rows = stack.sql(
        "SELECT count(*) AS n FROM conversations_event"
        " WHERE engine_seq IS NOT NULL AND conversation_id = ANY(%s)",
        keys,
    )
    return int(rows[0]["n"])


def read_run_id(stack: Stack) -> str:
    """Return the id of the Redis process, which is new after each start."""
    with redis.Redis.from_url(stack.services.redis_url) as client:
        return str(client.info("server")["run_id"])


def has_whole_log(reader: Reader, lengths: dict[UUID, int]) -> bool:
    return len(reader.seen) >= lengths[reader.conversation]


def measure_lateness(readers: list[Reader], since: float, until: float) -> dict[str, float]:
    """Return the longest delay of the events between two times, in seconds, by kind of client."""
    delays: dict[str, float] = {}
    for reader in readers:
        late = max(reader.lateness(since, until), default=0.0)
        delays[reader.kind] = round(max(delays.get(reader.kind, 0.0), late), 2)
    return delays


def start_readers(stack: Stack, keys: list[UUID]) -> list[Reader]:
    """Start a client of each kind for each conversation, with sockets at both roles."""
    owner = stack.owner
    readers: list[Reader] = []
    for key in keys:
        readers += [Socket(owner, stack.url, key), Socket(owner, stack.realtime_url, key)]
        readers += [Stream(owner, stack.realtime_url, key), LongPoll(owner, stack.url, key)]
    for reader in readers:
        reader.start()
    return readers


class Outage:
    """An outage of Redis: the work and the requests before, during and after it, and their results."""

    def __init__(self, cluster: Cluster, cleanup: contextlib.ExitStack, how: str, seconds: int):
        self.cluster, self.stack, self.owner = cluster, cluster.stack, cluster.stack.owner
        self.how, self.seconds = how, seconds
        self.browser = Browser(self.stack, cleanup)
        # One browser for each repeated request: a sign-in of one thread changes the CSRF cookie of the other thread.
        self.signed_out_browser = Browser(self.stack, cleanup)
        self.form_browser = Browser(self.stack, cleanup)
        self.pids = {name: self.stack.pid(name) for name in self.stack.roles}
        self.repeaters: dict[str, Repeater] = {}
        self.late_keys: list[UUID] = []
        self.late_readers: list[Reader] = []

    # --- Before the outage ---

    def prepare(self) -> None:
        """Start a run on the real engine, two conversations with simulated engines, and clients of all kinds."""
        started = time.monotonic()
        self.real = self.owner.converse(title="While Redis is unreachable")
        self.real.wait_ready()
        self.usual_seconds = time.monotonic() - started
        assert self.browser.sign_in().status_code == 200
        wait_until(
            lambda: len(list_roles(self.stack)) == len(self.stack.roles),
            "all roles to be listed as nodes",
        )
        self.count = round((self.seconds + PATIENCE_SECONDS + 70) / INTERVAL)
        self.keys = self.cluster.create_conversations(2, events=self.count)
        wait_until(lambda: are_followed(self.stack, self.keys), "the conversations to be followed")
        self.calm = time.time()
        self.readers = start_readers(self.stack, self.keys)
        wait_until(
            lambda: all(len(reader.seen) > 5 for reader in self.readers),
            "each client to receive six events",
        )
        time.sleep(4)
        self.message = self.real.say(write_script(12, pause=1))
        self.real.wait_run(self.message["seq"])

    # --- During the outage ---

    def lose(self) -> None:
        self.first = read_run_id(self.stack)
        number = signal.SIGKILL if self.how == "killed" else signal.SIGSTOP
        os.kill(self.stack.service("Redis").process.pid, number)
        self.lost = time.time()

    def start_requests(self) -> None:
        """Start to repeat requests that must be served and requests that must be refused."""
        owner, staff, one, other = self.owner, self.stack.people["staff"], *self.keys
        requests: dict[str, tuple[float, Callable[[], Any]]] = {
            "by key": (0.3, lambda: owner.call("GET", f"conversations/{one}").status_code),
            "a page of events": (
                0.3,
                lambda: owner.call("GET", f"conversations/{other}/events?after=3").status_code,
            ),
            "by cookie": (0.5, lambda: self.browser.client.get("/api/v1/users/me").status_code),
            "sign-in": (3, lambda: describe_refusal(self.signed_out_browser.sign_in())),
            "sign-in by page": (
                7,
                lambda: describe_refusal(self.form_browser.sign_in_by_page()),
            ),
            "create conversation": (
                5,
                lambda: describe_refusal(owner.call("POST", "conversations", json={})),
            ),
            "nodes": (5, lambda: describe_refusal(staff.call("GET", "nodes"))),
            "metrics": (5, lambda: read_gauges(self.stack).get("oh_node_registry_up")),
        }
        for name, (pause, call) in requests.items():
            self.repeaters[name] = Repeater(call, pause=pause)
            self.repeaters[name].start()

    def work(self) -> None:
        """Start a new run, conversations that managers must claim, and clients of old and new conversations."""
        self.new_run = NewRun(self.owner)
        claims = Claims(self.stack)
        self.late_keys = self.cluster.create_conversations(8, events=LATE_EVENTS)
        self.claim_seconds = claims.measure_slowest(self.late_keys)
        more = [Socket(self.owner, self.stack.url, key) for key in self.late_keys[2:]]
        more.append(Socket(self.owner, self.stack.url, self.keys[0]))
        for reader in more:
            reader.start()
        self.late_readers = start_readers(self.stack, self.late_keys[:2]) + more
        time.sleep(max(0.0, self.lost + self.seconds - time.time()))
        wait_until(
            lambda: self.new_run.seconds and self.find_run_end(),
            "both runs to end",
            seconds=PATIENCE_SECONDS,
        )
        self.join_seconds = max(
            (reader.joined_at or math.inf) - reader.began for reader in self.late_readers
        )

    def find_run_end(self) -> str | None:
        return find_run_end(self.real, self.message["seq"])

    def start_empty_redis(self) -> None:
        """Stop the repeated requests and start an empty Redis at the same address."""
        for thread in self.repeaters.values():
            thread.done.set()
        for thread in self.repeaters.values():
            thread.join(40)
        service = self.stack.service("Redis")
        service.process.kill()
        service.stop()
        self.away_seconds = time.time() - self.lost
        service.start()
        self.back = time.time()

    # --- After the outage ---

    def wait_for_recovery(self) -> None:
        """Wait until the list of nodes, the metrics, sign-in, the logs and all clients are complete again."""
        stack, role_count = self.stack, len(self.stack.roles)
        assert read_run_id(stack) != self.first
        started = time.monotonic()
        wait_until(
            lambda: len(list_roles(stack)) == role_count, "all roles to be listed", seconds=60
        )
        self.nodes_seconds = time.monotonic() - started
        wait_until(
            lambda: read_gauges(stack).get("oh_nodes") == role_count,
            "the metrics to count all roles",
            seconds=60,
        )
        self.metrics_seconds = time.time() - self.back
        assert self.signed_out_browser.sign_in().status_code == 200
        self.sign_in_statuses = {
            self.signed_out_browser.sign_in("unknown@example.com").status_code for _ in range(25)
        }
        self.owner.call("POST", "conversations", json={}, expect=201)
        time.sleep(max(0.0, self.back + 15 - time.time()))
        self.settled = time.time()
        wait_until(
            lambda: count_engine_events(stack, self.keys) >= 2 * self.count,
            "all events to be stored",
            seconds=180,
        )
        self.lengths = {
            key: len(Talk(self.owner, key, {}).rows()) for key in (*self.keys, *self.late_keys)
        }
        # Incomplete clients are counted by ``judge``, so this wait may end without a failure.
        with contextlib.suppress(pytest.fail.Exception):
            wait_until(
                lambda: all(has_whole_log(client, self.lengths) for client in self.clients),
                "each client to receive its whole log",
                seconds=20,
            )
        for reader in self.clients:
            reader.done.set()
        for reader in self.clients:
            reader.join(40)

    @property
    def clients(self) -> list[Reader]:
        return self.readers + self.late_readers

    def judge(self) -> dict[str, int]:
        """Count the faults of the logs, and the clients that did not receive their whole log."""
        old = self.cluster.judge(self.keys, events=self.count)
        new = self.cluster.judge(self.late_keys, events=LATE_EVENTS)
        incomplete = 0
        for key in self.lengths:
            log = [(row["seq"], row["event_id"]) for row in Talk(self.owner, key, {}).rows()]
            seen = [client.seqs for client in self.clients if client.conversation == key]
            incomplete += examine(log, [], seen).incomplete
        return {name: old[name] + new[name] for name in old} | {"incomplete": incomplete}

    def lateness_during(self) -> dict[str, float]:
        return measure_lateness(self.clients, self.lost, self.back - 1)

    def lateness_after(self) -> list[float]:
        since = self.back + BACK_SECONDS
        return [delay for reader in self.readers for delay in reader.lateness(since, self.settled)]

    def nudged_seconds(self) -> float:
        """Return the seconds until every client receives events without delay again; infinity if one never does."""
        times = [reader.nudged_after(self.back) for reader in self.readers]
        return max(math.inf if seconds is None else seconds for seconds in times)


def print_figures(outage: Outage, verdict: dict[str, int]) -> None:
    repeaters = outage.repeaters
    figure(
        f"Redis is {outage.how} and comes back empty",
        seconds_away=round(outage.away_seconds, 1),
        clients=len(outage.clients),
        seconds_until_claimed=round(outage.claim_seconds, 1),
        seconds_until_joined=round(outage.join_seconds, 1),
        seconds_late_before=measure_lateness(outage.readers, outage.calm + 1, outage.lost - 1),
        seconds_late_meanwhile=outage.lateness_during(),
        seconds_until_nudged_again=round(outage.nudged_seconds(), 2),
        milliseconds_late_afterwards=round(
            statistics.median(outage.lateness_after() or [-1]) * 1000
        ),
        seconds_for_a_new_run=round(outage.new_run.seconds or math.inf, 1),
        seconds_until_an_engine_is_usually_ready=round(outage.usual_seconds, 1),
        seconds_until_nodes_are_back=round(outage.nodes_seconds, 1),
        seconds_until_metrics_are_back=round(outage.metrics_seconds, 1),
        readings=sum(repeaters[name].results.total() for name in READING),
        slowest_reading=round(max(repeaters[name].slowest for name in READING), 2),
        refused={name: repeaters[name].results.total() for name in REFUSED},
        faults={f"Redis {outage.how}": 1},
        **verdict,
    )


@pytest.mark.engine
@pytest.mark.parametrize(("how", "seconds"), [("killed", 60), ("frozen", 30)])
def test_server_works_without_redis_and_recovers_when_redis_returns_empty(
    cluster, cleanup, how, seconds
):
    outage = Outage(cluster, cleanup, how, seconds)
    outage.prepare()
    outage.lose()
    try:
        outage.start_requests()
        outage.work()
    finally:
        outage.start_empty_redis()
    outage.wait_for_recovery()
    verdict = outage.judge()
    print_figures(outage, verdict)

    events = 2 * outage.count + 8 * LATE_EVENTS
    nothing = {"lost": 0, "doubled": 0, "moved": 0, "gaps": 0, "incomplete": 0}
    assert verdict == {"events": events} | nothing
    assert not [
        (client.kind, client.ends) for client in outage.clients if client.ends or client.resets
    ]
    assert outage.find_run_end() == outage.new_run.run_end == "finished"
    assert outage.real.compare_logs()
    assert outage.new_run.talk.compare_logs()
    assert outage.claim_seconds <= CLAIM_SECONDS
    assert outage.join_seconds <= LATE_SECONDS
    assert max(outage.lateness_during().values()) <= LATE_SECONDS
    # Without late events there was no outage, and this test would prove nothing.
    for reader in outage.readers:
        assert max(reader.lateness(outage.lost + 1, outage.back - 1)) > NUDGED_SECONDS
    assert outage.nudged_seconds() <= BACK_SECONDS
    late = outage.lateness_after()
    assert sum(delay < NUDGED_SECONDS for delay in late) >= max(50, 0.95 * len(late))
    for name in READING:
        assert set(outage.repeaters[name].results) == {200}, (name, outage.repeaters[name].results)
        assert outage.repeaters[name].slowest < READING_SECONDS
    for name, expected in REFUSED.items():
        assert set(outage.repeaters[name].results) == {expected}, (
            name,
            outage.repeaters[name].results,
        )
    assert set(outage.repeaters["metrics"].results) == {0.0}
    assert outage.nodes_seconds <= NODES_SECONDS
    assert outage.sign_in_statuses == {401, 429}
    assert {name: outage.stack.pid(name) for name in outage.stack.roles} == outage.pids


def test_control_client_is_late_without_polling(cleanup):
    stack = Stack(roles=("web", "manager"), environment=SETTINGS | {"HUB_POLL_SECONDS": "300"})
    cleanup.callback(stack.stop)
    stack.start()
    cluster = Cluster(stack)
    cleanup.callback(cluster.stop)
    keys = cluster.create_conversations(1, events=120)
    reader = Socket(stack.owner, stack.url, keys[0])
    reader.start()
    wait_until(lambda: len(reader.seen) > 5, "the client to receive six events", seconds=60)

    lost = time.time()
    os.kill(stack.service("Redis").process.pid, signal.SIGKILL)
    time.sleep(3 * LATE_SECONDS)
    stack.restart_service("Redis")
    wait_until(lambda: len(reader.seen) >= 120, "the client to receive all events", seconds=90)
    reader.done.set()
    reader.join(40)

    late = max(reader.lateness(lost, lost + LATE_SECONDS))
    figure("control: no polls while Redis is unreachable", seconds_late=round(late, 1))
    assert late > LATE_SECONDS
    assert reader.seqs == list(range(1, len(reader.seen) + 1))
