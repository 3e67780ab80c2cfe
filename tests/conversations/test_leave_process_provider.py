"""Sandboxes of the process provider on a server that isolates: they continue under bubblewrap."""

import pytest
from django.utils import timezone

from conversations import services
from conversations.models import Conversation, Sandbox
from conversations.sandboxes import provider
from conversations.sandboxes.provider import Isolation, State
from tests.conversations.conftest import list_queued_jobs
from tests.fakes.agent_server import FakeProvider


@pytest.fixture
def bubblewrap(engine, monkeypatch, settings):
    """Make bubblewrap the server's provider, and return the fake that stands for it."""
    fake = FakeProvider(engine)
    fake.isolation = Isolation("Isolated", "It has walls.", is_isolated=True)
    monkeypatch.setitem(provider._instances, "bubblewrap", fake)
    settings.SANDBOX_PROVIDER = "bubblewrap"
    return fake


def restart(conversation: Conversation) -> None:
    Sandbox.objects.update(observed="stopped", desired="stopped")
    Conversation.objects.update(status="stopped")
    services.wake(conversation_id=conversation.pk)
    services.start_conversation(conversation_id=conversation.pk)
    conversation.refresh_from_db()


@pytest.mark.parametrize("is_allowed", [True, False])
def test_next_start_stops_the_plain_engine_and_runs_isolated(
    running, sandboxes, bubblewrap, settings, is_allowed
):
    settings.ALLOW_PROCESS_SANDBOX = is_allowed
    assert sandboxes.state == State.RUNNING

    restart(running)

    sandbox = Sandbox.objects.get()
    assert (running.status, sandbox.provider, sandbox.run) == ("running", "bubblewrap", 2)
    assert sandboxes.state == State.STOPPED
    assert (sandboxes.starts, bubblewrap.starts) == (1, 1)


def test_row_stays_and_start_fails_if_this_machine_cannot_isolate(running, sandboxes, bubblewrap):
    bubblewrap.isolation = Isolation(
        "Not available", "No.", is_isolated=False, cause="It is refused.", remedy="Allow it."
    )

    restart(running)

    assert (running.status, running.status_detail) == ("failed", "It is refused. Allow it.")
    assert Sandbox.objects.get().provider == "process"
    assert (sandboxes.starts, bubblewrap.starts) == (1, 0)


def test_chosen_process_provider_keeps_its_sandboxes(running, sandboxes):
    restart(running)

    assert (running.status, Sandbox.objects.get().provider) == ("running", "process")


def test_plain_engine_that_still_runs_is_stopped_once_its_agent_rests(
    running, sandboxes, bubblewrap
):
    Sandbox.objects.update(active_at=timezone.now())
    Conversation.objects.update(execution_status="running")
    services.reconcile_sandboxes()
    while_working = list_queued_jobs("stop_sandbox")

    Conversation.objects.update(execution_status="finished")
    services.reconcile_sandboxes()

    assert while_working == []
    assert list_queued_jobs("stop_sandbox") == [{"conversation_id": str(running.pk)}]


def test_engine_of_the_chosen_provider_is_not_stopped_while_it_is_used(running, sandboxes):
    Sandbox.objects.update(active_at=timezone.now())

    services.reconcile_sandboxes()

    assert list_queued_jobs("stop_sandbox") == []


def test_shutdown_stops_the_sandboxes_of_every_provider_of_this_machine(
    running, sandboxes, bubblewrap
):
    restart(running)

    assert services.stop_all_sandboxes() == 1
    assert bubblewrap.state == State.STOPPED


def test_stopped_sandbox_shows_the_isolation_of_its_next_start(running, sandboxes, bubblewrap):
    before = services.describe_sandbox(conversation=running).isolation.word
    Sandbox.objects.update(observed="stopped")
    running.sandbox.refresh_from_db()

    after = services.describe_sandbox(conversation=running).isolation.word

    assert (before, after) == ("Not isolated", "Isolated")
