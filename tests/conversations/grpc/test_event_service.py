import json
import os
import queue
import signal
import subprocess
import sys
import time
from uuid import UUID

import grpc
import pytest
from django.conf import settings
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from accounts import services as accounts
from accounts.models import AuditEntry, Membership
from accounts.services.sessions import announce_access_change
from conversations import services
from conversations.grpc.v1 import events_pb2 as wire
from conversations.models import Conversation, Event
from tests.conftest import key_client
from tests.conversations.grpc.conftest import Client, serving

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(120)]
ENDED = (
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.NOT_FOUND,
)
RUN = UUID("018f0000-0000-7000-8000-0000000000aa")


def key(user, **options):
    return accounts.issue_api_key(user=user, name="grpc", **options)[1]


@pytest.fixture
def client(channel, alice):
    return Client(channel, key(alice))


def event(n, **fields):
    body = {
        "kind": "MessageEvent",
        "id": f"e-{n}",
        "source": "agent",
        "timestamp": "2026-11-22T10:00:00",
        "llm_message": {"role": "assistant", "content": [{"type": "text", "text": f"line {n}"}]},
    }
    return json.dumps(body | fields).encode()


class Stream:
    """One Append call, driven message by message."""

    def __init__(self, client, timeout=30, run=RUN, **opening):
        self.waiting = queue.Queue()
        self.answers = client.call("Append", iter(self.waiting.get, None), timeout)
        opened = wire.OpenRun(conversation_id=str(run), **opening)
        self.waiting.put(wire.AppendRequest(open=opened))

    def opened(self):
        return next(self.answers).opened

    def put(self, number, *events):
        batch = wire.Batch(number=number, events=[wire.PublishedEvent(json=e) for e in events])
        self.waiting.put(wire.AppendRequest(batch=batch))

    def send(self, number, *events):
        self.put(number, *events)
        return next(self.answers).appended

    def end(self):
        self.waiting.put(None)
        return list(self.answers)


def refusal(call):
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code()


def status(value):
    body = {"kind": "ConversationStateUpdateEvent", "key": "execution_status", "value": value}
    return body | {"source": "environment"}


class TestAppend:
    def test_publishes_a_run_that_shows_like_any_other(self, client, alice):
        stream = Stream(client, title="Nightly repair", model="other/model")
        opened = stream.opened()
        first = stream.send(1, event(1), event(2, **status("running")))
        second = stream.send(2, event(3), event(4, **status("finished")))
        during = Conversation.objects.get(pk=RUN)
        stream.end()

        assert (opened.conversation_id, opened.last_seq, opened.last_event_id) == (str(RUN), 0, "")
        assert (first.number, first.last_seq, first.stored, first.known) == (1, 2, 2, 0)
        assert (second.number, second.last_seq, second.stored) == (2, 4, 2)
        assert (during.status, during.execution_status) == ("running", "finished")
        api = key_client(alice)
        record = api.get(f"/api/v1/conversations/{RUN}").json()
        assert (record["title"], record["model"], record["is_external"], record["status"]) == (
            "Nightly repair", "other/model", True, "stopped",
        )  # fmt: skip
        rows = api.get(f"/api/v1/conversations/{RUN}/events").json()["items"]
        assert [row["seq"] for row in rows] == [1, 2, 3, 4]
        assert rows[0]["payload"] == json.loads(event(1))
        entry = AuditEntry.objects.get(action="conversation.published")
        assert (entry.actor_kind, entry.subject_id) == ("key", str(RUN))

    def test_what_comes_again_is_stored_once(self, client):
        first = Stream(client)
        first.opened()
        first.send(1, event(1), event(2))
        first.end()

        again = Stream(client)
        opened = again.opened()
        answer = again.send(7, event(2), event(3), event(3))
        again.end()

        assert (opened.last_seq, opened.last_event_id) == (2, "e-2")
        assert (answer.number, answer.last_seq, answer.stored, answer.known) == (7, 3, 1, 2)
        assert list(Event.objects.values_list("event_id", flat=True)) == ["e-1", "e-2", "e-3"]

    def test_batches_that_wait_are_each_answered(self, client):
        stream = Stream(client)
        stream.opened()
        for number in range(1, 201):
            stream.put(number, event(number), event(-number))
        answers = [answer.appended for answer in stream.end()]

        assert [answer.number for answer in answers] == list(range(1, 201))
        assert [answer.last_seq for answer in answers] == list(range(2, 402, 2))
        assert Conversation.objects.get(pk=RUN).last_seq == 400

    @pytest.mark.parametrize(
        "bad", [b"", b"no json", b"[]", b'{"kind": "X"}', b'{"id": "x-1"}', b'{"id": "' + b"a" * 81 + b'"}']
    )  # fmt: skip
    def test_events_without_an_id_are_refused_whole(self, client, bad):
        stream = Stream(client)
        stream.opened()
        stream.put(1, event(1), bad)

        assert refusal(lambda: next(stream.answers)) is grpc.StatusCode.INVALID_ARGUMENT
        assert not Event.objects.exists()

    def test_hostile_payloads_are_kept_as_they_came(self, client, alice):
        texts = [
            '{"id": "h-1", "kind": "\\u0000", "text": "\\ud800 \\u0000"}',
            '{"id": "h-2", "n": 1e400, "big": ' + "9" * 5000 + "}",
            '{"id": "h-3", "id": "h-3", "deep": ' + "[" * 400 + "]" * 400 + "}",
        ]
        stream = Stream(client, title="a\0b\ud7ff")
        stream.opened()
        stream.send(1, *(text.encode() for text in texts))
        stream.end()

        assert list(Event.objects.order_by("seq").values_list("payload", flat=True)) == texts
        assert key_client(alice).get(f"/api/v1/conversations/{RUN}/events").status_code == 200

    def test_an_agent_of_ours_is_fed_by_its_engine_alone(self, client, alice):
        ours = services.create_conversation(user=alice)

        stream = Stream(client, run=ours.pk)

        assert refusal(stream.opened) is grpc.StatusCode.FAILED_PRECONDITION

    def test_it_takes_no_orders(self, client, alice):
        stream = Stream(client)
        stream.opened()
        api = key_client(alice)
        for action, body in (("messages", {"text": "hello"}), ("interrupt", {}), ("resume", {})):
            answer = api.post(f"/api/v1/conversations/{RUN}/{action}", body, format="json")
            assert (answer.status_code, answer.json()["code"]) == (409, "published-elsewhere")
        stream.end()

    def test_revoked_in_the_middle_it_ends(self, client, alice, channel):
        made, text = accounts.issue_api_key(user=alice, name="short")
        stream = Stream(Client(channel, text))
        stream.opened()
        stream.send(1, event(1))

        accounts.revoke_api_key(key=made)

        assert refusal(lambda: next(stream.answers)) is grpc.StatusCode.UNAUTHENTICATED

    @pytest.mark.parametrize(
        "message", [wire.AppendRequest(), wire.AppendRequest(batch=wire.Batch())]
    )
    def test_begins_with_opening(self, client, message):
        call = client.call("Append", iter([message]))

        assert refusal(lambda: next(call)) is grpc.StatusCode.INVALID_ARGUMENT


class TestSubscribe:
    def test_from_a_cursor_and_then_what_is_new(self, client):
        stream = Stream(client)
        stream.opened()
        stream.send(1, event(1), event(2))
        request = wire.SubscribeRequest(conversation_id=str(RUN), after_seq=1)
        news = client.call("Subscribe", request)
        got = [next(news)]
        stream.send(2, event(3))
        while len([g for g in got if g.WhichOneof("message") == "event"]) < 2:
            got.append(next(news))
        news.cancel()
        stream.end()

        events = [g.event for g in got if g.WhichOneof("message") == "event"]
        assert [(e.seq, e.event_id, e.kind) for e in events] == [
            (2, "e-2", "MessageEvent"), (3, "e-3", "MessageEvent"),
        ]  # fmt: skip
        assert events[0].payload == event(2)
        assert abs(events[0].received_at.ToSeconds() - time.time()) < 120
        records = [json.loads(g.status_json) for g in got if g.status_json]
        assert records
        assert {record["id"] for record in records} == {str(RUN)}

    def test_a_cursor_of_another_log_is_reset(self, client):
        stream = Stream(client)
        stream.opened()
        stream.send(1, event(1))
        stream.end()
        request = wire.SubscribeRequest(conversation_id=str(RUN), after_seq=99)
        news = client.call("Subscribe", request)

        first = next(news)
        news.cancel()

        assert (first.reset.last_seq, first.reset.epoch) == (1, 1)

    def test_ends_when_access_does(self, client, alice, bob, channel):
        stream = Stream(client)
        stream.opened()
        stream.end()
        Conversation.objects.update(visibility="organization")
        theirs = Client(channel, key(bob, organization=alice.personal_organization))
        news = theirs.call("Subscribe", wire.SubscribeRequest(conversation_id=str(RUN)))
        next(news)

        Membership.objects.filter(user=bob, organization=alice.personal_organization).delete()
        announce_access_change(user_id=bob.pk)

        def drain():
            for _ in news:
                pass

        assert refusal(drain) in ENDED


class TestGetLastSeq:
    def test_of_any_conversation_one_may_see(self, client, alice):
        ours = services.create_conversation(user=alice, message="hello")
        answer = client.call("GetLastSeq", wire.GetLastSeqRequest(conversation_id=str(ours.pk)))

        assert (answer.last_seq, answer.epoch, answer.last_event_id) == (1, 1, "")


class TestGate:
    METHODS = ("Append", "Subscribe", "GetLastSeq")

    def ask(self, client, method, conversation_id=RUN, timeout=20):
        text = str(conversation_id)
        message = {
            "Append": iter([wire.AppendRequest(open=wire.OpenRun(conversation_id=text))]),
            "Subscribe": wire.SubscribeRequest(conversation_id=text),
            "GetLastSeq": wire.GetLastSeqRequest(conversation_id=text),
        }[method]
        answer = client.call(method, message, timeout)
        return answer if method == "GetLastSeq" else next(answer)

    @pytest.fixture
    def run(self, alice):
        organization = alice.personal_organization
        return services.open_run(user=alice, conversation_id=RUN, organization=organization)

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("token", ["", "oh_nothing.at-all", "é"])
    def test_nobody_without_a_key(self, channel, run, method, token):
        client = Client(channel)
        if token:
            client.metadata = [
                ("authorization", f"Bearer {token}".encode("ascii", "replace").decode())
            ]

        assert refusal(lambda: self.ask(client, method)) is grpc.StatusCode.UNAUTHENTICATED

    @pytest.mark.parametrize("method", METHODS)
    def test_strangers_see_nothing(self, channel, run, charlie, method):
        found = refusal(lambda: self.ask(Client(channel, key(charlie)), method))

        assert found is grpc.StatusCode.NOT_FOUND

    @pytest.mark.parametrize(
        ("scope", "allowed"),
        [("events.publish", {"Append"}), ("conversations.view", {"Subscribe", "GetLastSeq"})],
    )
    def test_a_key_does_what_its_scopes_say(self, channel, run, alice, scope, allowed):
        client = Client(channel, key(alice, scopes=[scope]))
        for method in self.METHODS:
            if method in allowed:
                self.ask(client, method)
            else:
                found = refusal(lambda name=method: self.ask(client, name))
                assert found is grpc.StatusCode.PERMISSION_DENIED

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("timeout", [None, 25 * 3600])
    def test_deadlines_are_required(self, client, run, method, timeout):
        found = refusal(lambda: self.ask(client, method, timeout=timeout))

        assert found is grpc.StatusCode.INVALID_ARGUMENT

    @pytest.mark.parametrize("method", METHODS)
    def test_ids_are_uuids(self, client, method):
        found = refusal(lambda: self.ask(client, method, "../etc"))

        assert found is grpc.StatusCode.INVALID_ARGUMENT

    def test_messages_have_a_limit(self, client):
        stream = Stream(client)
        stream.opened()
        stream.put(1, event(1, padding="x" * 5_000_000))

        assert refusal(lambda: next(stream.answers)) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert not Event.objects.exists()


class TestServer:
    def test_health_and_reflection_need_no_key(self, channel):
        asked = health_pb2.HealthCheckRequest(service="openhands.v1.EventService")
        answer = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=10)
        known = ProtoReflectionDescriptorDatabase(channel).get_services()

        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert set(known) == {
            "openhands.v1.EventService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }

    def test_sigterm_ends_it_in_order(self, alice, tmp_path):
        """What is on its way is answered; a stream without end is ended when the grace is over."""
        with serving(tmp_path / "grpc.log") as (process, port):
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                stream = Stream(Client(channel, key(alice)))
                stream.opened()
                process.send_signal(signal.SIGTERM)
                time.sleep(0.2)
                assert stream.send(1, event(1)).stored == 1
                stream.end()
            assert process.wait(25) == 0

    def test_clear_text_stays_on_this_machine(self, tmp_path, db):
        command = [sys.executable, "-W", "ignore", "manage.py", "run_grpc", "--host", "0.0.0.0"]
        done = subprocess.run(
            command, cwd=settings.BASE_DIR, capture_output=True, text=True, timeout=60, check=False
        )

        assert done.returncode == 1
        assert "unencrypted" in done.stderr


def test_a_program_publishes_through_a_killed_server(alice, tmp_path):
    """The example program, its server killed in the middle: everything once, in order."""
    text = key(alice, scopes=["events.publish"])
    with serving(tmp_path / "one.log") as (first, port):
        program = subprocess.Popen(
            [sys.executable, "examples/publish_run.py", "--server", f"127.0.0.1:{port}",
             "--title", "From elsewhere", "--id", str(RUN)],
            cwd=settings.BASE_DIR, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"OH_API_KEY": text, "GRPC_DNS_RESOLVER": "native"},
        )  # fmt: skip
        with program:
            assert program.stdout.readline().strip() == str(RUN)
            for n in range(1, 301):
                program.stdin.write(event(n).decode() + "\n")
                program.stdin.flush()
                if n == 150:
                    wait_for(lambda: Event.objects.count() > 50)
                    first.kill()
                    first.wait(10)
                    again = serving(tmp_path / "two.log", "--port", str(port))
                    again.__enter__()
            program.stdin.close()
            assert program.wait(60) == 0
    again.__exit__(None, None, None)

    rows = Event.objects.order_by("seq").values_list("seq", "event_id")
    assert list(rows) == [(n, f"e-{n}") for n in range(1, 301)]


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
