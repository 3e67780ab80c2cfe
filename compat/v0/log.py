"""Our log as V0 reads it: rows, and what their translation must know of other rows."""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from compat.v0.translate import (
    Entry,
    Json,
    Links,
    is_user_message,
    metrics_of,
    translate_all,
    wanted_ids,
)
from compat.v0.values import loads
from conversations.models import Conversation, Event, OutgoingMessage

KEPT = 500
"""How many events' links one reader remembers; older ones are looked up again."""
STATES_LOOKED_AT = 100


def prepare(conversation_id: UUID, entries: Sequence[Entry], links: Links) -> None:
    """Look up what the entries refer to and ``links`` does not hold: at most two queries."""
    if len(links.places) > KEPT:
        links.places.clear()
        links.actions.clear()
    ours = {entry.event_id for entry in entries}
    wanted = set().union(*(wanted_ids(entry) for entry in entries)) - links.places.keys() - ours
    if wanted:
        rows = Event.objects.filter(conversation_id=conversation_id, event_id__in=wanted)
        for event_id, seq, kind, payload in rows.values_list("event_id", "seq", "kind", "payload"):
            links.places[event_id] = seq
            if kind == "ActionEvent":
                links.actions[event_id] = loads(payload)
    if said := {entry.event_id for entry in entries if is_user_message(entry)}:
        echoes = OutgoingMessage.objects.filter(
            conversation_id=conversation_id, engine_event_id__in=said
        )
        links.echoes = set(echoes.values_list("engine_event_id", flat=True))


def must_look_up(entry: Entry, links: Links) -> bool:
    """Whether ``prepare`` would ask the database anything for this one."""
    return is_user_message(entry) or bool(wanted_ids(entry) - links.places.keys())


def place_at(conversation_id: UUID, seq: int) -> tuple[int, Links]:
    """Where a reader begins who has everything up to ``seq``: there, or where the kept part of the log begins."""
    rows = Conversation.objects.filter(pk=conversation_id).values_list("pruned_seq", flat=True)
    at = max(seq, rows.first() or 0)
    return at, links_at(conversation_id, at)


def links_at(conversation_id: UUID, seq: int) -> Links:
    """What a reader that begins behind ``seq`` must know: the running totals as of there."""
    if not seq:
        return Links()
    rows = Event.objects.filter(
        conversation_id=conversation_id, kind="ConversationStateUpdateEvent", seq__lte=seq
    )
    for event in rows.order_by("-seq")[:STATES_LOOKED_AT]:
        if (metrics := metrics_of(Entry.of_event(event))) is not None:
            return Links(metrics=metrics)
    return Links()


def translated(conversation_id: UUID, events: Iterable[Any], links: Links) -> list[Json]:
    """The V0 events of consecutive rows."""
    entries = [Entry.of_event(event) for event in events]
    prepare(conversation_id, entries, links)
    return translate_all(entries, links)
