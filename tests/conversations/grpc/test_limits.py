"""Limits of the gRPC API: rates as for REST, streams per user, and the amount that programs publish."""

import contextlib
import socket
from uuid import uuid4

import grpc
import pytest
from django.core.cache import cache

from accounts import services as accounts
from conversations import services
from conversations.grpc import interceptors
from conversations.grpc.v1 import events_pb2 as wire
from tests.conversations.grpc.conftest import Client, run_server
from tests.conversations.grpc.test_event_service import Stream, build_event

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(120)]
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture(scope="module")
def server(django_db_setup, django_db_blocker, tmp_path_factory):
    """Run a server with low limits."""
    log = tmp_path_factory.mktemp("grpc") / "server.log"
    with (
        django_db_blocker.unblock(),
        run_server(
            log,
            RATE_LIMITS="address=1000/h,read=20/h,write=300/h,keys=5/h",
            STREAMS_PER_USER="2",
            PUBLISHED_EVENT_MAX_BYTES="2000",
            PUBLISHED_EVENTS_PER_RUN="10",
            PUBLISHED_KILOBYTES_PER_MINUTE="20",
            PUBLISHED_KILOBYTES_PER_DAY="100000",
        ) as (process, port),
    ):
        process.port, process.log = port, log
        yield process


@pytest.fixture(autouse=True)
def _fresh_counters():
    cache.clear()


@pytest.fixture
def key(alice):
    return accounts.issue_api_key(user=alice, name="grpc")[1]


def get_last(client):
    message = wire.GetLastSeqRequest(conversation_id=str(uuid4()))
    with pytest.raises(grpc.RpcError) as caught:
        client.call("GetLastSeq", message)
    return caught.value.code(), caught.value.details()


def test_invented_keys_count_by_address_and_a_valid_key_still_works(channel, key):
    codes = [get_last(Client(channel, f"oh_{n:08x}.invented"))[0] for n in range(8)]
    assert codes[:5] == [grpc.StatusCode.UNAUTHENTICATED] * 5
    assert codes[5:] == [EXHAUSTED] * 3
    code, details = get_last(Client(channel))
    assert code is EXHAUSTED
    assert "invalid keys from your network address" in details
    assert get_last(Client(channel, key))[0] is grpc.StatusCode.NOT_FOUND


def test_calls_count_against_the_rate_of_reads_of_their_key(channel, alice, key):
    other = accounts.issue_api_key(user=alice, name="other")[1]
    codes = [get_last(Client(channel, key))[0] for _ in range(24)]
    assert codes[:20] == [grpc.StatusCode.NOT_FOUND] * 20
    assert codes[20:] == [EXHAUSTED] * 4
    assert "Too many read calls. Try again in" in get_last(Client(channel, key))[1]
    assert get_last(Client(channel, other))[0] is grpc.StatusCode.NOT_FOUND


def test_streams_of_a_user_are_limited(channel, alice, key):
    client = Client(channel, key)
    conversation = services.create_conversation(user=alice)
    message = wire.SubscribeRequest(conversation_id=str(conversation.pk))
    streams = [client.call("Subscribe", message) for _ in range(2)]
    for stream in streams:
        next(stream)
    third = client.call("Subscribe", message)
    with pytest.raises(grpc.RpcError) as caught:
        next(third)
    assert caught.value.code() is EXHAUSTED
    assert "You have 2 sockets and streams open" in caught.value.details()
    for stream in streams:
        stream.cancel()


def publish(client, *events, run):
    """Append events in one batch; return None, or the code and the details of the error."""
    stream = Stream(client, run=run)
    stream.receive_opened()
    try:
        stream.send(1, *events)
    except grpc.RpcError as error:
        return error.code(), error.details()
    stream.end()
    return None


def test_amount_of_published_events_is_limited_with_a_clear_error(channel, key):
    client = Client(channel, key)
    assert publish(client, *map(build_event, range(4)), run=uuid4()) is None
    code, details = publish(client, build_event(1, text="x" * 3_000), run=uuid4())
    assert code is EXHAUSTED
    assert "may have at most 2000" in details
    code, details = publish(client, *map(build_event, range(11)), run=uuid4())
    assert code is EXHAUSTED
    assert "may have at most 10. Continue in a new run" in details
    results = [
        publish(client, *(build_event(n, text="x" * 1_500) for n in range(3)), run=uuid4())
        for _ in range(5)
    ]
    assert results[0] is None
    code, details = results[-1]
    assert code is EXHAUSTED
    assert "at most 20 KB of events per minute. Try again in" in details


def test_repeated_events_do_not_count_for_the_length_of_a_run(channel, key):
    client, run = Client(channel, key), uuid4()
    events = [build_event(n) for n in range(11)]
    assert publish(client, *events[:10], run=run) is None

    assert publish(client, *events[8:10], run=run) is None
    code, details = publish(client, *events[9:], run=run)

    assert code is EXHAUSTED
    assert details.startswith("This run has 10 events and may have at most 10.")


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("203.0.113.7", "198.51.100.1", "203.0.113.7"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "192.0.2.9, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "invented", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "2001:db8::1", "2001:db8::1"),
    ],
)
def test_address_of_a_caller_behind_a_trusted_proxy(settings, peer, forwarded, expected):
    settings.TRUSTED_PROXIES = ["10.0.0.0/8", "unix"]
    name = f"ipv6:[{peer}]:5" if ":" in peer else f"ipv4:{peer}:5" if peer else "unix:/run/a"
    assert interceptors._client_address(name, [("x-forwarded-for", forwarded)]) == expected


@pytest.mark.slow
def test_connection_without_a_complete_handshake_is_closed(server):
    with contextlib.ExitStack() as links:
        silent, half = (
            links.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60))
            for _ in range(2)
        )
        half.sendall(b"PRI * HTTP/2.0\r\n")
        for link in (silent, half):
            while link.recv(4_096):
                pass
