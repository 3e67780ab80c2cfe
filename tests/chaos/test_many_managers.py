"""Twenty managers, of which ten are killed together and nine end: their conversations continue within seconds."""

import signal
import time

import pytest

from tests.chaos.cluster import INTERVAL, SETTINGS, TAKEOVER_SECONDS, Cluster
from tests.fakes.stack import Stack, figure

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]
MANAGERS = 20
CONVERSATIONS = 100
EVENT_SECONDS = 90
EVENTS = round(EVENT_SECONDS / INTERVAL)
SHARING_SECONDS = 60
HANDING_BACK_SECONDS = 20
"""Longer than usual: nine managers end together, and some claim conversations before they end themselves."""


@pytest.fixture
def cluster():
    stack = Stack(roles=("web",), environment=SETTINGS | {"DATABASE_POOL_SIZE": "2"})
    stack.start()
    running = Cluster(stack)
    try:
        yield running
    finally:
        running.stop()
        stack.stop()


def test_conversations_continue_when_ten_of_twenty_managers_are_killed_and_nine_end(cluster):
    stack = cluster.stack
    names = [f"m{number}" for number in range(1, MANAGERS + 1)]
    for name in names:
        stack.add(name, "manager")
    cluster.wait_for_nodes(MANAGERS + 1)
    keys = cluster.create_conversations(CONVERSATIONS, events=EVENTS)
    sharing = cluster.wait_until_followed(
        lambda counts: (
            sum(counts[name] for name in names) == CONVERSATIONS
            and all(0 < counts[name] <= 2 * CONVERSATIONS / MANAGERS for name in names)
        ),
        seconds=SHARING_SECONDS,
    )
    shares = cluster.count_followed()
    connections = stack.sql("SELECT count(*) AS n FROM pg_stat_activity WHERE usename IS NOT NULL")

    killed_names, remaining_names = names[::2], names[1::2]
    orphans = sum(cluster.count_followed()[name] for name in killed_names)
    killed = stack.lose(*killed_names)
    cluster.wait_until_followed(
        lambda counts: sum(counts[name] for name in remaining_names) == CONVERSATIONS
    )
    takeover = time.monotonic() - killed

    last, *ending_names = remaining_names
    ended = time.monotonic()
    for name in ending_names:
        stack.signal(name, signal.SIGTERM)
    cluster.wait_until_followed(lambda counts: counts[last] == CONVERSATIONS)
    handing_back = time.monotonic() - ended
    verdict = cluster.judge(keys, events=EVENTS, seconds=EVENT_SECONDS + 60)

    figure(
        "twenty managers, ten are killed, one is left",
        managers=MANAGERS,
        conversations=CONVERSATIONS,
        database_connections=connections[0]["n"],
        seconds_until_shared=round(sharing, 1),
        shares=sorted(shares.values()),
        kills=len(killed_names),
        orphaned=orphans,
        seconds_to_take_over=round(takeover, 1),
        seconds_to_hand_back=round(handing_back, 1),
        **verdict,
    )
    assert max(shares.values()) <= 2 * CONVERSATIONS / MANAGERS
    assert orphans >= CONVERSATIONS / MANAGERS
    assert takeover <= TAKEOVER_SECONDS
    assert handing_back <= HANDING_BACK_SECONDS
    assert verdict == {
        "events": CONVERSATIONS * EVENTS,
        "lost": 0,
        "doubled": 0,
        "moved": 0,
        "gaps": 0,
    }
