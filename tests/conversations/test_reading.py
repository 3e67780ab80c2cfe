"""The SQL statement of the hub: it reads the same events and records as the models, byte for byte."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from billing.models import ConversationUsage
from conversations.log.records import build_record
from conversations.models import Conversation, NewEvent
from conversations.realtime import reading
from lib.api import dumps

pytestmark = pytest.mark.django_db

TIMES = (
    None,
    datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    datetime(2026, 1, 2, 3, 4, 5, 120_000, tzinfo=UTC),
    datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
)
PAYLOADS = (
    "{}",
    '{"a": 1,  "b":"\\u0000 \\ud800 \\"\\\\", "c":1e400}',
    '{"text":"é € 😀 \u2028"}',
    "{\n}",
)


def test_frame_contains_the_event_exactly_as_rest_returns_it(conversation):
    new_events = [
        NewEvent(f'"{n}\\{{', "Kind", "agent", payload, engine_time=at)
        for n, (payload, at) in enumerate(zip(PAYLOADS, TIMES, strict=True))
    ]
    events = conversation.append(*new_events)

    frames = reading.read_events(conversation.pk, 0, 200)

    assert [frame.seq for frame in frames] == [1, 2, 3, 4]
    for frame, event in zip(frames, events, strict=True):
        body = dumps(event.to_wire()).decode()
        assert frame.json().decode() == body
        assert frame.text == f'{{"type":"event","seq":{event.seq},"event":{body}}}'


def test_record_equals_the_record_of_the_model(conversation):
    Conversation.objects.update(
        repository={"full_name": "a/b", "n": [1, None]}, pull_requests=[3, 4], tags=["x", 'y"\\']
    )
    ConversationUsage.objects.create(
        conversation_id=conversation.pk,
        organization_id=conversation.organization_id,
        cost_micros=2**40,
        prompt_tokens=7,
    )

    result = reading.read({conversation.pk: None}, 200)[conversation.pk]

    assert result.record == build_record(Conversation.objects.get(pk=conversation.pk))
    assert result.frames == []


def test_page_ends_with_the_event_that_exceeds_its_byte_limit(conversation, monkeypatch):
    monkeypatch.setattr(reading, "PAGE_BYTES", 100)
    conversation.append(*[NewEvent(f"e{n}", "K", "agent", f'"{"x" * 48}"') for n in range(6)])

    assert [frame.seq for frame in reading.read_events(conversation.pk, 1, 200)] == [2, 3]
    assert [frame.seq for frame in reading.read_events(conversation.pk, 1, 1)] == [2]
    assert reading.read_events(conversation.pk, 6, 200) == []


def test_deleted_conversation_is_gone_and_has_no_frames(conversation):
    conversation.append(NewEvent("e", "K", "agent", "{}"))
    conversation.deleted_at = conversation.updated_at
    conversation.save()

    result = reading.read({conversation.pk: 0}, 200)[conversation.pk]

    assert (result.is_gone, result.frames) == (True, [])


def test_pages_of_several_places_are_read_together(conversation, django_assert_num_queries):
    conversation.append(*[NewEvent(f"e{n}", "K", "agent", "{}") for n in range(3)])
    place, unknown = (conversation.pk, 1), (UUID(int=1), 0)
    with django_assert_num_queries(1):
        pages = reading.read_pages([place, unknown], 200)
    assert [frame.seq for frame in pages[place].frames] == [2, 3]
    assert (pages[unknown].frames, pages[unknown].is_gone) == ([], True)

    # A statement reads one page of each conversation.
    places = [(conversation.pk, after) for after in (0, 2, 1)]
    with django_assert_num_queries(3):
        pages = reading.read_pages(places, 1)
    assert [[frame.seq for frame in pages[place].frames] for place in places] == [[1], [3], [2]]
