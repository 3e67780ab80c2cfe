"""Pages of a conversation's log as V0 events, in either direction.

V0 is OpenHands' older protocol. Events are filtered before a page is cut, so only the last page can be shorter than
the limit.
"""

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar
from uuid import UUID

from compat.v0 import log
from compat.v0.page_encoding import encode_event
from compat.v0.translation import TRANSLATED, Json, Links, is_hidden
from compat.v0.usual_events import UsualEvent
from conversations.log.windows import LAST, Window, read_window

_Event = TypeVar("_Event")
BATCH_ROWS = 200
"""The number of rows of the log that one database query reads."""


def walk(
    conversation_id: UUID,
    *,
    min_seq: int = 0,
    max_seq: int | None = None,
    reverse: bool = False,
    batch_rows: int = 0,
) -> Iterator[Json]:
    """Yield the conversation's V0 events from ``seq`` ``min_seq`` to ``max_seq``, both inclusive.

    Skip ``null`` events, which stand for kinds of events that this server does not know. Hold ``batch_rows`` rows in
    memory at a time (0: ``BATCH_ROWS``).
    """
    return _walk(
        conversation_id,
        log.translate_window,
        min_seq=min_seq,
        max_seq=max_seq,
        reverse=reverse,
        batch_rows=batch_rows,
    )


def _walk(
    conversation_id: UUID,
    translate: Callable[[UUID, Window, Links], Iterator[_Event]],
    *,
    min_seq: int,
    max_seq: int | None,
    reverse: bool,
    batch_rows: int,
) -> Iterator[_Event]:
    batch_rows = batch_rows or BATCH_ROWS
    first, last = min_seq, LAST if max_seq is None else max_seq
    # A translation needs links to earlier events. Forward, the translation of a batch leaves them ready for the next
    # batch. In reverse there are no earlier batches, so each batch has its own.
    forward_links: Links | None = None
    while True:
        batch = read_window(
            conversation_id,
            first=first,
            last=last,
            limit=batch_rows,
            kinds=TRANSLATED,
            states_searched=log.STATES_SEARCHED,
            reverse=reverse,
        )
        if not batch.events:
            return
        if reverse:
            # Events are always translated in the order of the log.
            links = log.open_links(conversation_id, batch)
            yield from reversed(list(translate(conversation_id, batch, links)))
            last = batch.events[0][1] - 1
        else:
            forward_links = forward_links or log.open_links(conversation_id, batch)
            yield from translate(conversation_id, batch, forward_links)
            first = batch.events[-1][1] + 1
        if len(batch.events) < batch_rows:
            return


def matches(event: Json, filters: dict[str, Any]) -> bool:
    """Return whether an event passes the filters of a request (validated by ``V0EventQuery``)."""
    name = event.get("action") or event.get("observation")
    if filters.get("exclude_hidden") and is_hidden(event):
        return False
    if (kinds := filters.get("include_types")) and name not in kinds:
        return False
    if name in (filters.get("exclude_types") or ()):
        return False
    if (source := filters.get("source")) and event["source"] != source:
        return False
    start, end = filters.get("start_date"), filters.get("end_date")
    if start or end:
        at = datetime.fromisoformat(event["timestamp"])
        if (start and at < start) or (end and at > end):
            return False
    text = filters.get("query")
    return not text or text.lower() in json.dumps(event, ensure_ascii=False).lower()


def fetch_page(
    conversation_id: UUID, filters: dict[str, Any]
) -> tuple[list[Json | UsualEvent], bool]:
    """Return at most ``filters["limit"]`` events that pass the filters, and whether more such events follow.

    The events are in the form that ``encode_page`` takes.
    """
    limit = filters["limit"]
    part = {
        "min_seq": filters["start_id"],
        "max_seq": filters.get("end_id"),
        "reverse": filters["reverse"],
    }
    events: Iterator[Json | UsualEvent]
    if any(filters.get(name) for name in FILTERS):
        events = (event for event in walk(conversation_id, **part) if matches(event, filters))
    else:
        # One row in four or five, such as a change of the totals of tokens, is no event of V0.
        rows = limit + limit // 4 + 8
        events = _walk(conversation_id, log.translate_window_for_page, **part, batch_rows=rows)
    page = list(islice(events, limit))
    return page, next(events, None) is not None


FILTERS = (
    *("exclude_hidden", "include_types", "exclude_types", "source", "start_date", "end_date"),
    "query",
)
"""The fields of ``V0EventQuery`` that select events by more than their position."""


def stream_trajectory(conversation_id: UUID) -> Iterator[bytes]:
    """Yield the conversation's events as pieces of the JSON text ``{"trajectory": [event, …]}``.

    Leave out hidden events, and the screenshots and page trees of browser observations.
    """
    yield b'{"trajectory":['
    comma = b""
    for event in walk(conversation_id):
        if is_hidden(event):
            continue
        if event.get("observation") == "browse":
            extras = event["extras"].items()
            event["extras"] = {name: value for name, value in extras if name not in _LARGE_EXTRAS}
        yield comma + encode_event(event)
        comma = b","
    yield b"]}"


_LARGE_EXTRAS = frozenset({"screenshot", "dom_object", "axtree_object", "extra_element_properties"})
