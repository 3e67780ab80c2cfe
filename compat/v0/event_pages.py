"""Pages of a conversation's log as V0 events, in either direction.

V0 is OpenHands' older protocol. Events are filtered before a page is cut, so only the last page can be shorter than
the limit.
"""

import codecs
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from compat.v0 import log
from compat.v0.translation import TRANSLATED, Json, Links, is_hidden
from conversations.log.windows import LAST, read_window

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
            yield from reversed(list(log.translate_window(conversation_id, batch, links)))
            last = batch.events[0][1] - 1
        else:
            forward_links = forward_links or log.open_links(conversation_id, batch)
            yield from log.translate_window(conversation_id, batch, forward_links)
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


def fetch_page(conversation_id: UUID, filters: dict[str, Any]) -> tuple[list[Json], bool]:
    """Return at most ``filters["limit"]`` events that pass the filters, and whether more such events follow."""
    limit, is_filtered = filters["limit"], any(filters.get(name) for name in FILTERS)
    page: list[Json] = []
    events = walk(
        conversation_id,
        min_seq=filters["start_id"],
        max_seq=filters.get("end_id"),
        reverse=filters["reverse"],
        # One row in four or five, such as a change of the totals of tokens, is no event of V0.
        batch_rows=0 if is_filtered else limit + limit // 4 + 8,
    )
    for event in events:
        if not is_filtered or matches(event, filters):
            if len(page) == limit:
                return page, True
            page.append(event)
    return page, False


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


def encode_event(event: Json) -> bytes:
    """Return an event as JSON text.

    This function does not use orjson, which rejects lone surrogates: a sandbox's payloads may contain them.
    """
    return json.dumps(event, separators=(",", ":")).encode()


def encode_page(events: list[Json], has_more: bool) -> bytes:  # noqa: FBT001 - a field of the response
    """Return the body ``{"events": [event, …], "has_more": …}``. Each event has the bytes of ``encode_event``.

    orjson encodes most events. It takes a tenth of the time, but has another form for some values.
    """
    body = {"events": [_prepare(event) for event in events], "has_more": has_more}
    try:
        text = orjson.dumps(body)
    except TypeError:  # a lone surrogate, or an integer over 64 bits
        fragments = [orjson.Fragment(encode_event(event)) for event in events]
        return orjson.dumps(body | {"events": fragments})
    if not text.isascii():
        text = text.decode().encode("ascii", "compat_json_escape")
    return text.replace(b"\x7f", b"\\u007f")


def _prepare(event: Json) -> Any:
    """Return an event in a form that orjson encodes like ``encode_event``, but for characters outside ASCII.

    The two write numbers beyond the usual range in other forms. They can occur in values that are copied from a
    payload.
    """
    if "timeout" in event and _is_odd(event["timeout"]):
        return orjson.Fragment(encode_event(event))
    fields = event.get("args") or event.get("extras") or _EMPTY
    if not _PLAIN.issuperset(map(type, fields.values())):
        for name, value in fields.items():
            kind = type(value)
            if kind in _PLAIN:
                continue
            if _is_odd(value) if kind is float else value and name not in _OUR_CONTAINERS:
                return orjson.Fragment(encode_event(event))
    metrics = event.get("llm_metrics")
    if metrics is not None and (
        _is_odd(metrics["accumulated_cost"]) or _is_odd(metrics["max_budget_per_task"])
    ):
        return orjson.Fragment(encode_event(event))
    return event


_EMPTY: Json = {}
_PLAIN = frozenset((str, int, bool, type(None)))
_OUR_CONTAINERS = frozenset(
    (
        *("metadata", "task_list", "image_urls", "goal_image_urls", "open_pages_urls"),
        *("forgotten_event_ids", "view_range"),
    )
)
"""Names of arguments and extras that contain only texts and integers, because the translation builds them."""


def _is_odd(number: Any) -> bool:
    """Return whether Python and orjson may write a number in different forms: one of them with an exponent."""
    return type(number) is float and not (1e-4 <= abs(number) < 1e15 or number == 0)


def _escape(error: UnicodeError) -> tuple[str, int]:
    """Escape characters outside ASCII in JSON, as a handler of encoding errors."""
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error("compat_json_escape", _escape)
