"""The count of the tokens that a model call uses, read from the response while the response is forwarded."""

import json
from typing import Any

import orjson

from billing.prices import Tokens

MAX_LINE_BYTES = 1_048_576
CHARACTERS_PER_TOKEN = 4
"""The average for English text, for estimates."""


class Meter:
    """The token counter of one response. If the response reports no usage, the counter estimates it from the length."""

    def __init__(self) -> None:
        self._line = b""
        self._is_skipping = False
        self._reported_tokens: Tokens | None = None
        self._characters = 0

    def feed(self, piece: bytes) -> None:
        """Read the next bytes of a stream of server-sent events. A piece may end in the middle of a line."""
        # Keep the last, incomplete line until its rest arrives.
        *lines, rest = (self._line + piece).split(b"\n")
        for line in lines:
            if not self._is_skipping and line.startswith(b"data:"):
                self._read_event(line[5:].strip())
            self._is_skipping = False
        if len(rest) > MAX_LINE_BYTES:  # too long to buffer; the bytes are forwarded anyway
            self._is_skipping, rest = True, b""
        self._line = rest

    def add_completion(self, completion: dict[str, Any]) -> None:
        """Read a complete response, or one chunk of a stream."""
        self._reported_tokens = _parse_usage(completion.get("usage")) or self._reported_tokens
        for choice in completion.get("choices") or ():
            if isinstance(choice, dict):
                self._characters += _count_characters(choice.get("delta") or choice.get("message"))

    def tokens(self, messages: Any) -> Tokens:
        """Return the number of used tokens.

        If the response reports no usage, estimate the usage from the lengths of the response and of the request's
        ``messages``.
        """
        if self._reported_tokens is not None:
            return self._reported_tokens
        return Tokens.clamp(
            prompt=len(json.dumps(messages)) // CHARACTERS_PER_TOKEN + 1,
            completion=-(-self._characters // CHARACTERS_PER_TOKEN),  # rounded up
            cached=0,
        )

    def _read_event(self, data: bytes) -> None:
        if data == b"[DONE]":
            return
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            return
        if isinstance(chunk, dict):
            self.add_completion(chunk)


def _parse_usage(usage: Any) -> Tokens | None:
    """Return the token counts in a ``usage`` object; None if the object is missing or malformed."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not isinstance(prompt, int) or not isinstance(completion, int):
        return None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    return Tokens.clamp(
        prompt=prompt, completion=completion, cached=cached if isinstance(cached, int) else 0
    )


def _count_characters(value: Any) -> int:
    """Count the characters that a model wrote: content, reasoning and tool arguments, in any structure."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(
            _count_characters(part)
            for key, part in value.items()
            if key not in ("role", "id", "type")
        )
    if isinstance(value, list):
        return sum(_count_characters(part) for part in value)
    return 0
