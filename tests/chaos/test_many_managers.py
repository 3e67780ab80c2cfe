"""Twenty managers, then ten of them gone at once, then one: nobody notices but for seconds."""

import signal
import time

import pytest

from tests.chaos.test_cluster import INTERVAL, PROMISED_SECONDS, Cluster
from tests.fakes.stack import Stack, figure

pytestmark = [pytest.mark.siege, pytest.mark.timeout(600)]
MANAGERS = 20
CONVERSATIONS = 100
TOLD_SECONDS = 90
EVENTS = round(TOLD_SECONDS / INTERVAL)
SHARING_SECONDS = 60
HANDING_BACK_SECONDS = 20
"""Nine processes end at a time, and what some hand back others take that end as well."""


@pytest.fixture
def cluster():
    stack = Stack(roles=("web",), environment={"DATABASE_POOL_SIZE": "2"})
    stack.start()
    found = Cluster(stack)
    try:
        yield found
    finally:
        found.stop()
        stack.stop()


def test_twenty_managers_then_ten_then_one(cluster):
    stack = cluster.stack
    names = [f"m{number}" for number in range(1, MANAGERS + 1)]
    for name in names:
        stack.add(name, "manager")
    cluster.wait_for_nodes(MANAGERS + 1)
    keys = cluster.converse(CONVERSATIONS, events=EVENTS)
    sharing = cluster.until(
        lambda found: (
            sum(found[name] for name in names) == CONVERSATIONS
            and all(0 < found[name] <= 2 * CONVERSATIONS / MANAGERS for name in names)
        ),
        seconds=SHARING_SECONDS,
    )
    shares = cluster.follows()
    connections = stack.sql("SELECT count(*) AS n FROM pg_stat_activity WHERE usename IS NOT NULL")

    gone, left = names[::2], names[1::2]
    orphans = sum(cluster.follows()[name] for name in gone)
    killed = stack.lose(*gone)
    cluster.until(lambda found: sum(found[name] for name in left) == CONVERSATIONS)
    takeover = time.monotonic() - killed

    last, *leaving = left
    ended = time.monotonic()
    for name in leaving:
        stack.signal(name, signal.SIGTERM)
    cluster.until(lambda found: found[last] == CONVERSATIONS)
    handing_back = time.monotonic() - ended
    verdict = cluster.judge(keys, events=EVENTS, seconds=TOLD_SECONDS + 60)

    figure(
        "twenty managers, ten are killed, one is left",
        managers=MANAGERS,
        conversations=CONVERSATIONS,
        database_connections=connections[0]["n"],
        seconds_until_shared=round(sharing, 1),
        shares=sorted(shares.values()),
        kills=len(gone),
        taken_over=orphans,
        seconds_to_take_over=round(takeover, 1),
        seconds_to_hand_back=round(handing_back, 1),
        **verdict,
    )
    assert max(shares.values()) <= 2 * CONVERSATIONS / MANAGERS
    assert orphans >= CONVERSATIONS / MANAGERS
    assert takeover <= PROMISED_SECONDS
    assert handing_back <= HANDING_BACK_SECONDS
    assert verdict == {
        "events": CONVERSATIONS * EVENTS,
        "lost": 0,
        "doubled": 0,
        "moved": 0,
        "gaps": 0,
    }
