"""The storage of sandboxes' decisions: exactly once, and one question for each refused host."""

import asyncio
import json
import os
import signal
import threading
import time

import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError, connection, connections, transaction

from compat.v0 import event_pages
from compat.v1.translation import encode_event, filter_for_v1
from conversations import services
from conversations.log.story import build_entry
from conversations.manager import manager as manager_module
from conversations.models import Conversation, EgressDecision, Sandbox
from conversations.services import egress_log
from lib.threads import DatabaseThreads
from tests.conversations.egress_rules.conftest import build_decision, list_notices
from tests.factories.conversations import ConversationFactory, HostRuleFactory, SandboxFactory


def collect(conversation):
    return services.collect_decisions(conversation_id=conversation.pk)


class TestStorage:
    def test_every_field_of_a_decision_is_stored(self, listed, sandboxes):
        sandboxes.decisions = [
            build_decision(
                "pypi.org", address="151.101.0.223", allowed=True, reason="listed", count=7
            )
        ]

        assert collect(listed) == 1

        row = EgressDecision.objects.values().get()
        assert row.pop("id")
        assert row.pop("at").isoformat() == "2026-11-29T22:00:00.123000+00:00"
        assert row == {
            "organization_id": listed.organization_id,
            "conversation_id": listed.pk,
            "host": "pypi.org",
            "port": 443,
            "address": "151.101.0.223",
            "allowed": True,
            "reason": "listed",
            "protocol": "connect",
            "count": 7,
        }

    def test_decisions_are_stored_once_and_later_ones_are_added(self, listed, sandboxes):
        sandboxes.decisions = [build_decision(f"h{n}.example") for n in range(2_500)]

        assert [collect(listed), collect(listed)] == [2_500, 0]
        sandboxes.decisions.append(build_decision("h1.example"))
        assert collect(listed) == 1
        assert EgressDecision.objects.count() == 2_501
        assert Sandbox.objects.get().egress_position == "2501"

    def test_lines_that_are_no_decisions_are_skipped_and_the_rest_is_stored(
        self, listed, sandboxes, caplog
    ):
        sandboxes.decisions = [
            {"host": "without-time.example"},
            build_decision(at="yesterday"),
            build_decision("a\0b\ud800.example" * 40, port=-3, count=2**70),
            build_decision("pypi.org", allowed=True, reason="listed"),
        ]

        assert collect(listed) == 2

        odd = EgressDecision.objects.get(allowed=False)
        assert (len(odd.host), odd.port, odd.count) == (255, 0, 2**31 - 1)
        assert "not a decision" in caplog.text

    def test_last_decisions_are_stored_when_the_sandbox_is_stopped(self, listed, sandboxes):
        sandboxes.last_decisions = [build_decision("last.example")]

        services.stop_sandbox(conversation_id=listed.pk)

        assert EgressDecision.objects.get().host == "last.example"

    def test_last_decisions_are_stored_when_the_engine_has_ended(self, listed, sandboxes):
        sandboxes.stop({}, grace_seconds=0)
        sandboxes.decisions = [build_decision("last.example")]

        services.handle_unreachable_engine(conversation_id=listed.pk, generation=1)

        assert EgressDecision.objects.get().host == "last.example"

    def test_collection_that_fails_does_not_keep_the_sandbox_from_stopping(
        self, listed, sandboxes, monkeypatch, caplog
    ):
        def fail(handle, position):
            raise OSError("the disk is gone")

        monkeypatch.setattr(sandboxes, "read_decisions", fail)

        services.stop_sandbox(conversation_id=listed.pk)

        assert Sandbox.objects.get().observed == "stopped"
        assert "the disk is gone" in caplog.text

    def test_decisions_are_deleted_with_their_conversation(self, listed, sandboxes):
        sandboxes.decisions = [build_decision()]
        HostRuleFactory(conversation=listed)
        collect(listed)

        services.delete_conversation(conversation_id=listed.pk)
        services.destroy_conversation(conversation_id=listed.pk)

        assert not EgressDecision.objects.exists()


class TestTick:
    def test_idle_round_makes_one_query(self, listed, django_assert_num_queries):
        with django_assert_num_queries(1):
            assert services.collect_egress(conversation_ids=[listed.pk]) == 0

    def test_round_stores_new_decisions(self, listed, sandboxes):
        sandboxes.decisions = [build_decision()]

        assert services.collect_egress(conversation_ids=[listed.pk]) == 1
        assert services.collect_egress(conversation_ids=[listed.pk]) == 0

    def test_sandbox_that_is_starting_is_included_although_no_manager_follows_it(
        self, listed, sandboxes
    ):
        sandboxes.decisions = [build_decision()]
        assert services.collect_egress(conversation_ids=[]) == 0
        Sandbox.objects.update(observed="starting")

        assert services.collect_egress(conversation_ids=[]) == 1

    def test_failure_in_one_sandbox_does_not_affect_the_others(self, listed, sandboxes, caplog):
        broken = ConversationFactory(
            created_by=listed.created_by,
            sandbox=SandboxFactory(user=listed.created_by, provider="gone", handle={"x": 1}),
        )
        sandboxes.decisions = [build_decision()]

        found = services.collect_egress(conversation_ids=[broken.pk, listed.pk])

        assert found == 1
        assert (
            f"the network decisions of conversation {broken.pk} could not be stored" in caplog.text
        )


class TestQuestions:
    def test_first_refusal_of_a_host_appends_a_notice_once(self, listed, sandboxes):
        sandboxes.decisions = [build_decision(), build_decision(port=80)]
        collect(listed)
        sandboxes.decisions.append(build_decision())
        collect(listed)

        assert list_notices(listed) == [
            {
                "code": "egress_refused",
                "message": "The sandbox tried to reach evil.example on port 443. Its network profile allows only "
                "listed hosts, so the connection was refused. An owner or admin of the organization can allow the "
                "host on this page, or for all conversations in the settings.",
                "host": "evil.example",
                "port": 443,
            }
        ]
        assert "evil.example on port 443" in build_entry(listed.events.last()).text

    @pytest.mark.parametrize(
        "decision",
        [
            build_decision(allowed=True, reason="listed"),
            build_decision(reason="private-address"),
            build_decision(reason="unresolvable"),
            build_decision(reason="denied"),
        ],
    )
    def test_other_decisions_append_no_notice(self, listed, sandboxes, decision):
        sandboxes.decisions = [decision]

        assert collect(listed) == 1
        assert list_notices(listed) == []

    @pytest.mark.parametrize("allowed", [True, False])
    def test_host_with_a_rule_appends_no_notice(self, listed, sandboxes, allowed):
        HostRuleFactory(conversation=listed, host="*.example", allowed=allowed)
        sandboxes.decisions = [build_decision()]

        collect(listed)

        assert list_notices(listed) == []

    def test_number_of_questions_is_limited(self, listed, sandboxes, monkeypatch):
        monkeypatch.setattr(egress_log, "QUESTIONS_MAX", 3)
        for number in range(6):
            sandboxes.decisions.append(build_decision(f"h{number}.example"))
            collect(listed)

        hosts = [notice["host"] for notice in list_notices(listed)]
        assert hosts == ["h0.example", "h1.example", "h2.example"]
        assert len(list_notices(listed, "egress_more_refused")) == 1
        assert EgressDecision.objects.count() == 6

    def test_questions_of_one_batch_are_limited_too(self, listed, sandboxes, monkeypatch):
        monkeypatch.setattr(egress_log, "QUESTIONS_MAX", 3)
        sandboxes.decisions = [build_decision(f"h{number}.example") for number in range(6)]
        collect(listed)
        sandboxes.decisions.append(build_decision("h7.example"))
        collect(listed)

        assert len(list_notices(listed)) == 3
        assert len(list_notices(listed, "egress_more_refused")) == 1


@pytest.mark.django_db(transaction=True)
class TestExactlyOnce:
    @pytest.fixture
    def committed(self, transactional_db, alice, sandboxes):
        conversation = services.create_conversation(user=alice, title="A conversation")
        services.start_conversation(conversation_id=conversation.pk)
        services.set_egress_policy(
            organization=conversation.organization, profile="list", hosts=[], by=alice
        )
        sandboxes.decisions = [build_decision(f"h{n % 40}.example", port=n) for n in range(3_000)]
        return conversation

    def test_killed_process_stores_nothing_and_the_next_stores_everything(self, committed):
        # A process is killed after it has written the rows of the first batch and before it commits.
        connection.close()
        child = os.fork()
        if child == 0:
            connections.close_all()
            bulk_create = EgressDecision.objects.bulk_create

            def die(rows):
                bulk_create(rows)
                os.kill(os.getpid(), signal.SIGKILL)

            EgressDecision.objects.bulk_create = die
            try:
                collect(committed)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)

        assert os.WTERMSIG(status) == signal.SIGKILL
        assert EgressDecision.objects.count() == 0
        assert Sandbox.objects.get().egress_position == ""
        assert list_notices(committed) == []
        assert collect(committed) == 3_000
        assert EgressDecision.objects.count() == 3_000
        assert len(list_notices(committed)) == 40

    def test_four_threads_at_the_same_time_store_each_decision_once(self, committed):
        barrier, found = threading.Barrier(4), []

        def work():
            barrier.wait()
            try:
                found.append(collect(committed))
            finally:
                connections.close_all()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        assert sum(found) == 3_000
        assert sorted(EgressDecision.objects.values_list("port", flat=True)) == list(range(3_000))
        hosts = [notice["host"] for notice in list_notices(committed)]
        assert sorted(hosts) == sorted({f"h{n}.example" for n in range(40)})

    def test_rolled_back_transaction_is_stored_by_the_next_collection(self, committed, monkeypatch):
        def fail(*args, **fields):
            raise OperationalError("the server closed the connection")

        with monkeypatch.context() as patch:
            patch.setattr(egress_log, "append_notice", fail)
            with pytest.raises(OperationalError):
                collect(committed)

        assert EgressDecision.objects.count() == 0
        assert collect(committed) == 3_000

    def test_collection_waits_for_a_service_that_holds_the_conversation_without_a_deadlock(
        self, committed
    ):
        started, done = threading.Event(), []

        def work():
            started.set()
            try:
                done.append(collect(committed))
            finally:
                connections.close_all()

        with transaction.atomic():
            Conversation.objects.select_for_update().get(pk=committed.pk)
            thread = threading.Thread(target=work)
            thread.start()
            started.wait(5)
            # The order of stop_sandbox: first the conversation, then its sandbox.
            Sandbox.objects.filter(conversation=committed).update(detail="locked")
        thread.join(60)

        assert done == [3_000]


def test_clients_of_v0_and_v1_receive_the_question_as_an_error_and_no_rule_change(
    listed, alice, sandboxes
):
    sandboxes.decisions = [build_decision()]
    collect(listed)
    services.decide_host(conversation_id=listed.pk, host="evil.example", allowed=True, by=alice)

    v1 = [json.loads(encode_event(event)) for event in filter_for_v1(listed.events.all())]
    v0 = list(event_pages.walk(listed.pk))

    message = list_notices(listed)[0]["message"]
    assert [(e["kind"], e["code"], e["detail"]) for e in v1] == [
        ("ConversationErrorEvent", "egress_refused", message)
    ]
    assert [(e["observation"], e["message"]) for e in v0] == [("error", message)]


@pytest.mark.django_db(transaction=True)
async def test_running_manager_stores_a_decision_within_two_seconds(
    transactional_db, alice, sandboxes, monkeypatch
):
    # Threads that keep their connections end only with the process.
    monkeypatch.setattr(
        manager_module, "DatabaseThreads", lambda name, size, **_: DatabaseThreads(name, size)
    )

    def start():
        conversation = services.create_conversation(user=alice, title="A conversation")
        services.start_conversation(conversation_id=conversation.pk)

    await sync_to_async(start)()
    manager = manager_module.Manager("manager-of-this-test")
    running = asyncio.create_task(manager.run())
    try:
        async with asyncio.timeout(30):
            while not manager.followers:
                await asyncio.sleep(0.05)
        started = time.monotonic()
        sandboxes.decisions = [build_decision()]
        async with asyncio.timeout(30):
            while not await manager.in_database(EgressDecision.objects.exists):
                await asyncio.sleep(0.05)
        seconds = time.monotonic() - started
    finally:
        manager.stopping.set()
        await running
        await sync_to_async(connections.close_all)()

    # A proxy writes a decision at most one second late, so people see it within three seconds.
    assert seconds < 2
