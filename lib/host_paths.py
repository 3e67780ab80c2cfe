"""Removal of the server's own folders from texts that clients receive.

Sandboxes without isolation run in a folder of the server, so their events and error messages contain its path. Clients
know that folder as ``/workspace``, which is its path in an isolated sandbox.
"""

import json
import re
from functools import lru_cache
from pathlib import Path

from django.conf import settings

INSIDE = "/workspace"
SIGN_MIN = 4
"""A shorter name would occur in too many texts."""


def hide_host_paths(text: str) -> str:
    """Return a text, or a JSON text, with ``/workspace`` in place of the folder of any sandbox on this server."""
    _, signs, pattern = _folders(str(settings.SANDBOX_DIR))
    # A plain search is much cheaper than a regular expression, and most texts contain no such path.
    for sign in signs:
        if sign in text:
            return pattern.sub(INSIDE, text)
    return text


def hide_host_folder(text: str) -> str:
    """Return a sentence for users without paths of sandboxes, and with ``SANDBOX_DIR`` for their common folder."""
    text = hide_host_paths(text)
    for prefix in _folders(str(settings.SANDBOX_DIR))[0]:
        text = text.replace(prefix, "SANDBOX_DIR")
    return text


@lru_cache(maxsize=8)
def _folders(path: str) -> tuple[tuple[str, ...], tuple[str, ...], re.Pattern[str]]:
    """Return the spellings of the folder of all sandboxes, its signs, and a pattern.

    A text without any of the signs has no such folder. The pattern matches the folder of one sandbox in it.
    """
    # Programs report the path with its symbolic links resolved. In JSON, quotes and other scripts may be escaped, and
    # some programs escape slashes.
    plain = {path, str(Path(path).resolve())}
    spellings = {form for text in plain for form in (text, *_escaped(text))}
    spellings |= {form.replace("/", "\\/") for form in spellings}
    prefixes = tuple(sorted(spellings, key=len, reverse=True))
    folders = "|".join(map(re.escape, prefixes))
    # Usually all spellings contain the same last name, so that one search is enough.
    name = Path(path).name
    is_sign = len(name) >= SIGN_MIN and all(name in prefix for prefix in prefixes)
    signs = (name,) if is_sign else prefixes
    return prefixes, signs, re.compile(rf"(?:{folders})\\?/[0-9a-f]{{32}}(?![0-9a-f])")


def _escaped(text: str) -> set[str]:
    return {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
