"""Database reads for the translation of our log to V0 events.

A translation needs ``Links``: data about earlier events, which the functions of this module load.
"""

from collections.abc import Callable, Iterator, Sequence
from uuid import UUID

from compat.v0.translation import (
    REFERRING,
    STATE,
    Entry,
    Json,
    Links,
    extract_metrics,
    is_user_message,
    referenced_ids,
    translate_event,
)
from compat.v0.usual_events import UsualEvent, UsualTranslator
from compat.v0.values import loads, parser_of
from conversations.log.windows import STATS_MAX, Window, WindowRow, format_received
from conversations.models import Event, OutgoingMessage
from lib.api import find_unstorable

LINKS_MAX = 50
"""The number of events that a ``Links`` keeps. A result usually follows its action at once; an event that is needed
later is read from the database again."""
STATES_SEARCHED = 100
"""The number of state updates, newest first, that are searched for the totals of tokens and cost."""


def load_links(conversation_id: UUID, entries: Sequence[Entry], links: Links) -> None:
    """Load the events that the entries refer to into ``links``. Runs at most two database queries."""
    if missing := _find_missing(entries, links):
        _load_events(conversation_id, missing, links)
    if message_ids := {entry.event_id for entry in entries if is_user_message(entry)}:
        echoes = OutgoingMessage.objects.filter(
            conversation_id=conversation_id, engine_event_id__in=message_ids
        )
        links.echoes = set(echoes.values_list("engine_event_id", flat=True))


def needs_lookup(entries: Sequence[Entry], links: Links) -> bool:
    """Return whether ``load_links`` would query the database for these entries."""
    return any(map(is_user_message, entries)) or bool(_find_missing(entries, links))


def _find_missing(entries: Sequence[Entry], links: Links) -> set[str]:
    """Return the ids of the events that the entries refer to and that ``links`` and the entries do not contain."""
    # ``translate_event`` adds the entries themselves, each before the entries that refer to it.
    own_ids = {entry.event_id for entry in entries}
    return {
        event_id
        for entry in entries
        for event_id in referenced_ids(entry)
        if event_id not in own_ids and event_id not in links.seqs
    }


def trim(links: Links) -> None:
    """Forget the oldest events of ``links`` beyond ``LINKS_MAX``. Call it after each translation."""
    for event_id in list(links.seqs)[:-LINKS_MAX]:
        del links.seqs[event_id]
        links.actions.pop(event_id, None)


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
    for row in window.stats:
        if (metrics := extract_metrics(_read_row(row, loads))) is not None:
            return Links(metrics=metrics)
    if len(window.stats) < STATS_MAX:
        return Links()
    return load_links_at(conversation_id, window.events[0][1] - 1)


def _read_row(row: WindowRow, parse: Callable[[str], Json]) -> Entry:
    _, seq, event_id, kind, source, payload, received = row
    return Entry(seq, event_id, kind, source, parse(payload), format_received(received))


def translate_window(conversation_id: UUID, window: Window, links: Links) -> Iterator[Json]:
    """Yield the V0 events of a window, and update ``links`` for the rows that follow.

    Each row is translated only when its event is requested. The database is queried only for a reference to an event
    that is neither in the window nor shortly before it.
    """
    trim(links)
    links.echoes = window.echoes
    parse = parser_of(row[5] for row in window.events)
    for place in range(len(window.events)):
        event = _translate_row(conversation_id, window, place, links, parse)
        if event is not None:
            yield event


def translate_window_for_page(
    conversation_id: UUID, window: Window, links: Links
) -> Iterator[Json | UsualEvent]:
    """Yield the V0 events of a window like ``translate_window``, the usual ones as structures for ``encode_page``."""
    trim(links)
    links.echoes = window.echoes
    usual = UsualTranslator(links)
    for place, row in enumerate(window.events):
        if row[3] == STATE and usual.read_totals(row):
            continue
        event: Json | UsualEvent | None = usual.translate(row)
        if event is None:
            event = _translate_row(conversation_id, window, place, links, loads)
        if event is not None:
            yield event


def _translate_row(
    conversation_id: UUID,
    window: Window,
    place: int,
    links: Links,
    parse: Callable[[str], Json],
) -> Json | None:
    entry = _read_row(window.events[place], parse)
    # The usual reference is to an action that was just translated.
    if entry.kind in REFERRING and entry.value.get("action_id") not in links.seqs:
        _find_references(conversation_id, window, place, entry, links)
    return translate_event(entry, links)


def _find_references(
    conversation_id: UUID, window: Window, place: int, entry: Entry, links: Links
) -> None:
    """Add to ``links`` the events to which an entry refers, at a place in a window."""
    missing = referenced_ids(entry) - links.seqs.keys()
    for _, seq, event_id, _, _, payload, _ in window.actions if missing else ():
        if event_id in missing:
            missing.remove(event_id)
            links.seqs[event_id] = seq
            links.actions[event_id] = loads(payload)
    if missing and not missing <= (own := {row[2] for row in window.events}):
        # Read all that the rest of the window refers to, in one query.
        rest = [_read_row(row, loads) for row in window.events[place:] if row[3] in REFERRING]
        all_missing = set().union(*map(referenced_ids, rest)) - own - links.seqs.keys()
        _load_events(conversation_id, all_missing, links)


def _load_events(conversation_id: UUID, event_ids: set[str], links: Links) -> None:
    # A payload may contain any text as an id. PostgreSQL refuses some, and no event has such an id.
    storable = [event_id for event_id in event_ids if not find_unstorable(event_id)]
    rows = Event.objects.filter(conversation_id=conversation_id, event_id__in=storable)
    for event_id, seq, kind, payload in rows.values_list("event_id", "seq", "kind", "payload"):
        links.seqs[event_id] = seq
        if kind == "ActionEvent":
            links.actions[event_id] = loads(payload)
