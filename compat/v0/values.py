"""Readers of hostile JSON values: what is not of the wanted type is nothing, and nothing here raises."""

import json
import math
from typing import Any

LONG_NUMBER = 40
"""Digits beyond which a whole number is read as a float, because Python refuses more than 4,300."""


def loads(raw: str) -> dict[str, Any]:
    """A JSON object; empty for whatever else. Numbers that no client could read come as their text."""
    try:
        value = json.loads(raw, parse_float=_number, parse_int=_number, parse_constant=str)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _number(digits: str) -> Any:
    if len(digits) <= LONG_NUMBER and digits.lstrip("-").isdigit():
        return int(digits)
    value = float(digits)
    return value if math.isfinite(value) else digits


def text(value: Any) -> str:
    """A string as it is, nothing for null, and JSON text for whatever else stands in its place."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return ""


def mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def listing(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def whole(value: Any, default: int) -> int:
    return value if type(value) is int else default


def number(value: Any) -> float:
    """A finite number that is not negative, else 0."""
    is_number = type(value) in (int, float) and 0 <= value < 2**53
    return value if is_number else 0


def parts_text(content: Any) -> str:
    """The text of a content: a string, or parts of which the textual ones count, joined by new lines."""
    if isinstance(content, str):
        return content
    parts = [text(part.get("text")) for part in listing(content) if isinstance(part, dict)]
    return "\n".join(part for part in parts if part)


def parts_images(content: Any) -> list[str]:
    """The addresses of a content's images (data URLs as a rule)."""
    found: list[str] = []
    for part in listing(content):
        urls = listing(mapping(part).get("image_urls"))
        found += [url for url in urls if isinstance(url, str)]
    return found
