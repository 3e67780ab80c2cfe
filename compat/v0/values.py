"""Conversions of untrusted JSON values. They never raise: a value of another type becomes empty or the default."""

import json
import math
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

LONG_NUMBER = 40
"""Parse integers with more digits than this as floats: ``int`` raises above 4,300 digits."""


def loads(raw: str) -> dict[str, Any]:
    """Parse a JSON object; return ``{}`` for anything else.

    NaN, Infinity and numbers beyond the range of a float become strings: JavaScript clients cannot parse them.
    """
    return _loads_exactly(raw) if _has_long_number(raw) else _loads_quickly(raw)


def parser_of(texts: Iterable[str]) -> Callable[[str], dict[str, Any]]:
    """Return a function that parses each of these texts like ``loads``, in less time."""
    return _loads_exactly if _has_long_number("\n".join(texts)) else _loads_quickly


def _loads_quickly(raw: str) -> dict[str, Any]:
    try:
        # msgspec takes a third of the time, and fails for what needs another parser, such as lone surrogates.
        value = _DECODER.decode(raw)
    except (ValueError, RecursionError):
        return _loads_exactly(raw)
    return value if isinstance(value, dict) else {}


def _loads_exactly(raw: str) -> dict[str, Any]:
    try:
        value = json.loads(
            raw, parse_float=_parse_number, parse_int=_parse_number, parse_constant=str
        )
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


_DECODER = msgspec.json.Decoder()
_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_LONG_DIGITS = b"0" * LONG_NUMBER


def _has_long_number(text: str) -> bool:
    """Return whether a text may contain a number that ``LONG_NUMBER`` excludes, with its sign as a digit."""
    return _LONG_DIGITS in text.encode().translate(_ZEROS)


def _parse_number(digits: str) -> Any:
    if len(digits) <= LONG_NUMBER and digits.lstrip("-").isdigit():
        return int(digits)
    value = float(digits)
    return value if math.isfinite(value) else digits


def as_text(value: Any) -> str:
    """Return a string unchanged, ``""`` for null, and the JSON text of any other value."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return ""


def as_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def as_int(value: Any, default: int) -> int:
    # Not ``isinstance``: a boolean is an instance of ``int``.
    return value if type(value) is int else default


def as_number(value: Any) -> float:
    """Return a number from 0 to 2**53, or 0 for any other value."""
    is_number = type(value) in (int, float) and 0 <= value < 2**53
    return value if is_number else 0


def join_text_parts(content: Any) -> str:
    """Return the text of a message's content: the string itself, or its text parts joined by newlines."""
    if isinstance(content, str):
        return content
    # Most messages have one part.
    if type(content) is list and len(content) == 1 and type(content[0]) is dict:
        return as_text(content[0].get("text"))
    parts = [as_text(part.get("text")) for part in as_list(content) if isinstance(part, dict)]
    return "\n".join(part for part in parts if part)


def list_image_urls(content: Any) -> list[str]:
    """Return the URLs of the images in a message's content. Most are data URLs."""
    urls: list[str] = []
    for part in as_list(content):
        candidates = as_list(as_dict(part).get("image_urls"))
        urls += [url for url in candidates if isinstance(url, str)]
    return urls
