"""Database reads for the translation of our log to V0 events.

A translation needs ``Links``: data about earlier events, which the functions of this module load.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from uuid import UUID

from compat.v0.translation import (
    REFERRING,
    Entry,
    Json,
    Links,
    extract_metrics,
    is_user_message,
    referenced_ids,
    translate_event,
    translate_events,
)
from compat.v0.values import loads
from conversations.log.windows import STATS_MAX, Window
from conversations.models import Conversation, Event, OutgoingMessage
from lib.api import find_unstorable

LINKS_MAX = 500
"""A ``Links`` with more events is emptied. Events that are needed again are then read from the database."""
STATES_SEARCHED = 100
"""The number of state updates, newest first, that are searched for the totals of tokens and cost."""


def load_links(conversation_id: UUID, entries: Sequence[Entry], links: Links) -> None:
    """Load the events that the entries refer to into ``links``. Runs at most two database queries."""
    if len(links.seqs) > LINKS_MAX:
        links.seqs.clear()
        links.actions.clear()
    # ``translate_event`` adds the entries themselves, each before the entries that refer to it.
    known = {entry.event_id for entry in entries} | links.seqs.keys()
    missing = set().union(*(referenced_ids(entry) for entry in entries)) - known
    if missing:
        _load_events(conversation_id, missing, links)
    if message_ids := {entry.event_id for entry in entries if is_user_message(entry)}:
        echoes = OutgoingMessage.objects.filter(
            conversation_id=conversation_id, engine_event_id__in=message_ids
        )
        links.echoes = set(echoes.values_list("engine_event_id", flat=True))


def needs_lookup(entry: Entry, links: Links) -> bool:
    """Return whether ``load_links`` would query the database for this entry."""
    return is_user_message(entry) or bool(referenced_ids(entry) - links.seqs.keys())


def find_resume_position(conversation_id: UUID, seq: int) -> tuple[int, Links]:
    """Return the ``seq`` after which a reader continues, and the links at that position.

    The argument ``seq`` belongs to the last event that the reader has. The returned ``seq`` is higher if the following
    events were deleted at the end of their retention period.
    """
    rows = Conversation.objects.filter(pk=conversation_id).values_list("pruned_seq", flat=True)
    position = max(seq, rows.first() or 0)
    return position, load_links_at(conversation_id, position)


def load_links_at(conversation_id: UUID, seq: int) -> Links:
    """Return the links for a reader that starts after ``seq``.

    They contain only the totals of tokens and cost. ``load_links`` adds other events when they are needed.
    """
    if not seq:
        return Links()
    rows = Event.objects.filter(
        conversation_id=conversation_id, kind="ConversationStateUpdateEvent", seq__lte=seq
    )
    for event in rows.order_by("-seq")[:STATES_SEARCHED]:
        if (metrics := extract_metrics(Entry.of_event(event))) is not None:
            return Links(metrics=metrics)
    return Links()


def open_links(conversation_id: UUID, window: Window) -> Links:
    """Return the links for a reader of this window, like ``load_links_at``. Usually runs no database query."""
    for event in window.stats:
        if (metrics := extract_metrics(Entry.of_event(event))) is not None:
            return Links(metrics=metrics)
    if len(window.stats) < STATS_MAX:
        return Links()
    return load_links_at(conversation_id, window.events[0].seq - 1)


def translate_window(conversation_id: UUID, window: Window, links: Links) -> Iterator[Json]:
    """Yield the V0 events of a window, and update ``links`` for the rows that follow.

    Each row is translated only when its event is requested. The database is queried only for a reference to an event
    that is neither in the window nor shortly before it.
    """
    if len(links.seqs) > LINKS_MAX:
        links.seqs.clear()
        links.actions.clear()
    links.echoes = window.echoes
    before = {event.event_id: event for event in window.actions}
    own: set[str] | None = None
    for place, event in enumerate(window.events):
        entry = Entry.of_event(event)
        for event_id in referenced_ids(entry) if event.kind in REFERRING else ():
            if event_id in links.seqs:
                continue
            if action := before.get(event_id):
                links.seqs[event_id] = action.seq
                links.actions[event_id] = loads(action.payload)
                continue
            own = own or {event.event_id for event in window.events}
            if event_id not in own:
                # Read all that the rest of the window refers to, in one query.
                _load_missing(conversation_id, window.events[place:], own, links)
                break
        if (translated := translate_event(entry, links)) is not None:
            yield translated


def _load_missing(
    conversation_id: UUID, events: Iterable[Any], own: set[str], links: Links
) -> None:
    entries = [Entry.of_event(event) for event in events if event.kind in REFERRING]
    missing = set().union(*(referenced_ids(entry) for entry in entries)) - own - links.seqs.keys()
    _load_events(conversation_id, missing, links)


def _load_events(conversation_id: UUID, event_ids: set[str], links: Links) -> None:
    # A payload may contain any text as an id. PostgreSQL refuses some, and no event has such an id.
    storable = [event_id for event_id in event_ids if not find_unstorable(event_id)]
    rows = Event.objects.filter(conversation_id=conversation_id, event_id__in=storable)
    for event_id, seq, kind, payload in rows.values_list("event_id", "seq", "kind", "payload"):
        links.seqs[event_id] = seq
        if kind == "ActionEvent":
            links.actions[event_id] = loads(payload)


def translate_rows(conversation_id: UUID, events: Iterable[Any], links: Links) -> list[Json]:
    """Return the V0 events of consecutive rows of the log, and update ``links`` for the rows that follow."""
    entries = [Entry.of_event(event) for event in events]
    load_links(conversation_id, entries, links)
    return translate_events(entries, links)
