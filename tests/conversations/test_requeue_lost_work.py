from datetime import timedelta

import pytest
from django.utils import timezone
from procrastinate.contrib.django.models import ProcrastinateJob

from conversations import services
from conversations.models import OutgoingMessage, StartTask
from tests.conversations.conftest import list_queued_jobs

OLD = timedelta(minutes=5)


@pytest.fixture
def forget_jobs(django_db_blocker):
    """Return a function that empties the job queue and makes starts and messages five minutes old."""

    def empty_queue():
        with django_db_blocker.unblock():
            ProcrastinateJob.objects.all()._raw_delete("default")
            StartTask.objects.update(updated_at=timezone.now() - OLD)
            OutgoingMessage.objects.update(created_at=timezone.now() - OLD)

    return empty_queue


def test_start_without_a_job_is_queued_again_once(conversation, forget_jobs):
    forget_jobs()

    assert services.requeue_lost_work() == 1
    assert services.requeue_lost_work() == 0
    assert list_queued_jobs("start_conversation") == [{"conversation_id": str(conversation.pk)}]


def test_message_without_a_job_is_queued_again_once(running, forget_jobs):
    services.post_message(conversation_id=running.pk, text="hi", message_id="m")
    forget_jobs()

    assert services.requeue_lost_work() == 1
    assert services.requeue_lost_work() == 0
    assert list_queued_jobs("deliver_messages") == [{"conversation_id": str(running.pk)}]


def test_message_that_waits_for_a_confirmation_is_not_queued_again(running, forget_jobs):
    services.post_message(conversation_id=running.pk, text="hi", message_id="m")
    type(running).objects.update(execution_status="waiting_for_confirmation")
    forget_jobs()

    assert services.requeue_lost_work() == 0
    type(running).objects.update(execution_status="idle")
    assert services.requeue_lost_work() == 1
