"""The frames of V0 and V1 sockets, byte for byte as in ``recordings/`` (see ``recorder``), from a real web process."""

import threading
import time

import pytest
from asgiref.sync import async_to_sync
from django.db import connection

from accounts.services import organizations
from conversations import announcing, services
from tests.compat import recorded_events as log
from tests.compat.recorder import Recorder
from tests.fakes.processes import webs

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(170)]


@pytest.fixture(scope="module")
def url(django_db_setup, django_db_blocker, tmp_path_factory):
    """The address of a web process."""
    folder = tmp_path_factory.mktemp("recorded")
    with django_db_blocker.unblock(), webs(1, folder, SOCKETS_PER_ADDRESS="0") as [url]:
        yield url


@pytest.fixture(scope="module")
def strict_url(django_db_setup, django_db_blocker, tmp_path_factory):
    """The address of a web process with small limits: 64 KB for each slow socket, and 2 sockets for each user."""
    folder = tmp_path_factory.mktemp("strict")
    limits = {"SOCKET_BUFFER_BYTES": "65536", "STREAMS_PER_USER": "2", "SOCKETS_PER_ADDRESS": "0"}
    with django_db_blocker.unblock(), webs(1, folder, **limits) as [url]:
        yield url


@pytest.fixture
def recorder(request, transactional_db, alice):
    """The recorder of a test; the recording has the name of the test."""
    address = request.getfixturevalue(
        "strict_url" if "strict_url" in request.fixturenames else "url"
    )
    recorder = Recorder(request.node.name.removeprefix("test_"), int(address.rpartition(":")[2]))
    recorder.name(alice.pk, "alice")
    yield recorder
    recorder.close()


@pytest.fixture
def conversation(recorder, alice):
    """Return a function that creates a conversation with a log and names its ids in the recording."""

    def create(items=(), **fields):
        row = log.create(alice, items, **fields)
        recorder.name(row.pk, "conversation")
        return row

    return create


# --- Replays ----------------------------------------------------------------------


def test_v0_replay_of_every_kind(recorder, conversation, alice):
    row = conversation(log.EVERYTHING)

    recorder.open_v0("from -1", row, alice, latest_event_id=-1)
    recorder.open_v0("without a cursor", row, alice)
    for place in ("typed", "usage-1", "ran", "click", "refused", "condensation", "huge-usage"):
        recorder.open_v0(f"{place}", row, alice, latest_event_id=log.find_seq(row, place))
    recorder.collect("replay")

    recorder.finish()


@pytest.mark.parametrize("place", ["thought", "condensation-2", "filler-300"])
def test_v0_replay_from_the_middle(recorder, conversation, alice, place):
    row = conversation(log.EVERYTHING)

    recorder.open_v0("middle", row, alice, latest_event_id=log.find_seq(row, place))
    recorder.collect("replay")

    recorder.finish()


def test_v0_cursors_at_the_end_and_behind_it(recorder, conversation, alice):
    row = conversation(log.MESSAGES)
    row.refresh_from_db()

    recorder.open_v0("at the end", row, alice, latest_event_id=row.last_seq)
    recorder.open_v0("behind the end", row, alice, latest_event_id=row.last_seq + 5)
    recorder.collect("join")
    log.append(row, log.WORK[:6])
    recorder.collect("new events")

    recorder.finish()


def test_v0_replay_of_a_pruned_log(recorder, conversation, alice):
    row = conversation([*log.MESSAGES, *log.WORK])
    log.prune(row, log.find_seq(row, "created"))

    for label, cursor in (("start", -1), ("pruned", 3), ("kept", row.pruned_seq + 4)):
        recorder.open_v0(label, row, alice, latest_event_id=cursor)
    recorder.collect("replay")
    log.append(row, [log.observation("late", "view", "FileEditorObservation"), *log.OTHERS[:4]])
    recorder.collect("new events")

    recorder.finish()


def test_v1_replay_of_every_kind(recorder, conversation, alice):
    row = conversation(log.EVERYTHING)

    recorder.open_v1("all", row, alice, resend_all="true")
    recorder.open_v1("new only", row, alice)
    recorder.collect("replay")

    recorder.finish()


def test_v1_replay_since_a_time(recorder, conversation, alice):
    row = conversation([*log.MESSAGES, *log.WORK])
    # Events of the engine have its time, which is the same for all; messages have the time of receipt.
    since = {
        "before all": "2020-01-01T00:00:00Z",
        "between": "2020-01-01T00:00:04Z",
        "after all": "2020-01-02T00:00:00%2B00:00",
    }

    for label, moment in since.items():
        recorder.open_v1(label, row, alice, resend_mode="since", after_timestamp=moment)
    recorder.open_v1("without a mode", row, alice, after_timestamp="2020-01-01T10:00:00.123456")
    recorder.collect("replay")

    recorder.finish()


def test_v1_replay_of_a_pruned_log(recorder, conversation, alice):
    row = conversation([*log.MESSAGES, *log.WORK])
    log.prune(row, log.find_seq(row, "created"))

    recorder.open_v1("all", row, alice, resend_mode="all")
    recorder.open_v1("since", row, alice, resend_mode="since", after_timestamp="2020-01-01")
    recorder.open_v1("new only", row, alice)
    recorder.collect("replay")
    log.append(row, log.OTHERS[:6])
    recorder.collect("new events")

    recorder.finish()


# --- Live events ------------------------------------------------------------------


def open_all(recorder, row, alice):
    """Open two sockets of each protocol."""
    recorder.open_v0("v0", row, alice, latest_event_id=-1)
    recorder.open_v0("v0 at the end", row, alice, latest_event_id=row.last_seq)
    recorder.open_v1("v1", row, alice)
    recorder.open_v1("v1 of the web client", row, alice, resend_all="true")
    recorder.collect("join")


def test_live_events_one_by_one(recorder, conversation, alice):
    row = conversation(log.MESSAGES[:4])
    open_all(recorder, row, alice)

    items = [*log.MESSAGES[4:], *log.WORK, *log.OTHERS, *log.ODD]
    for number, item in enumerate(items):
        log.append(row, [item])
        # The record in the full state depends on the events after a state, so these wait for the frames.
        if number % 12 == 11 or is_state(item):
            recorder.collect(f"{number + 1} events")
    recorder.collect("all events")
    log.append(row, log.FAR)
    recorder.collect("far events")

    recorder.finish()


def is_state(item):
    return isinstance(item, log.Engine) and b'"execution_status"' in item.raw


def is_usage(item):
    return isinstance(item, log.Engine) and b'"usage_to_metrics"' in item.raw


def test_live_events_in_batches(recorder, conversation, alice):
    row = conversation()
    open_all(recorder, row, alice)

    for name in ("MESSAGES", "WORK", "OTHERS", "ODD", "FAR"):
        append_in_batches(recorder, row, getattr(log, name), name)

    recorder.finish()


def append_in_batches(recorder, row, items, step):
    """Append events batch by batch. The next batch is appended when the frames of the last batch have arrived.

    If the hub reads two batches at once, the sockets receive fewer changes of the record, and a full state shows the
    record after the second batch.
    """
    for number, batch in enumerate(log.batches(items)):
        log.append(row, batch)
        recorder.collect(f"{step} {number + 1}")


def test_sockets_of_one_conversation_with_different_cursors(recorder, conversation, alice):
    row = conversation([*log.MESSAGES, *log.WORK])
    places = ("system", "usage-1", "run", "ran", "click", "finish")

    for place in places:
        recorder.open_v0(f"after {place}", row, alice, latest_event_id=log.find_seq(row, place))
    recorder.open_v1("v1", row, alice)
    recorder.collect("replay")
    late = [log.observation(f"late-{place}", place, "TerminalObservation") for place in places]
    append_in_batches(recorder, row, [*late, *log.OTHERS], "new events")
    log.append(row, log.FAR)
    recorder.collect("far events")

    recorder.finish()


def test_socket_that_joins_after_live_events(recorder, conversation, alice):
    row = conversation(log.MESSAGES)
    recorder.open_v0("first", row, alice)
    recorder.collect("join")
    append_in_batches(recorder, row, log.WORK, "work")

    # The first of them reads events from the memory of the process.
    row.refresh_from_db()
    recorder.open_v0("in the work", row, alice, latest_event_id=log.find_seq(row, "view"))
    recorder.open_v0("before the work", row, alice, latest_event_id=log.find_seq(row, "typed"))
    recorder.open_v1("v1", row, alice, resend_all="1")
    recorder.collect("late join", "in the work", "before the work", "v1")
    append_in_batches(recorder, row, log.OTHERS, "others")

    recorder.finish()


@pytest.mark.slow
def test_sockets_that_join_while_events_flow(recorder, conversation, alice):
    row = conversation(log.MESSAGES)
    flow = [item for item in [*log.WORK, *log.ODD] if not is_state(item) and not is_usage(item)]
    recorder.open_v0("v0 first", row, alice)
    recorder.open_v1("v1 first", row, alice, resend_all="true")

    def send():
        for item in flow:
            log.append(row, [item])
            time.sleep(0.02)

    with_database(send, lambda: join_later(recorder, row, alice))
    log.append(row, [log.event("end", "MessageEvent", llm_message={"content": "The end"})])
    # When a socket goes live depends on the time, so its states are compared apart from its events.
    recorder.collect("flow", change=events_first)

    recorder.finish()


def with_database(send, join):
    """Run ``send`` in a thread with a database connection of its own, and ``join`` meanwhile."""

    def run():
        try:
            send()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    join()
    thread.join()


def join_later(recorder, row, alice):
    for number in range(3):
        time.sleep(0.4)
        recorder.open_v0(f"v0 {number}", row, alice, latest_event_id=number * 4)
        recorder.open_v1(f"v1 {number}", row, alice, resend_all="true")


def events_first(frames):
    """Return the events of the log in their order, then the other frames in their order."""
    is_event = ['"id":' in each[:60] and "full_state" not in each for each in frames]
    pairs = list(zip(frames, is_event, strict=True))
    return [each for each, yes in pairs if yes] + [each for each, yes in pairs if not yes]


# --- Changes outside the log ------------------------------------------------------


def test_changes_of_the_record(recorder, conversation, alice):
    row = conversation(log.MESSAGES[:3], status="starting")
    open_all(recorder, row, alice)

    changes = [
        {"status": "running"},
        {"status": "paused", "status_detail": "Paused 🙂"},
        {"status": "starting", "status_detail": ""},
        {"status": "failed", "status_detail": "The image does not exist."},
        {"status": "stopped"},
        {"status": "running", "status_detail": ""},
        {"execution_status": "running"},
        {"execution_status": "waiting_for_confirmation"},
        {"execution_status": "error"},
        {"execution_status": "stuck"},
        {"execution_status": "finished"},
        {"title": 'Renamed "ü" </script> \u2028'},
        {"title": "Again", "execution_status": "idle"},
        {"confirmation_policy": "always"},
        {"confirmation_policy": "risky", "security_analyzer": "pattern"},
        {"tags": ["a"]},
    ]
    for number, fields in enumerate(changes):
        log.change(row, **fields)
        recorder.collect(f"{number} {', '.join(fields)}")

    recorder.finish()


def test_streamed_text(recorder, conversation, alice):
    row = conversation(log.MESSAGES[:3])
    open_all(recorder, row, alice)

    deltas = [
        {"kind": "text", "content": 'Hé "llo" \ud83d', "item_id": "a", "order": 0},
        {"kind": "reasoning", "content": "🙂</script>", "item_id": "a", "order": 1},
        {"kind": "text", "content": "", "item_id": "a", "order": 2},
        {"kind": "later", "content": "x", "item_id": "a", "order": 3},
    ]
    deltas[0]["content"] = 'Hé "llo"'
    async_to_sync(announcing.send_deltas)(row.pk, deltas)
    log.append(row, [log.event("end", "MessageEvent", llm_message={"content": "The end"})])
    recorder.collect("deltas")

    recorder.finish()


def test_log_that_was_restored(recorder, conversation, alice):
    row = conversation(log.MESSAGES)
    open_all(recorder, row, alice)

    log.change(row, epoch=2)
    recorder.collect("restored")
    log.append(row, log.WORK[:4])
    recorder.collect("new events")

    recorder.finish()


def test_deleted_conversation(recorder, conversation, alice):
    row = conversation(log.MESSAGES[:3])
    open_all(recorder, row, alice)

    services.delete_conversation(conversation_id=row.pk)
    # The code depends on what the socket notices first: the end of the conversation, or that of the access.
    recorder.collect("deleted", change=join_codes)

    recorder.finish()


def join_codes(frames):
    codes = ({"close": [4001, ""]}, {"close": [4004, ""]})
    return [{"close": ["4001 or 4004", ""]} if each in codes else each for each in frames]


# --- Access -----------------------------------------------------------------------


def test_revoked_keys(recorder, conversation, alice):
    row = conversation(log.MESSAGES[:3])
    open_all(recorder, row, alice)

    services.rotate_keys(conversation_id=row.pk)
    recorder.collect("revoked")
    log.append(row, log.WORK[:4])
    recorder.collect("events after the end of access")

    recorder.finish()


def test_conversation_that_is_no_longer_shared(recorder, conversation, alice, bob):
    row = conversation(log.MESSAGES[:3])
    services.set_sharing(conversation_id=row.pk, by=alice, visibility="organization")
    row.refresh_from_db()
    recorder.open_v0("v0 of bob", row, bob)
    recorder.open_v1("v1 of bob", row, bob)
    recorder.open_v0("v0 of alice", row, alice)
    recorder.collect("join")

    services.set_sharing(conversation_id=row.pk, by=alice, visibility="private")
    recorder.collect("private", change=join_codes)

    recorder.finish()


def test_suspended_organization(recorder, conversation, alice):
    row = conversation(log.MESSAGES[:3])
    open_all(recorder, row, alice)

    organizations.suspend_organization(organization=row.organization)
    recorder.collect("suspended")

    recorder.finish()


def test_refused_handshakes(recorder, conversation, alice, charlie):
    row = conversation(log.MESSAGES[:3])
    other = log.create(charlie)
    recorder.name(charlie.pk, "charlie")
    recorder.name(other.pk, "other conversation")

    recorder.open_v0("v0 wrong key", row, alice, key="ocs_x.y")
    recorder.open_v0("v0 no key", row, alice, key="null")
    recorder.open_v0("v0 of another user", other, charlie, key=key_of(row, alice))
    recorder.open_v0("v0 wrong id", row, alice, conversation_id="x")
    recorder.open_v0("v0 no id", row, alice, conversation_id="")
    recorder.open_v0("v0 wrong cursor", row, alice, latest_event_id="1.5")
    recorder.open_v1("v1 wrong key", row, alice, key="ocs_x.y")
    recorder.open_v1("v1 of another user", other, charlie, key=key_of(row, alice))
    recorder.open_v1("v1 wrong mode", row, alice, resend_mode="none")
    recorder.open_v1("v1 wrong time", row, alice, after_timestamp="x")
    recorder.collect("refused")

    recorder.finish()


def key_of(row, user):
    return services.conversation_key(conversation=row, user=user)


def test_too_many_sockets(strict_url, recorder, conversation, alice):
    row = conversation(log.MESSAGES[:3])
    recorder.open_v0("first", row, alice)
    recorder.collect("first", "first")
    recorder.open_v1("second", row, alice)
    recorder.collect("second", "second")

    recorder.open_v0("third v0", row, alice)
    recorder.open_v1("third v1", row, alice)
    recorder.collect("refused", "third v0", "third v1")

    recorder.finish()


# --- Clients ----------------------------------------------------------------------


def test_clients_that_send(recorder, conversation, alice):
    row = conversation(log.MESSAGES[:3])
    v0 = recorder.open_v0("v0", row, alice, latest_event_id=3)
    v1 = recorder.open_v1("v1", row, alice)
    recorder.collect("join")

    v0.send(
        '42["oh_user_action",{"action":"message","args":{"content":"From V0 🙂","image_urls":[]}}]'
    )
    recorder.collect("message of v0")
    v1.send('{"role":"user","content":[{"type":"text","text":"From V1 🙂"}]}')
    recorder.collect("message of v1")
    v0.send(
        '42["oh_action",{"action":"change_agent_state","args":{"agent_state":"user_confirmed"}}]'
    )
    recorder.collect("refused action of v0")
    v1.send("[]")
    recorder.collect("malformed message of v1")

    recorder.finish()


PACKETS = {
    "acknowledgement": '427["oh_user_action",{"action":"x","args":{}}]',
    "unknown event": '42["other",1]',
    "binary event": '451-["oh_user_action",{"_placeholder":true,"num":0}]',
    "ping": "2probe",
    "upgrade": "5",
    "noop": "6",
    "other namespace": "40/other,",
    "event in another namespace": '42/other,["x"]',
    "second connect": "40",
    "reserved event": '42["disconnect"]',
    "not JSON": "42[",
    "unknown type": "9",
    "empty": "",
}


@pytest.mark.parametrize("name", PACKETS)
def test_v0_packets_of_clients(recorder, conversation, alice, name):
    row = conversation(log.MESSAGES[:3])
    client = recorder.open_v0("v0", row, alice, latest_event_id=3)
    recorder.collect("join")

    client.send(PACKETS[name])
    recorder.collect("packet")

    recorder.finish()


def test_v0_client_that_leaves_and_joins_again(recorder, conversation, alice):
    row = conversation(log.MESSAGES[:3])
    client = recorder.open_v0("v0", row, alice, latest_event_id=2)
    recorder.collect("join")

    client.send("41")
    recorder.collect("left")
    log.append(row, log.WORK[:2])
    recorder.collect("events while away")
    client.send("40{}")
    recorder.collect("joined again")
    client.send("1")
    recorder.collect("closed")

    recorder.finish()


# --- Slow clients -----------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["v0", "v1"])
def test_slow_client_is_closed(strict_url, recorder, conversation, alice, protocol):
    row = conversation()
    open_socket = getattr(recorder, f"open_{protocol}")
    client = open_socket("slow", row, alice, receive_buffer=8_192)
    recorder.collect("join")

    count, text = 600, "x" * 20_000
    for number in range(count):
        content = {"content": text}
        log.append(row, [log.event(f"big-{number}", "MessageEvent", llm_message=content)])
        if not number:
            client.read(40)
    while client.read(30) is not None:
        pass
    ids = [each for each in client.received if isinstance(each, str) and text in each]
    end = client.received[len(ids) :]
    client.received = end

    # Some events arrived, in their order and without a gap; then the socket was closed.
    assert 0 < len(ids) < count
    marks = (
        [f'"id":{number + 1},' for number in range(len(ids))]
        if protocol == "v0"
        else [f'"id": "big-{number}",' for number in range(len(ids))]
    )
    assert all(mark in each[:80] for mark, each in zip(marks, ids, strict=True))
    recorder.collect("end")

    recorder.finish()
