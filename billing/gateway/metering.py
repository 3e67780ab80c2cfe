"""Reads what a call used out of its answer while the bytes go by."""

import json
from typing import Any

import orjson

from billing.prices import Tokens

MAX_LINE_BYTES = 1_048_576
CHARACTERS_PER_TOKEN = 4


class Meter:
    """Follows one answer: the usage it states, else an estimate from its characters."""

    def __init__(self) -> None:
        self._line = b""
        self._is_skipping = False
        self._stated: Tokens | None = None
        self._characters = 0

    def feed(self, piece: bytes) -> None:
        """Take a piece of a server-sent stream, cut anywhere."""
        *lines, rest = (self._line + piece).split(b"\n")
        for line in lines:
            if not self._is_skipping and line.startswith(b"data:"):
                self._event(line[5:].strip())
            self._is_skipping = False
        if len(rest) > MAX_LINE_BYTES:  # not worth keeping; it passes on all the same
            self._is_skipping, rest = True, b""
        self._line = rest

    def take(self, completion: dict[str, Any]) -> None:
        """Take a whole answer, or one chunk of a stream."""
        self._stated = _tokens(completion.get("usage")) or self._stated
        for choice in completion.get("choices") or ():
            if isinstance(choice, dict):
                self._characters += _characters(choice.get("delta") or choice.get("message"))

    def tokens(self, messages: Any) -> Tokens:
        """What was used; ``messages`` of the request give the prompt's estimate where none is stated."""
        if self._stated is not None:
            return self._stated
        return Tokens.clamped(
            prompt=len(json.dumps(messages)) // CHARACTERS_PER_TOKEN + 1,
            completion=-(-self._characters // CHARACTERS_PER_TOKEN),
            cached=0,
        )

    def _event(self, data: bytes) -> None:
        if data == b"[DONE]":
            return
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            return
        if isinstance(chunk, dict):
            self.take(chunk)


def _tokens(usage: Any) -> Tokens | None:
    """The counts of a ``usage`` object; None when it states none."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not isinstance(prompt, int) or not isinstance(completion, int):
        return None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    return Tokens.clamped(
        prompt=prompt, completion=completion, cached=cached if isinstance(cached, int) else 0
    )


def _characters(value: Any) -> int:
    """The characters a model wrote: content, reasoning, tool arguments, in whatever shape."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(
            _characters(part) for key, part in value.items() if key not in ("role", "id", "type")
        )
    if isinstance(value, list):
        return sum(_characters(part) for part in value)
    return 0
