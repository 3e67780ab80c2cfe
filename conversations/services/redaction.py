"""Secrets out of events: what a sandbox was given comes back in what it writes, and must not be kept there."""

import base64
import json
import re
import time
from collections.abc import Callable
from functools import lru_cache
from urllib.parse import quote, quote_plus
from uuid import UUID

from accounts.services import custom_secrets
from conversations.services import equipment

HIDDEN = "<secret_hidden>"
SHORTEST = 6
NOTHING_SECONDS = 2.0
"""How long "there is nothing to hide" is believed: less than a sandbox needs to learn of a first secret."""
OWNERS_MAX = 10_000
_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_owners: dict[UUID, tuple[UUID, UUID]] = {}
_nothing: dict[tuple[UUID, UUID], float] = {}


def hider(conversation_id: UUID) -> Callable[[str], str] | None:
    """What takes a conversation's secrets out of a payload's JSON text; None while it has none.

    Two queries a call, and none for two seconds after there was nothing to hide.
    """
    owner = _owners.get(conversation_id) or equipment.owner_of(conversation_id)
    if owner is None:
        return None
    if len(_owners) >= OWNERS_MAX:
        _owners.clear()
    _owners[conversation_id] = owner
    if time.monotonic() < _nothing.get(owner, 0.0):
        return None
    values = custom_secrets.values_to_hide(user_id=owner[0], organization_id=owner[1])
    if not values:
        if len(_nothing) >= OWNERS_MAX:
            _nothing.clear()
        _nothing[owner] = time.monotonic() + NOTHING_SECONDS
        return None
    needles, as_json = _needles(tuple(values))
    return lambda payload: redact(payload, needles, as_json)


def forget() -> None:
    """Look anew at the next call."""
    _owners.clear()
    _nothing.clear()


def redact(payload: str, needles: tuple[str, ...], as_json: tuple[str, ...]) -> str:
    """JSON text with ``<secret_hidden>`` in place of the needles within its strings; the rest stays to the byte.

    Only strings are touched, each read and written whole, so what was JSON stays JSON.
    """
    if not any(needle in payload for needle in as_json):
        return payload
    pattern = re.compile("|".join(map(re.escape, needles)))

    def clean(match: re.Match[str]) -> str:
        text = json.loads(match[0], strict=False)
        found = pattern.sub(HIDDEN, text)
        if found == text:
            return match[0]
        is_plain = not any("\ud800" <= character <= "\udfff" for character in found)
        return json.dumps(found, ensure_ascii=not is_plain)

    return _STRING.sub(clean, payload)


@lru_cache(maxsize=256)
def _needles(values: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What to look for within a read string, longest first, and how that may stand in JSON text."""
    found: set[str] = set()
    for value in values:
        found |= _forms(value)
        lines = value.splitlines()
        if len(lines) > 1:  # terminals and indentation break a key into its lines
            found |= {
                form for line in lines if len(line.strip()) >= 12 for form in _forms(line.strip())
            }
    needles = sorted((form for form in found if len(form) >= SHORTEST), key=len, reverse=True)
    as_json = {form for needle in needles for form in _escaped(needle)}
    return tuple(needles), tuple(as_json)


def _forms(value: str) -> set[str]:
    """A value as it stands, within JSON once and twice, in an address, in hexadecimal and within base64."""
    raw = value.encode()
    once = _escaped(value)
    twice = {form for text in once for form in _escaped(text)}
    return {
        value,
        *once,
        *twice,
        quote(value, safe=""),
        quote_plus(value),
        raw.hex(),
        *_base64(raw),
    }


def _escaped(text: str) -> set[str]:
    return {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}


def _base64(raw: bytes) -> set[str]:
    """The part of its base64 that does not depend on what stands before and after it, for each alignment."""
    found = set()
    for before in range(3):
        text = base64.b64encode(b"\0" * before + raw).decode()
        whole = (before + len(raw)) * 8 // 6
        inner = text[-(-before * 8 // 6) : whole]
        if len(inner) >= SHORTEST + 2:
            found |= {inner, inner.replace("+", "-").replace("/", "_")}
    return found
