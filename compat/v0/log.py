"""Database reads for the translation of our log to V0 events.

A translation needs ``Links``: data about earlier events, which the functions of this module load.
"""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from compat.v0.translation import (
    Entry,
    Json,
    Links,
    extract_metrics,
    is_user_message,
    referenced_ids,
    translate_events,
)
from compat.v0.values import loads
from conversations.models import Conversation, Event, OutgoingMessage

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
        rows = Event.objects.filter(conversation_id=conversation_id, event_id__in=missing)
        for event_id, seq, kind, payload in rows.values_list("event_id", "seq", "kind", "payload"):
            links.seqs[event_id] = seq
            if kind == "ActionEvent":
                links.actions[event_id] = loads(payload)
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


def translate_rows(conversation_id: UUID, events: Iterable[Any], links: Links) -> list[Json]:
    """Return the V0 events of consecutive rows of the log, and update ``links`` for the rows that follow."""
    entries = [Entry.of_event(event) for event in events]
    load_links(conversation_id, entries, links)
    return translate_events(entries, links)
