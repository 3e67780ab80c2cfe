from datetime import timedelta

import pytest
from django.utils import timezone
from procrastinate.contrib.django.models import ProcrastinateJob

from conversations import services
from conversations.models import OutgoingMessage, StartTask
from tests.conversations.conftest import list_queued_jobs

OLD = timedelta(minutes=5)


@pytest.fixture
def forgotten(django_db_blocker):
    """Nothing is queued any more, as after somebody emptied the table."""

    def forget():
        with django_db_blocker.unblock():
            ProcrastinateJob.objects.all()._raw_delete("default")
            StartTask.objects.update(updated_at=timezone.now() - OLD)
            OutgoingMessage.objects.update(created_at=timezone.now() - OLD)

    return forget


def test_start_that_nothing_works_on_is_queued_again_once(conversation, forgotten):
    forgotten()

    assert services.requeue_lost_work() == 1
    assert services.requeue_lost_work() == 0
    assert list_queued_jobs("start_conversation") == [{"conversation_id": str(conversation.pk)}]


def test_message_that_nothing_works_on_is_queued_again_once(running, forgotten):
    services.post_message(conversation_id=running.pk, text="hi", message_id="m")
    forgotten()

    assert services.requeue_lost_work() == 1
    assert services.requeue_lost_work() == 0
    assert list_queued_jobs("deliver_messages") == [{"conversation_id": str(running.pk)}]


def test_message_that_is_held_back_is_left_alone(running, forgotten):
    services.post_message(conversation_id=running.pk, text="hi", message_id="m")
    type(running).objects.update(execution_status="waiting_for_confirmation")
    forgotten()

    assert services.requeue_lost_work() == 0
