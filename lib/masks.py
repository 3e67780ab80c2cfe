"""The mask shown in place of a secret, and the detection of masks in values that clients send back."""

import re

MASK = "**********"
_MASKED = re.compile(r"\*{3,}|[•●]|…|\.{4,}|<secret[_-]hidden>|<redacted>")


def is_mask(text: str) -> bool:
    """Return whether a text contains a mask of this server or of another program."""
    return bool(_MASKED.search(text))
