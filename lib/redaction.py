"""Redaction of secrets in texts that leave their organization.

Redaction replaces known secret values, and every string that looks like a well-known type of key, such as a GitHub
token.
"""

import json
import re
from collections.abc import Iterable

from lib.secret_finder import Finder

HIDDEN = "[redacted]"
_SHAPES = re.compile(
    "|".join(
        (
            r"ogt_[0-9a-f]{16}\.[A-Za-z0-9_-]{43}",  # its tokens of sandboxes
            r"os[ek]_[A-Za-z0-9_-]{43}",  # its keys of engines
            r"oh_[A-Za-z0-9]{6,}\.[A-Za-z0-9_-]{16,}",  # this server's API keys
            r"sk-[A-Za-z0-9_-]{16,}",  # OpenAI, Anthropic and vendors with the same format
            r"(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,}",  # Stripe
            r"whsec_[A-Za-z0-9+/]{16,}",
            r"gh[pousr]_[A-Za-z0-9]{20,}",  # GitHub
            r"github_pat_[A-Za-z0-9_]{20,}",
            r"glpat-[A-Za-z0-9_-]{16,}",  # GitLab
            r"ATATT[A-Za-z0-9_=-]{20,}",  # Atlassian
            r"ATBB[A-Za-z0-9]{20,}",
            r"lin_api_[A-Za-z0-9]{20,}",  # Linear
            r"xox[abeoprs]-[A-Za-z0-9-]{10,}",  # Slack
            r"xapp-[A-Za-z0-9-]{16,}",
            r"(?:AKIA|ASIA)[A-Z0-9]{16}",  # AWS
            r"AIza[A-Za-z0-9_-]{35}",  # Google
            r"hf_[A-Za-z0-9]{20,}",  # Hugging Face
            r"npm_[A-Za-z0-9]{30,}",
            r"pypi-[A-Za-z0-9_-]{30,}",
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:(?!-----END)[^\"]){0,20000}(?:-----END [A-Z ]*PRIVATE KEY-----)?",
            r"(?<=://)[^/\s:@\"'\\]{1,200}:[^/\s@\"'\\]{3,400}(?=@)",  # a password in a URL
        )
    ),
    re.DOTALL,
)
# Conversation keys of this server and JSON Web Tokens begin with a run of word characters that must end with a dot.
# Each run is read once: from every "eyJ" in a run without a dot, the time would be quadratic (12 s for 100 kB).
_RUNS = re.compile(
    r"(?<![A-Za-z0-9_-])(?:"
    r"((?>[A-Za-z0-9_-]*?(?=eyJ[A-Za-z0-9_-]{8})))[A-Za-z0-9_-]++\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"
    r"|((?>[A-Za-z0-9_-]*?(?=ocs_[A-Za-z0-9_-]{40})))[A-Za-z0-9_-]++\.[0-9a-f]{32,})"
)
# A JSON escape of an ASCII character could hide a key from the patterns.
_ASCII_ESCAPE = re.compile(r"\\u00[0-7]|\\/")


# Tokens of this server that a sandbox has: of the model gateway, of its engine, and of clients of its conversation.
_OWN = re.compile(
    r"ogt_[0-9a-f]{16}\.[A-Za-z0-9_-]{43}|os[ek]_[A-Za-z0-9_-]{43}|ocs_[A-Za-z0-9_-]{40,200}\.[0-9a-f]{32,64}"
    r"|oh_[0-9a-f]{12}\.[A-Za-z0-9_-]{43}"
)


# One pass for all beginnings of tokens. It looks at underscores only, so it is much cheaper than five plain searches.
_OWN_BEGINNING = re.compile(r"_(?:(?<=ogt_)|(?<=os[ek]_)|(?<=ocs_)|(?<=oh_))")


def hide_own_tokens(text: str, hidden: str) -> str:
    """Return a text, or JSON text, with ``hidden`` in place of each token of this server.

    Their values are not known, since the server stores only digests, so they are recognized by their format.
    """
    return _OWN.sub(hidden, text) if _OWN_BEGINNING.search(text) else text


class Redactor:
    """A redactor of texts.

    It replaces the secrets in ``values``, and strings that look like a well-known type of key.
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        finder = Finder(values)
        self._known = None if finder.is_empty else finder

    def text(self, text: str) -> str:
        """Return a text with ``[redacted]`` in place of secrets."""
        if self._known is not None:
            text = self._known.hide(text, HIDDEN)
        return _hide_formats(text)

    def json(self, payload: str) -> str:
        """Return a redacted JSON text. It stays valid JSON, since no pattern matches a quote or part of an escape."""
        if self._known is not None:
            payload = self._known.hide_in_json(payload, HIDDEN)
        if _ASCII_ESCAPE.search(payload):
            try:
                payload = json.dumps(json.loads(payload), ensure_ascii=True)
            except (ValueError, RecursionError):
                return json.dumps(
                    {
                        "redacted": "This event is hidden because it could not be checked for secrets."
                    }
                )
        return _hide_formats(payload)


def _hide_formats(text: str) -> str:
    """Return a text with ``[redacted]`` in place of each string that looks like a well-known type of key."""
    text = _RUNS.sub(lambda found: f"{found[1] or found[2] or ''}{HIDDEN}", text)
    return _SHAPES.sub(HIDDEN, text)
