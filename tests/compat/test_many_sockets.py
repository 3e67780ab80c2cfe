"""Many sockets of one process share reads, translations and memory, whatever protocol they speak."""

import asyncio
import json

import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.db import connections

from accounts import services as accounts
from compat.v0 import log
from compat.v0 import translation as v0_translation
from compat.v0.encoding import V0Encoder
from compat.v0.translation import Links
from compat.v1 import translation as v1_translation
from compat.v1.encoding import V1Encoder
from conversations import services
from conversations.models import Lease
from conversations.realtime import threads, watching
from conversations.realtime.frames import EventFrame
from conversations.realtime.hub import get_hub
from lib.threads import DatabaseThreads
from openhands_site.asgi import application
from tests.conversations.conftest import ingest, make_frame
from tests.waiting import wait_until_async

pytestmark = pytest.mark.django_db(transaction=True)
SOCKETS = 60
PATHS = {
    "v0": "/socket.io/?EIO=4&transport=websocket&conversation_id={}&latest_event_id=-1",
    "v1": "/sockets/events/{}?resend_all=true",
    "native": "/ws/v1/conversations/{}",
}
EVENT_MARKS = {
    "v0": '42["oh_event",{"id":',
    "v1": '"kind": "MessageEvent"',
    "native": '{"type":"event"',
}


@pytest.fixture(autouse=True)
async def _close(settings):
    settings.HUB_POLL_SECONDS = 300
    settings.STREAMS_PER_USER = 0
    yield
    await sync_to_async(connections.close_all)()
    threads.POOL._pool.submit(connections.close_all).result()


@pytest.fixture
async def key(alice):
    return (await sync_to_async(accounts.issue_api_key)(user=alice, name="sockets"))[1]


@pytest.fixture
def calls(monkeypatch):
    """Record the functions that coroutines run in threads, which is how they query the database."""
    recorded, run = [], DatabaseThreads.run

    async def record(self, function, *args, **kwargs):
        recorded.append(function.__name__)
        return await run(self, function, *args, **kwargs)

    monkeypatch.setattr(DatabaseThreads, "run", record)
    return recorded


@sync_to_async
def create_conversation(user, *, events=3):
    conversation = services.create_conversation(user=user)
    Lease.objects.update(generation=1)
    ingest(conversation, *(make_frame(number) for number in range(events)))
    return conversation


async def open_socket(protocol, pk, key):
    headers = [(b"authorization", f"Bearer {key}".encode())]
    if protocol == "v0":
        headers += [(b"connection", b"upgrade"), (b"upgrade", b"websocket")]
    socket = WebsocketCommunicator(application, PATHS[protocol].format(pk), headers=headers)
    assert (await socket.connect(10))[0]
    if protocol == "v0":
        await socket.send_to(text_data="40")
    return socket


async def read_events(protocol, socket, count):
    """Read until ``count`` events of the log have arrived; return their texts."""
    texts = []
    while len(texts) < count:
        text = (await socket.receive_output(20)).get("text") or ""
        if EVENT_MARKS[protocol] in text:
            texts.append(text)
    return texts


async def open_and_read(protocol, pk, key, *, events=3):
    socket = await open_socket(protocol, pk, key)
    return socket, await read_events(protocol, socket, events)


@pytest.mark.parametrize("protocol", PATHS)
async def test_sockets_of_one_conversation_that_open_together_share_queries(
    alice, key, calls, protocol
):
    conversation = await create_conversation(alice)

    opened = await asyncio.gather(
        *(open_and_read(protocol, conversation.pk, key) for _ in range(SOCKETS))
    )

    assert len({tuple(texts) for _, texts in opened}) == 1
    # Each socket alone needs a check of access, the conversation's state, and the page of its first events.
    assert len(calls) <= SOCKETS / 3, calls
    for socket, _ in opened:
        await socket.disconnect()


@pytest.mark.parametrize("protocol", PATHS)
async def test_sockets_of_many_conversations_that_open_together_share_queries(
    alice, key, calls, protocol
):
    conversations = [await create_conversation(alice, events=0) for _ in range(SOCKETS)]
    sockets = await asyncio.gather(
        *(open_socket(protocol, conversation.pk, key) for conversation in conversations)
    )
    await wait_for_live(SOCKETS)

    assert len(calls) <= SOCKETS / 3, calls
    for socket in sockets:
        await socket.disconnect()


@pytest.mark.parametrize(
    ("protocol", "module", "name"),
    [
        ("v0", v0_translation, "translate_event"),
        ("v1", v1_translation, "encode_event"),
    ],
)
async def test_new_event_is_encoded_once_for_all_sockets(
    alice, key, monkeypatch, protocol, module, name
):
    conversation = await create_conversation(alice, events=0)
    sockets = [await open_socket(protocol, conversation.pk, key) for _ in range(10)]
    (feed,) = await wait_for_live(10)
    encoded, original = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args: (encoded.append(args), original(*args))[1])

    await sync_to_async(ingest)(conversation, make_frame(0), make_frame(1))
    received = [await read_events(protocol, socket, 2) for socket in sockets]

    assert len(encoded) == 2
    assert all(texts == received[0] for texts in received)
    # The feed keeps recent events, but not in their encoded form.
    await wait_until_async(
        lambda: all(frame.forms is None and not frame.wire for frame in feed._ring),
        "the encoded forms to be dropped",
    )
    for socket in sockets:
        await socket.disconnect()
    await wait_until_async(lambda: not get_hub().feeds, "the feed to be dropped")


async def wait_for_live(count):
    """Wait until ``count`` subscriptions are live; return their feeds."""

    def find():
        return sum(
            subscription.is_live
            for feed in get_hub().feeds.values()
            for subscription in feed.subscriptions
        )

    await wait_until_async(lambda: find() == count, f"{count} live subscriptions")
    return list(get_hub().feeds.values())


async def test_backlog_is_encoded_once_and_dropped_after_the_last_reader(
    alice, key, calls, monkeypatch
):
    conversation = await create_conversation(alice, events=450)
    translated, original = [], v0_translation.translate_event
    monkeypatch.setattr(
        v0_translation, "translate_event", lambda *args: (translated.append(1), original(*args))[1]
    )
    opened = await asyncio.gather(
        *(open_and_read("v0", conversation.pk, key, events=450) for _ in range(20))
    )
    (feed,) = await wait_for_live(20)

    # Three pages. A socket that is much later than the others may read a page again.
    assert calls.count("read_pages") <= 6
    assert 450 <= len(translated) <= 900
    assert feed._pages == {}
    assert feed._pages_bytes == feed._backlog_readers == 0
    for socket, _ in opened:
        await socket.disconnect()


@pytest.mark.parametrize(("protocol", "encoder"), [("v0", V0Encoder), ("v1", V1Encoder)])
async def test_client_reconnects_after_events_that_could_not_be_encoded(
    alice, key, monkeypatch, protocol, encoder
):
    """For example, because the database was unreachable. Native sockets of the conversation are not affected."""
    conversation = await create_conversation(alice, events=0)
    socket, native = [
        await open_socket(name, conversation.pk, key) for name in (protocol, "native")
    ]
    await wait_for_live(2)

    async def fail(self, frames):
        raise ConnectionError("no database")

    with monkeypatch.context() as patch:
        patch.setattr(encoder, "encode_live", fail)
        await sync_to_async(ingest)(conversation, make_frame(0))
        assert len(await read_events("native", native, 1)) == 1
        while (message := await socket.receive_output(10))["type"] != "websocket.close":
            pass
    assert message.get("code", 1000) in (1000, 1013)
    await socket.disconnect()

    again, texts = await open_and_read(protocol, conversation.pk, key, events=1)
    assert len(texts) == 1
    await again.disconnect()
    await native.disconnect()


async def test_links_of_translations_are_bounded():
    links = Links()
    for number in range(1_000):
        links.seqs[f"event-{number}"] = number
        links.actions[f"event-{number}"] = {"id": number}
        log.trim(links)

    assert list(links.seqs.values()) == list(range(1_000 - log.LINKS_MAX, 1_000))
    assert links.actions.keys() == links.seqs.keys()


async def test_slow_reader_gets_forms_that_were_dropped(alice, key):
    """The forms of events are dropped after they were sent. A reader that is behind encodes its events again."""
    conversation = await create_conversation(alice, events=5)
    for encoder in (V0Encoder, V1Encoder):
        subscription = await get_hub().join(conversation.pk, after=0, encoder=encoder)
        page = list(await subscription.feed.read_page(0))
        await subscription.encoder.encode_page(page)
        protocol = "V0" if encoder is V0Encoder else "V1"
        first = [frame.cached_form(protocol) for frame in page]
        for frame in page:
            frame.drop_encoded()
        await subscription.encoder.encode_page(page)
        assert [frame.cached_form(protocol) for frame in page] == first
        assert all(isinstance(frame, EventFrame) for frame in page)
        await get_hub().leave(subscription)


async def test_one_task_watches_all_sockets_and_ends_with_the_last(alice, key):
    conversations = [await create_conversation(alice, events=0) for _ in range(8)]
    sockets = [await open_socket("native", row.pk, key) for row in conversations]
    await wait_for_live(8)

    def list_watching():
        return [task for task in asyncio.all_tasks() if "_Guard._run" in repr(task.get_coro())]

    assert len(list_watching()) == 1
    for socket in sockets:
        await socket.disconnect()
    await wait_until_async(lambda: not list_watching(), "the task to end")
    assert not watching._streams


async def test_check_that_fails_keeps_the_socket_and_is_repeated(alice, key, monkeypatch):
    monkeypatch.setattr(watching, "RETRY_SECONDS", 0.05)
    conversation = await create_conversation(alice, events=0)
    socket = await open_socket("native", conversation.pk, key)
    await wait_for_live(1)
    checked, check_each = [], watching.check_each

    def fail_twice(questions):
        checked.append(questions)
        if len(checked) <= 2:
            raise ConnectionError("no database")
        return check_each(questions)

    monkeypatch.setattr(watching, "check_each", fail_twice)
    (guard,) = [watching._guards[asyncio.get_running_loop()]]
    guard._check_user(alice.pk)

    await wait_until_async(lambda: len(checked) == 3, "the third check")
    await sync_to_async(ingest)(conversation, make_frame(0))
    assert json.loads((await read_events("native", socket, 1))[0])["seq"] == 1
    await socket.disconnect()
