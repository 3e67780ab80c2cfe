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
from tests.conversations.grpc.conftest import Client, run_server
from tests.waiting import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(120)]
ENDED = (
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.NOT_FOUND,
)
RUN = UUID("018f0000-0000-7000-8000-0000000000aa")


def create_key(user, **options):
    return accounts.issue_api_key(user=user, name="grpc", **options)[1]


@pytest.fixture
def client(channel, alice):
    return Client(channel, create_key(alice))


def build_event(n, **fields):
    body = {
        "kind": "MessageEvent",
        "id": f"e-{n}",
        "source": "agent",
        "timestamp": "2026-11-22T10:00:00",
        "llm_message": {"role": "assistant", "content": [{"type": "text", "text": f"line {n}"}]},
    }
    return json.dumps(body | fields).encode()


class Stream:
    """An Append call that is driven message by message."""

    def __init__(self, client, timeout=30, run=RUN, **opening):
        self.waiting = queue.Queue()
        self.answers = client.call("Append", iter(self.waiting.get, None), timeout)
        opened = wire.OpenRun(conversation_id=str(run), **opening)
        self.waiting.put(wire.AppendRequest(open=opened))

    def receive_opened(self):
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


def catch_status_code(call):
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code()


def build_status_fields(value):
    body = {"kind": "ConversationStateUpdateEvent", "key": "execution_status", "value": value}
    return body | {"source": "environment"}


class TestAppend:
    def test_published_run_is_served_like_any_conversation(self, client, alice):
        stream = Stream(client, title="Nightly repair", model="other/model")
        opened = stream.receive_opened()
        first = stream.send(1, build_event(1), build_event(2, **build_status_fields("running")))
        second = stream.send(2, build_event(3), build_event(4, **build_status_fields("finished")))
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
        assert rows[0]["payload"] == json.loads(build_event(1))
        entry = AuditEntry.objects.get(action="conversation.published")
        assert (entry.actor_kind, entry.subject_id) == ("key", str(RUN))

    def test_repeated_events_are_stored_once(self, client):
        first = Stream(client)
        first.receive_opened()
        first.send(1, build_event(1), build_event(2))
        first.end()

        second = Stream(client)
        opened = second.receive_opened()
        answer = second.send(7, build_event(2), build_event(3), build_event(3))
        second.end()

        assert (opened.last_seq, opened.last_event_id) == (2, "e-2")
        assert (answer.number, answer.last_seq, answer.stored, answer.known) == (7, 3, 1, 2)
        assert list(Event.objects.values_list("event_id", flat=True)) == ["e-1", "e-2", "e-3"]

    def test_every_batch_in_the_queue_is_acknowledged(self, client):
        stream = Stream(client)
        stream.receive_opened()
        for number in range(1, 201):
            stream.put(number, build_event(number), build_event(-number))
        answers = [answer.appended for answer in stream.end()]

        assert [answer.number for answer in answers] == list(range(1, 201))
        assert [answer.last_seq for answer in answers] == list(range(2, 402, 2))
        assert Conversation.objects.get(pk=RUN).last_seq == 400

    @pytest.mark.parametrize(
        "bad", [b"", b"no json", b"[]", b'{"kind": "X"}', b'{"id": "x-1"}', b'{"id": "' + b"a" * 81 + b'"}']
    )  # fmt: skip
    def test_batch_with_an_invalid_event_is_refused_whole(self, client, bad):
        stream = Stream(client)
        stream.receive_opened()
        stream.put(1, build_event(1), bad)

        assert catch_status_code(lambda: next(stream.answers)) is grpc.StatusCode.INVALID_ARGUMENT
        assert not Event.objects.exists()

    def test_hostile_payloads_are_stored_unchanged(self, client, alice):
        texts = [
            '{"id": "h-1", "kind": "\\u0000", "text": "\\ud800 \\u0000"}',
            '{"id": "h-2", "n": 1e400, "big": ' + "9" * 5000 + "}",
            '{"id": "h-3", "id": "h-3", "deep": ' + "[" * 400 + "]" * 400 + "}",
        ]
        stream = Stream(client, title="a\0b\ud7ff")
        stream.receive_opened()
        stream.send(1, *(text.encode() for text in texts))
        stream.end()

        assert list(Event.objects.order_by("seq").values_list("payload", flat=True)) == texts
        assert key_client(alice).get(f"/api/v1/conversations/{RUN}/events").status_code == 200

    def test_append_to_a_conversation_with_a_sandbox_is_refused(self, client, alice):
        conversation = services.create_conversation(user=alice)

        stream = Stream(client, run=conversation.pk)

        assert catch_status_code(stream.receive_opened) is grpc.StatusCode.FAILED_PRECONDITION

    def test_published_run_accepts_no_commands(self, client, alice):
        stream = Stream(client)
        stream.receive_opened()
        api = key_client(alice)
        for action, body in (("messages", {"text": "hello"}), ("interrupt", {}), ("resume", {})):
            answer = api.post(f"/api/v1/conversations/{RUN}/{action}", body, format="json")
            assert (answer.status_code, answer.json()["code"]) == (409, "published-elsewhere")
        stream.end()

    def test_revoked_key_ends_the_append(self, client, alice, channel):
        row, token = accounts.issue_api_key(user=alice, name="short")
        stream = Stream(Client(channel, token))
        stream.receive_opened()
        stream.send(1, build_event(1))

        accounts.revoke_api_key(key=row)

        assert catch_status_code(lambda: next(stream.answers)) is grpc.StatusCode.UNAUTHENTICATED

    @pytest.mark.parametrize(
        "message", [wire.AppendRequest(), wire.AppendRequest(batch=wire.Batch())]
    )
    def test_append_that_does_not_begin_with_open_is_refused(self, client, message):
        call = client.call("Append", iter([message]))

        assert catch_status_code(lambda: next(call)) is grpc.StatusCode.INVALID_ARGUMENT


class TestSubscribe:
    def test_subscription_gets_events_after_the_cursor_and_then_new_events(self, client):
        stream = Stream(client)
        stream.receive_opened()
        stream.send(1, build_event(1), build_event(2))
        request = wire.SubscribeRequest(conversation_id=str(RUN), after_seq=1)
        subscription = client.call("Subscribe", request)
        messages = [next(subscription)]
        stream.send(2, build_event(3))
        while (
            len([message for message in messages if message.WhichOneof("message") == "event"]) < 2
        ):
            messages.append(next(subscription))
        subscription.cancel()
        stream.end()

        events = [message.event for message in messages if message.WhichOneof("message") == "event"]
        assert [(e.seq, e.event_id, e.kind) for e in events] == [
            (2, "e-2", "MessageEvent"), (3, "e-3", "MessageEvent"),
        ]  # fmt: skip
        assert events[0].payload == build_event(2)
        assert abs(events[0].received_at.ToSeconds() - time.time()) < 120
        records = [json.loads(message.status_json) for message in messages if message.status_json]
        assert records
        assert {record["id"] for record in records} == {str(RUN)}

    def test_cursor_ahead_of_the_log_gets_a_reset(self, client):
        stream = Stream(client)
        stream.receive_opened()
        stream.send(1, build_event(1))
        stream.end()
        request = wire.SubscribeRequest(conversation_id=str(RUN), after_seq=99)
        subscription = client.call("Subscribe", request)

        first = next(subscription)
        subscription.cancel()

        assert (first.reset.last_seq, first.reset.epoch) == (1, 1)

    def test_subscription_ends_when_access_ends(self, client, alice, bob, channel):
        stream = Stream(client)
        stream.receive_opened()
        stream.end()
        Conversation.objects.update(visibility="organization")
        client_of_bob = Client(channel, create_key(bob, organization=alice.personal_organization))
        subscription = client_of_bob.call(
            "Subscribe", wire.SubscribeRequest(conversation_id=str(RUN))
        )
        next(subscription)

        Membership.objects.filter(user=bob, organization=alice.personal_organization).delete()
        announce_access_change(user_id=bob.pk)

        def drain():
            for _ in subscription:
                pass

        assert catch_status_code(drain) in ENDED


class TestGetLastSeq:
    def test_last_seq_of_a_visible_conversation_is_returned(self, client, alice):
        conversation = services.create_conversation(user=alice, message="hello")
        answer = client.call(
            "GetLastSeq", wire.GetLastSeqRequest(conversation_id=str(conversation.pk))
        )

        assert (answer.last_seq, answer.epoch, answer.last_event_id) == (1, 1, "")


class TestAccess:
    METHODS = ("Append", "Subscribe", "GetLastSeq")

    def call_method(self, client, method, conversation_id=RUN, timeout=20):
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
    def test_missing_or_invalid_key_is_unauthenticated(self, channel, run, method, token):
        client = Client(channel)
        if token:
            client.metadata = [
                ("authorization", f"Bearer {token}".encode("ascii", "replace").decode())
            ]

        assert (
            catch_status_code(lambda: self.call_method(client, method))
            is grpc.StatusCode.UNAUTHENTICATED
        )

    @pytest.mark.parametrize("method", METHODS)
    def test_stranger_gets_not_found(self, channel, run, charlie, method):
        code = catch_status_code(
            lambda: self.call_method(Client(channel, create_key(charlie)), method)
        )

        assert code is grpc.StatusCode.NOT_FOUND

    @pytest.mark.parametrize(
        ("scope", "allowed"),
        [("events.publish", {"Append"}), ("conversations.view", {"Subscribe", "GetLastSeq"})],
    )
    def test_key_may_call_only_the_methods_of_its_scope(self, channel, run, alice, scope, allowed):
        client = Client(channel, create_key(alice, scopes=[scope]))
        for method in self.METHODS:
            if method in allowed:
                self.call_method(client, method)
            else:
                code = catch_status_code(lambda name=method: self.call_method(client, name))
                assert code is grpc.StatusCode.PERMISSION_DENIED

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("timeout", [None, 25 * 3600])
    def test_call_without_a_valid_deadline_is_refused(self, client, run, method, timeout):
        code = catch_status_code(lambda: self.call_method(client, method, timeout=timeout))

        assert code is grpc.StatusCode.INVALID_ARGUMENT

    @pytest.mark.parametrize("method", METHODS)
    def test_id_that_is_not_a_uuid_is_refused(self, client, method):
        code = catch_status_code(lambda: self.call_method(client, method, "../etc"))

        assert code is grpc.StatusCode.INVALID_ARGUMENT

    def test_message_beyond_the_size_limit_is_refused(self, client):
        stream = Stream(client)
        stream.receive_opened()
        stream.put(1, build_event(1, padding="x" * 5_000_000))

        assert catch_status_code(lambda: next(stream.answers)) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert not Event.objects.exists()


class TestServer:
    def test_health_and_reflection_need_no_key(self, channel):
        request = health_pb2.HealthCheckRequest(service="openhands.v1.EventService")
        answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=10)
        service_names = ProtoReflectionDescriptorDatabase(channel).get_services()

        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert set(service_names) == {
            "openhands.v1.EventService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }

    def test_sigterm_ends_the_server_after_its_open_call(self, alice, tmp_path):
        """A batch sent after SIGTERM is stored, and then the process ends with status 0."""
        with run_server(tmp_path / "grpc.log") as (process, port):
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                stream = Stream(Client(channel, create_key(alice)))
                stream.receive_opened()
                process.send_signal(signal.SIGTERM)
                time.sleep(0.2)
                assert stream.send(1, build_event(1)).stored == 1
                stream.end()
            assert process.wait(25) == 0

    def test_unencrypted_server_on_all_addresses_is_refused(self, tmp_path, db):
        command = [sys.executable, "-W", "ignore", "manage.py", "run_grpc", "--host", "0.0.0.0"]
        done = subprocess.run(
            command, cwd=settings.BASE_DIR, capture_output=True, text=True, timeout=60, check=False
        )

        assert done.returncode == 1
        assert "unencrypted" in done.stderr


def test_program_publishes_every_event_once_although_the_server_is_killed(alice, tmp_path):
    """Kill and replace the server while the example program publishes; every event is stored once, in order."""
    token = create_key(alice, scopes=["events.publish"])
    with run_server(tmp_path / "one.log") as (first, port):
        program = subprocess.Popen(
            [sys.executable, "examples/publish_run.py", "--server", f"127.0.0.1:{port}",
             "--title", "From elsewhere", "--id", str(RUN)],
            cwd=settings.BASE_DIR, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"OH_API_KEY": token, "GRPC_DNS_RESOLVER": "native"},
        )  # fmt: skip
        with program:
            assert program.stdout.readline().strip() == str(RUN)
            for n in range(1, 301):
                program.stdin.write(build_event(n).decode() + "\n")
                program.stdin.flush()
                if n == 150:
                    wait_until(lambda: Event.objects.count() > 50, "50 published events")
                    first.kill()
                    first.wait(10)
                    second = run_server(tmp_path / "two.log", "--port", str(port))
                    second.__enter__()
            program.stdin.close()
            assert program.wait(60) == 0
    second.__exit__(None, None, None)

    rows = Event.objects.order_by("seq").values_list("seq", "event_id")
    assert list(rows) == [(n, f"e-{n}") for n in range(1, 301)]
