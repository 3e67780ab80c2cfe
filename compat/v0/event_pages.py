"""Pages of a conversation's log as V0 events, in either direction.

The filters apply before a page is cut, so a page is full unless the log ends.
"""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import orjson

from compat.v0 import log
from compat.v0.translation import Json, is_hidden, is_null
from conversations.models import Conversation

PAGE_ROWS = 200
"""Rows of the log that one query reads."""


def walk(
    conversation: Conversation, *, first: int = 0, last: int | None = None, reverse: bool = False
) -> Iterator[Json]:
    """Yield the V0 events with a ``seq`` from ``first`` to ``last``, except ``null`` events.

    Hold ``PAGE_ROWS`` rows in memory at a time.
    """
    # Translation needs facts from earlier rows. Forward, they carry over from page to page. In reverse each
    # page is translated forward by itself, so its facts are loaded again.
    links = log.load_links_at(conversation.pk, max(first - 1, 0)) if not reverse else None
    rows = conversation.events.filter(seq__gte=first)
    if last is not None:
        rows = rows.filter(seq__lte=last)
    while True:
        page = list(rows.order_by("-seq" if reverse else "seq")[:PAGE_ROWS])
        if not page:
            return
        last_read = page[-1].seq
        if reverse:
            page.reverse()
        page_links = links or log.load_links_at(conversation.pk, page[0].seq - 1)
        translated = log.translate_rows(conversation.pk, page, page_links)
        events = [event for event in translated if not is_null(event)]
        yield from reversed(events) if reverse else events
        if len(page) < PAGE_ROWS:
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
    """Return at most ``limit`` events that pass the filters, and whether further events pass them."""
    limit = filters["limit"]
    page: list[Json] = []
    events = walk(
        conversation,
        first=filters["start_id"],
        last=filters.get("end_id"),
        reverse=filters["reverse"],
    )
    for event in events:
        if matches(event, filters):
            if len(page) == limit:
                return page, True
            page.append(event)
    return page, False


def stream_trajectory(conversation: Conversation) -> Iterator[bytes]:
    """Yield the JSON text of ``{"trajectory": […]}`` in pieces.

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
    """Return an event as JSON text. orjson refuses lone surrogates, which a sandbox's payloads may contain."""
    return json.dumps(event, separators=(",", ":")).encode()


def fragment(event: Json) -> orjson.Fragment:
    return orjson.Fragment(encode_event(event))
