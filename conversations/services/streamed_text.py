"""Removal of secrets from text that a model is streaming, whose pieces end anywhere."""

import time
from typing import Any
from uuid import UUID

from conversations.services import redaction
from lib.redaction import hide_own_tokens
from lib.secret_finder import Finder
from lib.secret_forms import FRAGMENT

HELD_MAX = 512
"""The most characters that are held back. Of longer secrets, parts of at least ``FRAGMENT`` characters are hidden."""
ITEMS_MAX = 64


class StreamedText:
    """The streamed texts of one engine connection.

    The last characters of each text are held back, because a secret may begin in them and end in a later piece. The
    event that follows the stream contains the whole text.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], str] = {}
        self._finder: Finder | None = None
        self._read_at = -redaction.NO_SECRETS_SECONDS

    def redact(
        self, *, conversation_id: UUID, deltas: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Return the deltas without secrets; a delta that is held back completely is left out.

        Runs database queries, at most every two seconds.
        """
        if time.monotonic() - self._read_at >= redaction.NO_SECRETS_SECONDS:
            self._finder = redaction.find_secrets(conversation_id)
            self._read_at = time.monotonic()
        finder = self._finder
        if finder is None:
            return [_without_own_tokens(delta) for delta in deltas]
        results = []
        for delta in deltas:
            key = (delta["item_id"], delta["kind"])
            if delta["kind"] == "aborted":
                self._held = {k: text for k, text in self._held.items() if k[0] != key[0]}
                results.append(delta)
                continue
            text, self._held[key] = _split(finder, self._held.pop(key, "") + delta["content"])
            while len(self._held) > ITEMS_MAX:
                del self._held[next(iter(self._held))]
            if text:
                results.append(_without_own_tokens(delta | {"content": text}))
        return results


def _without_own_tokens(delta: dict[str, Any]) -> dict[str, Any]:
    """Return a delta without tokens of this server. A token in two deltas is hidden only in the event that follows."""
    content = delta.get("content")
    if not isinstance(content, str):
        return delta
    hidden = hide_own_tokens(content, redaction.HIDDEN)
    return delta if hidden == content else delta | {"content": hidden}


def _split(finder: Finder, text: str) -> tuple[str, str]:
    """Return the beginning of a text without secrets, and the end that is held back."""
    # Escapes and white space make a written form longer than the value: a byte as ``\\u0061`` has six characters.
    length = min(HELD_MAX, max(finder.longest, FRAGMENT) * 2)
    end = max(0, len(text) - length)
    for start, stop in finder.find(text):
        # Never cut a secret in two: its beginning alone would not be recognized.
        if start < end < stop:
            end = start
    return finder.hide(text[:end], redaction.HIDDEN), text[end:]
