"""What stands in for a secret where one may be changed and not read."""

import re

MASK = "**********"
_MASKED = re.compile(r"\*{3,}|[•●]|…|\.{4,}|<secret[_-]hidden>|<redacted>")


def looks_masked(text: str) -> bool:
    """Whether a text is, or holds, what programs show instead of a secret."""
    return bool(_MASKED.search(text))
