"""Pages of a conversation's log as V0 asks for them: filtered before they are cut, in either direction."""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import orjson

from compat.v0 import log
from compat.v0.translate import Json, is_hidden, is_null
from conversations.models import Conversation

PAGE = 200


def walk(
    conversation: Conversation, *, first: int = 0, last: int | None = None, reverse: bool = False
) -> Iterator[Json]:
    """V0's events of the seqs from ``first`` to ``last``, without ``null``; a page of rows in memory at a time."""
    links = log.links_at(conversation.pk, max(first - 1, 0)) if not reverse else None
    rows = conversation.events.filter(seq__gte=first)
    if last is not None:
        rows = rows.filter(seq__lte=last)
    while True:
        page = list(rows.order_by("-seq" if reverse else "seq")[:PAGE])
        if not page:
            return
        at = page[-1].seq
        if reverse:
            page.reverse()
        known = links or log.links_at(conversation.pk, page[0].seq - 1)
        events = [
            event for event in log.translated(conversation.pk, page, known) if not is_null(event)
        ]
        yield from reversed(events) if reverse else events
        if len(page) < PAGE:
            return
        rows = rows.filter(seq__lt=at) if reverse else rows.filter(seq__gt=at)


def matches(event: Json, wanted: dict[str, Any]) -> bool:
    """Whether an event passes the filter of a request (``V0EventQuery``)."""
    name = event.get("action") or event.get("observation")
    if wanted.get("exclude_hidden") and is_hidden(event):
        return False
    if (kinds := wanted.get("include_types")) and name not in kinds:
        return False
    if name in (wanted.get("exclude_types") or ()):
        return False
    if (source := wanted.get("source")) and event["source"] != source:
        return False
    at = datetime.fromisoformat(event["timestamp"])
    if (start := wanted.get("start_date")) and at < start:
        return False
    if (end := wanted.get("end_date")) and at > end:
        return False
    text = wanted.get("query")
    return not text or text.lower() in json.dumps(event, ensure_ascii=False).lower()


def page_of(conversation: Conversation, wanted: dict[str, Any]) -> tuple[list[Json], bool]:
    """The events of a request, and whether more would match."""
    limit = wanted["limit"]
    found: list[Json] = []
    events = walk(
        conversation,
        first=wanted["start_id"],
        last=wanted.get("end_id"),
        reverse=wanted["reverse"],
    )
    for event in events:
        if matches(event, wanted):
            if len(found) == limit:
                return found, True
            found.append(event)
    return found, False


def trajectory(conversation: Conversation) -> Iterator[bytes]:
    """``{"trajectory": […]}`` piece by piece, without hidden events and without what only a browser can show."""
    yield b'{"trajectory":['
    comma = b""
    for event in walk(conversation):
        if is_hidden(event):
            continue
        if event.get("observation") == "browse":
            event["extras"] = {k: v for k, v in event["extras"].items() if k not in _HEAVY}
        yield comma + written(event)
        comma = b","
    yield b"]}"


_HEAVY = frozenset({"screenshot", "dom_object", "axtree_object", "extra_element_properties"})


def written(event: Json) -> bytes:
    """An event as JSON. Not by orjson: it refuses lone surrogates, and a log holds what came."""
    return json.dumps(event, separators=(",", ":")).encode()


def fragment(event: Json) -> orjson.Fragment:
    return orjson.Fragment(written(event))
