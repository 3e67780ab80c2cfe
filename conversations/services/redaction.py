"""Removal of secrets from the events that a sandbox writes, before they are stored."""

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
MIN_LENGTH = 6
"""Shorter forms of a secret are not removed, because they would match ordinary text."""
NO_SECRETS_SECONDS = 2.0
"""How long the result "no secrets" is cached. After a user adds a secret, a sandbox needs more time to fetch it."""
CACHE_MAX = 10_000
_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_owners: dict[UUID, tuple[UUID, UUID]] = {}
_no_secrets_until: dict[tuple[UUID, UUID], float] = {}


def build_payload_redactor(conversation_id: UUID) -> Callable[[str], str] | None:
    """Return a function that removes a conversation's secrets from JSON text, or None if there are no secrets.

    Runs database queries. The result None is cached for two seconds.
    """
    owner = _owners.get(conversation_id) or equipment.find_owner(conversation_id)
    if owner is None:
        return None
    if len(_owners) >= CACHE_MAX:
        _owners.clear()
    _owners[conversation_id] = owner
    if time.monotonic() < _no_secrets_until.get(owner, 0.0):
        return None
    values = custom_secrets.values_to_hide(user_id=owner[0], organization_id=owner[1])
    if not values:
        if len(_no_secrets_until) >= CACHE_MAX:
            _no_secrets_until.clear()
        _no_secrets_until[owner] = time.monotonic() + NO_SECRETS_SECONDS
        return None
    needles, as_json = _needles(tuple(values))
    return lambda payload: redact(payload, needles, as_json)


def clear_cache() -> None:
    """Clear the cached creators of conversations and the cached results "no secrets"."""
    _owners.clear()
    _no_secrets_until.clear()


def redact(payload: str, needles: tuple[str, ...], as_json: tuple[str, ...]) -> str:
    """Return JSON text with ``<secret_hidden>`` in place of each of ``needles`` that occurs in one of its strings.

    ``as_json`` contains the same needles as they appear in JSON text, with escapes. All other text stays byte for byte
    the same, and valid JSON stays valid.
    """
    # A plain search is much cheaper than parsing the strings, and most payloads contain no secret.
    if not any(needle in payload for needle in as_json):
        return payload
    pattern = re.compile("|".join(map(re.escape, needles)))

    def clean(match: re.Match[str]) -> str:
        text = json.loads(match[0], strict=False)
        redacted = pattern.sub(HIDDEN, text)
        if redacted == text:
            return match[0]
        # A lone surrogate can be stored only as an escape.
        has_surrogate = any("\ud800" <= character <= "\udfff" for character in redacted)
        return json.dumps(redacted, ensure_ascii=has_surrogate)

    return _STRING.sub(clean, payload)


@lru_cache(maxsize=256)
def _needles(values: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the forms of secret values to search for, longest first, and their escaped forms in JSON text."""
    forms: set[str] = set()
    for value in values:
        forms |= _forms(value)
        lines = value.splitlines()
        # Terminals and indentation separate the lines of a key, so each line is hidden on its own too.
        if len(lines) > 1:
            forms |= {
                form for line in lines if len(line.strip()) >= 12 for form in _forms(line.strip())
            }
    # Longest first: otherwise a short form inside a longer form is replaced, and the rest of the longer form stays.
    needles = sorted((form for form in forms if len(form) >= MIN_LENGTH), key=len, reverse=True)
    as_json = {form for needle in needles for form in _escaped(needle)}
    return tuple(needles), tuple(as_json)


def _forms(value: str) -> set[str]:
    """Return a value unchanged, escaped once and twice as JSON, URL-quoted, in hexadecimal and in base64."""
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
    """Return the parts of a value's base64 text that do not depend on the bytes around the value.

    Base64 encodes groups of three bytes, so there is one result for each of the three positions in a group, in both
    base64 alphabets.
    """
    forms = set()
    for before in range(3):
        text = base64.b64encode(b"\0" * before + raw).decode()
        end = (before + len(raw)) * 8 // 6
        inner = text[-(-before * 8 // 6) : end]
        if len(inner) >= MIN_LENGTH + 2:
            forms |= {inner, inner.replace("+", "-").replace("/", "_")}
    return forms
