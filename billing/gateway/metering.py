"""The count of the tokens that a model call uses, read from the response while the response is forwarded."""

import json
from typing import Any

from billing.gateway.usage_reports import UsageReport
from billing.prices import Tokens

CHARACTERS_PER_TOKEN = 4
"""The average for English text, for estimates."""
MAX_DEPTH = 30
"""Deeper parts of a message are not counted. No known server nests a message so deeply."""


class Meter:
    """The token counter of one response. If the response reports no usage, the counter estimates it from the length."""

    def __init__(self) -> None:
        self._report = UsageReport()
        self._characters = 0

    @property
    def has_output(self) -> bool:
        """Whether the model wrote anything or the server reported usage."""
        return self._characters > 0 or not self._report.is_zero

    def add(self, completion: dict[str, Any]) -> None:
        """Read a whole response, or one chunk of a stream."""
        self._report.read(completion)
        choices = completion.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                self._characters += _count_characters(choice.get("delta") or choice.get("message"))

    def tokens(self, messages: Any) -> Tokens:
        """Return the number of used tokens.

        Counts that the response does not report are estimated from the lengths of the response and of the request's
        ``messages``; so are counts of which all are zero although the model wrote something.
        """
        estimated = Tokens.clamp(
            prompt=len(json.dumps(messages)) // CHARACTERS_PER_TOKEN + 1,
            completion=-(-self._characters // CHARACTERS_PER_TOKEN),  # rounded up
            cached=0,
        )
        if self._report.is_zero and self._characters:
            return estimated
        return self._report.tokens(estimated=estimated)


def _count_characters(value: Any, depth: int = 0) -> int:
    """Count the characters that a model wrote: content, reasoning and tool arguments, in any structure."""
    if depth > MAX_DEPTH:
        return 0
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(
            _count_characters(part, depth + 1)
            for key, part in value.items()
            if key not in ("role", "id", "type", "usage")
        )
    if isinstance(value, list):
        return sum(_count_characters(part, depth + 1) for part in value)
    return 0
