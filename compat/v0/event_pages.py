"""Pages of a conversation's log as V0 events, in either direction.

V0 is OpenHands' older protocol. Events are filtered before a page is cut, so only the last page can be shorter than
the limit.
"""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import orjson

from compat.v0 import log
from compat.v0.translation import Json, is_hidden, is_null
from conversations.models import Conversation

BATCH_ROWS = 200
"""The number of rows of the log that one database query reads."""


def walk(
    conversation: Conversation,
    *,
    min_seq: int = 0,
    max_seq: int | None = None,
    reverse: bool = False,
) -> Iterator[Json]:
    """Yield the conversation's V0 events from ``seq`` ``min_seq`` to ``max_seq``, both inclusive.

    Skip ``null`` events, which stand for kinds of events that this server does not know. Hold ``BATCH_ROWS`` rows in
    memory at a time.
    """
    # A translation needs links to earlier events. Forward, ``translate_rows`` updates the links, so each batch leaves
    # them ready for the next batch. In reverse there are no earlier batches, so the links of each batch are loaded.
    forward_links = None if reverse else log.load_links_at(conversation.pk, max(min_seq - 1, 0))
    rows = conversation.events.filter(seq__gte=min_seq)
    if max_seq is not None:
        rows = rows.filter(seq__lte=max_seq)
    while True:
        batch = list(rows.order_by("-seq" if reverse else "seq")[:BATCH_ROWS])
        if not batch:
            return
        # In the order of reading, before the batch is reversed: in reverse this is the lowest ``seq``.
        last_read = batch[-1].seq
        if reverse:
            batch.reverse()  # events are always translated in the order of the log
        links = forward_links or log.load_links_at(conversation.pk, batch[0].seq - 1)
        translated = log.translate_rows(conversation.pk, batch, links)
        events = [event for event in translated if not is_null(event)]
        yield from (reversed(events) if reverse else events)
        if len(batch) < BATCH_ROWS:
            return
        rows = rows.filter(seq__lt=last_read) if reverse else rows.filter(seq__gt=last_read)


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
    at = datetime.fromisoformat(event["timestamp"])
    if (start := filters.get("start_date")) and at < start:
        return False
    if (end := filters.get("end_date")) and at > end:
        return False
    text = filters.get("query")
    return not text or text.lower() in json.dumps(event, ensure_ascii=False).lower()


def fetch_page(conversation: Conversation, filters: dict[str, Any]) -> tuple[list[Json], bool]:
    """Return at most ``filters["limit"]`` events that pass the filters, and whether more such events follow."""
    limit = filters["limit"]
    page: list[Json] = []
    events = walk(
        conversation,
        min_seq=filters["start_id"],
        max_seq=filters.get("end_id"),
        reverse=filters["reverse"],
    )
    for event in events:
        if matches(event, filters):
            if len(page) == limit:
                return page, True
            page.append(event)
    return page, False


def stream_trajectory(conversation: Conversation) -> Iterator[bytes]:
    """Yield the conversation's events as pieces of the JSON text ``{"trajectory": [event, …]}``.

    Leave out hidden events, and the screenshots and page trees of browser observations.
    """
    yield b'{"trajectory":['
    comma = b""
    for event in walk(conversation):
        if is_hidden(event):
            continue
        if event.get("observation") == "browse":
            extras = event["extras"].items()
            event["extras"] = {name: value for name, value in extras if name not in _LARGE_EXTRAS}
        yield comma + encode_event(event)
        comma = b","
    yield b"]}"


_LARGE_EXTRAS = frozenset({"screenshot", "dom_object", "axtree_object", "extra_element_properties"})


def encode_event(event: Json) -> bytes:
    """Return an event as JSON text.

    This function does not use orjson, which rejects lone surrogates: a sandbox's payloads may contain them.
    """
    return json.dumps(event, separators=(",", ":")).encode()


def fragment(event: Json) -> orjson.Fragment:
    """Return an event as a JSON fragment, which the API's renderer writes into the response unchanged."""
    return orjson.Fragment(encode_event(event))
