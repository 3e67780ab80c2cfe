"""The JSON text of V0 events, for pages. The bytes are those of Python's encoder, in a tenth of its time."""

import codecs
import json
from collections.abc import Sequence
from typing import Any

import msgspec
import orjson

Json = dict[str, Any]
_encode_fast = msgspec.json.Encoder().encode


def encode_event(event: Json) -> bytes:
    """Return an event as JSON text.

    This function does not use orjson, which rejects lone surrogates: a sandbox's payloads may contain them.
    """
    return json.dumps(event, separators=(",", ":")).encode()


def encode_page(events: Sequence[Json | msgspec.Struct], has_more: bool) -> bytes:  # noqa: FBT001 - a field of the response
    """Return the body ``{"events": [event, …], "has_more": …}``. Each event has the bytes of ``encode_event``.

    A structure stands for the event with its fields. Its texts have no lone surrogates, its integers at most 53 bits,
    and it has no floats.
    """
    parts = [
        _encode(event, is_odd=_is_odd_event(event)) if type(event) is dict else event
        for event in events
    ]
    text = _encode_fast({"events": parts, "has_more": has_more})
    if not text.isascii():
        text = text.decode().encode("ascii", "compat_json_escape")
    return text.replace(b"\x7f", b"\\u007f")


def encode_metrics(metrics: Json) -> msgspec.Raw:
    """Return the value of ``llm_metrics`` in a form that ``encode_page`` copies into the body."""
    return _encode(metrics, is_odd=_is_odd_metrics(metrics))


def _encode(value: Json, *, is_odd: bool) -> msgspec.Raw:
    """Encode a value, but for characters outside ASCII, which ``encode_page`` escapes."""
    if not is_odd:
        try:
            return msgspec.Raw(orjson.dumps(value))
        except TypeError:  # a lone surrogate, or an integer over 64 bits
            pass
    return msgspec.Raw(encode_event(value))


def _is_odd_event(event: Json) -> bool:
    """Return whether orjson may write a number of an event in another form than ``encode_event``.

    The two write numbers beyond the usual range in other forms. They can occur in values that are copied from a
    payload.
    """
    if "timeout" in event and _is_odd(event["timeout"]):
        return True
    fields = event.get("args") or event.get("extras") or _EMPTY
    if not _PLAIN.issuperset(map(type, fields.values())):
        for name, value in fields.items():
            kind = type(value)
            if kind in _PLAIN:
                continue
            if _is_odd(value) if kind is float else value and name not in _OUR_CONTAINERS:
                return True
    metrics = event.get("llm_metrics")
    return metrics is not None and _is_odd_metrics(metrics)


def _is_odd_metrics(metrics: Json) -> bool:
    return _is_odd(metrics["accumulated_cost"]) or _is_odd(metrics["max_budget_per_task"])


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
