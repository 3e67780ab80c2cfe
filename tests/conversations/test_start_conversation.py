import shlex
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest
from django.utils import timezone
from procrastinate.contrib.django.models import ProcrastinateJob

from compat.v1.responses import serialize_start
from conversations import services
from conversations.log import records
from conversations.models import Conversation, Sandbox, StartTask
from conversations.models.sandbox import find_wait
from conversations.sandboxes.provider import (
    SandboxImpossible,
    SandboxNotYet,
    SandboxUnavailable,
    State,
)
from conversations.services import starts
from lib import processes
from lib.engine_progress import Progress, write_progress
from lib.engine_state import lock_path
from tests.conversations.conftest import list_queued_jobs


def start(conversation):
    services.start_conversation(conversation_id=conversation.pk)
    conversation.refresh_from_db()


def read_phases(conversation):
    return [p["phase"] for p in conversation.start_tasks.latest("created_at").phases]


def test_start_records_its_phases_with_their_times(conversation, sandboxes, engine):
    start(conversation)

    task = conversation.start_tasks.get()
    assert read_phases(conversation) == [
        "WORKING",
        "WAITING_FOR_SANDBOX",
        "STARTING_CONVERSATION",
        "READY",
    ]
    assert all(p["started_at"] <= p["finished_at"] for p in task.phases)
    assert task.finished_at is not None
    assert (conversation.status, conversation.sandbox.run) == ("running", 1)
    assert conversation.sandbox.engine_version == "1.58.2"
    assert str(conversation.pk) in engine.conversations


def test_engine_gets_a_gateway_token_and_no_model_key(conversation, sandboxes, engine):
    start(conversation)

    body = next(b for m, s, b in engine.calls if s == "/api/conversations")
    llm = body["agent"]["llm"]
    assert llm["api_key"].startswith("ogt_")
    assert llm["base_url"].endswith("/api/llm/v1")
    assert "initial_message" not in body


def test_interrupted_start_continues_with_the_sandbox_that_it_started(
    conversation, sandboxes, engine
):
    sandbox = conversation.sandbox
    sandbox.handle = sandboxes.start(spec=type("Spec", (), {"sandbox_id": sandbox.pk})())
    sandbox.observed = Sandbox.Observed.STARTING
    sandbox.save()

    start(conversation)
    start(conversation)

    assert sandboxes.starts == 1
    assert len(engine.conversations) == 1


def test_start_of_paused_conversation_ends_without_starting_a_sandbox(conversation, sandboxes):
    services.pause_sandbox(conversation_id=conversation.pk)

    start(conversation)

    task = conversation.start_tasks.get()
    assert (task.phase, task.finished_at is None) == ("ERROR", False)
    assert task.error == "The sandbox was stopped before its start was complete."
    assert sandboxes.starts == 0
    assert conversation.status == "paused"


def test_start_that_waits_for_engine_ends_when_conversation_is_deleted(
    conversation, sandboxes, monkeypatch
):
    inspect = sandboxes.inspect

    def inspect_starting(handle):
        services.delete_conversation(conversation_id=conversation.pk)
        return replace(inspect(handle), state=State.STARTING)

    monkeypatch.setattr(sandboxes, "inspect", inspect_starting)

    start(conversation)

    assert conversation.start_tasks.get().finished_at is not None
    assert {"conversation_id": str(conversation.pk)} in list_queued_jobs("destroy_conversation")


def test_start_continues_if_conversation_is_resumed_before_its_cancellation(
    conversation, sandboxes, monkeypatch
):
    inspect = sandboxes.inspect

    def inspect_starting(handle):
        if conversation.start_tasks.get().attempts == 1:
            services.pause_sandbox(conversation_id=conversation.pk)
            monkeypatch.setattr(sandboxes, "inspect", inspect)
            monkeypatch.setattr(
                starts, "record_cancellation", partial(_resume_first, starts.record_cancellation)
            )
        return replace(inspect(handle), state=State.STARTING)

    def _resume_first(record, task):
        services.resume(conversation_id=conversation.pk)
        record(task)

    monkeypatch.setattr(sandboxes, "inspect", inspect_starting)

    start(conversation)
    assert conversation.start_tasks.get().finished_at is None
    start(conversation)

    assert conversation.status == "running"
    assert conversation.start_tasks.get().phase == "READY"


def test_stop_wakes_the_oldest_start_that_waits_for_its_slot(alice, sandboxes, settings):
    settings.SANDBOX_MAX_RUNNING = 1
    first, second, third = (services.create_conversation(user=alice) for _ in range(3))
    for conversation in (first, second, third):
        start(conversation)
    due = ProcrastinateJob.objects.filter(
        task_name="conversations.tasks.start_conversation", status="todo", scheduled_at=None
    )
    before = set(due.values_list("id", flat=True))

    services.stop_sandbox(conversation_id=first.pk)

    [job] = due.exclude(id__in=before)
    assert job.args == {"conversation_id": str(second.pk)}


def test_starts_far_behind_in_the_queue_look_rarely(alice, sandboxes, settings):
    settings.SANDBOX_MAX_RUNNING = 1
    conversations = [services.create_conversation(user=alice) for _ in range(4)]
    for conversation in conversations:
        start(conversation)

    waiting = ProcrastinateJob.objects.filter(status="todo", scheduled_at__isnull=False)
    delays = [
        round((job.scheduled_at - timezone.now()).total_seconds()) for job in waiting.order_by("id")
    ]
    assert delays == [2, 4, 6]


def test_repository_is_cloned_before_the_agent_starts(alice, sandboxes, engine):
    success = {"exit_code": 0, "stdout": "", "stderr": ""}
    engine.answers["POST /api/bash/execute_bash_command"] = (200, success)
    repository = {"provider": "github", "full_name": "octo/hello", "branch": "dev"}
    conversation = services.create_conversation(user=alice, repository=repository)

    start(conversation)

    commands = [b["command"] for _, s, b in engine.calls if s.endswith("execute_bash_command")]
    clone_command = (
        "git -c credential.helper= clone --branch dev -- https://github.com/octo/hello.git ."
    )
    assert clone_command in commands[0]
    assert read_phases(conversation)[2:5] == [
        "PREPARING_REPOSITORY",
        "RUNNING_SETUP_SCRIPT",
        "SETTING_UP_GIT_HOOKS",
    ]


def test_names_of_repositories_and_branches_are_quoted_in_the_clone_command(
    alice, sandboxes, engine
):
    success = {"exit_code": 0, "stdout": "", "stderr": ""}
    engine.answers["POST /api/bash/execute_bash_command"] = (200, success)
    repository = {"provider": "github", "full_name": "o/r;id", "branch": "x'; touch y; '"}

    start(services.create_conversation(user=alice, repository=repository))

    [command, *_] = [b["command"] for _, s, b in engine.calls if s.endswith("bash_command")]
    words = shlex.split(command)
    assert words[words.index("--branch") + 1] == "x'; touch y; '"
    assert words[words.index("--") + 1] == "https://github.com/o/r;id.git"


def test_failed_clone_fails_the_conversation_after_three_attempts(alice, sandboxes, engine):
    failed = {"exit_code": 128, "stdout": "", "stderr": "fatal: repository not found"}
    engine.answers["POST /api/bash/execute_bash_command"] = (200, failed)
    repository = {"provider": "github", "full_name": "octo/none"}
    conversation = services.create_conversation(user=alice, repository=repository, message="hi")

    for _ in range(3):
        start(conversation)

    task = conversation.start_tasks.get()
    assert (conversation.status, task.phase, task.attempts) == ("failed", "ERROR", 3)
    assert "fatal: repository not found" in conversation.status_detail
    assert conversation.events.filter(kind="SandboxNotice").count() == 1
    assert conversation.outgoing_messages.get().status == "pending"


def test_sandbox_of_a_start_that_failed_for_good_is_stopped_and_its_slot_is_given_away(
    alice, sandboxes, engine, settings
):
    settings.SANDBOX_MAX_RUNNING = 1
    failed = {"exit_code": 128, "stdout": "", "stderr": "fatal: repository not found"}
    engine.answers["POST /api/bash/execute_bash_command"] = (200, failed)
    repository = {"provider": "github", "full_name": "octo/none"}
    first = services.create_conversation(user=alice, repository=repository)
    second = services.create_conversation(user=alice)
    start(first)
    start(second)
    assert second.start_tasks.get().queue_position == 1
    jobs = ProcrastinateJob.objects.filter(args={"conversation_id": str(second.pk)}, status="todo")
    jobs.update(scheduled_at=timezone.now() + timedelta(hours=1))
    assert read_state(first, sandboxes) == State.RUNNING
    start(first)
    start(first)

    assert read_state(first, sandboxes) == State.STOPPED
    assert first.status == "failed"
    assert jobs.filter(scheduled_at=None).exists()
    start(second)
    assert second.status == "running"


def read_state(conversation, sandboxes):
    return sandboxes.inspect(Sandbox.objects.get(conversation=conversation).handle).state


def test_resume_retries_a_failed_start(conversation, sandboxes, monkeypatch):
    def refuse(spec):
        raise SandboxUnavailable("no room")

    with monkeypatch.context() as patch:
        patch.setattr(sandboxes, "start", refuse)
        for _ in range(3):
            start(conversation)
    assert conversation.status_detail == "no room"

    services.resume(conversation_id=conversation.pk)
    start(conversation)

    assert conversation.status == "running"
    assert StartTask.objects.count() == 2


def test_impossible_start_is_not_retried(conversation, sandboxes, monkeypatch):
    def refuse(spec):
        raise SandboxImpossible(
            "The agent engine is not installed. Run `manage.py install_engine`."
        )

    with monkeypatch.context() as patch:
        patch.setattr(sandboxes, "start", refuse)
        start(conversation)

    task = conversation.start_tasks.get()
    assert (conversation.status, task.phase, task.attempts) == ("failed", "ERROR", 1)
    assert conversation.status_detail.startswith("The agent engine is not installed.")


def test_start_waits_while_the_engine_is_being_installed(conversation, sandboxes, monkeypatch):
    def refuse(spec):
        raise SandboxNotYet("being installed")

    with monkeypatch.context() as patch:
        patch.setattr(sandboxes, "start", refuse)
        for _ in range(5):
            start(conversation)
    task = conversation.start_tasks.get()
    assert (conversation.status, task.attempts) == ("starting", 0)
    assert find_wait(task.phases) == "being installed"

    start(conversation)

    assert conversation.status == "running"


def test_start_shows_the_progress_of_the_installation_in_one_phase_and_claims_no_slot(
    conversation, sandboxes, settings, tmp_path, alice
):
    settings.ENGINE_DIR = tmp_path / "engine"
    settings.SANDBOX_MAX_RUNNING = 1
    began = None
    with processes.acquire_lock(lock_path(settings.ENGINE_DIR)):
        for progress in (
            Progress("fetching", 12, 194, 9, 4),
            Progress("installing", 120, 194, 300, 30, 10),
        ):
            write_progress(settings.ENGINE_DIR, progress)
            start(conversation)
            [phase] = conversation.start_tasks.get().phases
            began = began or phase["started_at"]

        sentence = "The agent engine is being installed: 120 of 194 packages, about 10 s left."
        assert phase == {
            "phase": "WORKING",
            "started_at": began,
            "finished_at": None,
            "detail": sentence,
            "percent": 75,
        }
        assert conversation.sandbox.observed == "pending"
        assert records.build_record(conversation)["start_task"]["detail"] == sentence
        assert services.describe_sandbox(conversation=conversation).detail == sentence
        assert serialize_start(conversation.start_tasks.get())["detail"] == sentence

    start(conversation)

    assert conversation.status == "running"
    first = conversation.start_tasks.get().phases[0]
    assert (first["phase"], first["started_at"], first["detail"]) == ("WORKING", began, "")
    assert records.build_record(conversation)["start_task"]["detail"] == ""


def test_sandbox_that_dies_while_starting_fails_the_conversation(
    conversation, sandboxes, monkeypatch
):
    monkeypatch.setattr(sandboxes, "start", lambda spec: {"dead": True})

    for _ in range(3):
        start(conversation)

    assert (conversation.status, conversation.status_detail) == ("failed", "killed by signal 9")


def test_start_at_the_limit_of_running_sandboxes_waits_in_a_queue(alice, sandboxes, settings):
    settings.SANDBOX_MAX_RUNNING = 1
    first, second, third = (services.create_conversation(user=alice) for _ in range(3))
    for one in (first, second, third):
        start(one)

    assert [c.status for c in (first, second, third)] == ["running", "starting", "starting"]
    positions = [c.start_tasks.get().queue_position for c in (second, third)]
    assert positions == [1, 2]
    assert {"conversation_id": str(second.pk)} in list_queued_jobs("start_conversation")

    services.stop_sandbox(conversation_id=first.pk)
    start(second)

    assert second.status == "running"
    assert second.start_tasks.get().queue_position is None


class TestStop:
    def test_stopped_sandbox_is_resumed_with_the_next_run_number(self, running, sandboxes):
        services.stop_sandbox(conversation_id=running.pk)
        running.refresh_from_db()
        assert (running.status, sandboxes.state) == ("stopped", State.STOPPED)

        services.resume(conversation_id=running.pk)
        start(running)

        assert (running.status, running.sandbox.run) == ("running", 2)

    def test_idle_sandbox_is_stopped_and_a_busy_sandbox_is_not(self, running, settings):
        settings.SANDBOX_IDLE_SECONDS = 0
        Conversation.objects.update(execution_status="running")
        assert services.reconcile_sandboxes() == 0

        Conversation.objects.update(execution_status="finished")

        assert services.reconcile_sandboxes() == 1
        assert list_queued_jobs("stop_sandbox") == [{"conversation_id": str(running.pk)}]

    def test_missing_sandbox_without_a_live_manager_is_stored_as_stopped(self, running, sandboxes):
        sandboxes.state = State.MISSING

        assert services.reconcile_sandboxes() == 1

        running.refresh_from_db()
        assert running.status == "stopped"

    def test_missing_sandbox_with_a_live_manager_is_left_to_the_manager(self, running, sandboxes):
        services.renew_manager(owner=running.lease.owner, capacity=1, followed=1)
        sandboxes.state = State.MISSING

        assert services.reconcile_sandboxes() == 0
        running.refresh_from_db()
        assert running.status == "running"

    def test_stop_all_sandboxes_stops_a_running_sandbox(self, running, sandboxes):
        assert services.stop_all_sandboxes() == 1
        assert sandboxes.state == State.STOPPED


@pytest.mark.parametrize(
    ("status", "runs"),
    [("paused", 1), ("error", 1), ("stuck", 1), ("idle", 0), ("waiting_for_confirmation", 0)],
)
def test_agent_is_run_again_only_after_a_pause_or_a_failure(running, engine, status, runs):
    engine.conversations[str(running.pk)]["execution_status"] = status

    services.run_agent(conversation_id=running.pk)

    assert sum(s == "/run" for _, s, _ in engine.calls) == runs


def test_interrupt_is_queued_and_sent_to_the_engine(running, engine):
    services.interrupt(conversation_id=running.pk)
    assert list_queued_jobs("interrupt_agent") == [{"conversation_id": str(running.pk)}]

    services.interrupt_agent(conversation_id=running.pk)

    assert [s for _, s, _ in engine.calls][-1] == "/interrupt"
