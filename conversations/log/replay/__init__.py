"""A self-contained HTML file that replays a conversation, even without a server. All texts in the file are escaped."""

import base64
import hashlib
import re
from datetime import datetime
from html import escape
from pathlib import Path

from conversations.log.story import StoryEntry

_HERE = Path(__file__).parent
_STYLE = (_HERE / "replay.css").read_text()
_SCRIPT = (_HERE / "replay.js").read_text()
# Control characters, and Unicode characters that override the direction of text and so could disguise a text.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069]")
LONG_LINES = 40
"""An entry with more lines is collapsed."""


def _hash(source: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode() + "'"


_META_POLICY = (
    f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}; "
    "base-uri 'none'; form-action 'none'"
)
CONTENT_POLICY = f"{_META_POLICY}; frame-ancestors 'none'; sandbox allow-scripts"
"""The Content-Security-Policy header for the file. It permits only the file's own script, in a separate origin."""


def render_head(*, title: str, facts: str) -> str:
    """Return the HTML before the first event. ``facts`` is plain text for the line below the title."""
    name = escape_text(title)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_META_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="robots" content="noindex, nofollow">\n'
        '<meta name="referrer" content="no-referrer">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{name}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{name}</h1><p>{escape_text(facts)}</p></header>\n"
        '<nav id="controls" aria-label="Replay" hidden>'
        '<button type="button" id="play">Play</button>'
        '<button type="button" id="back" aria-label="Previous event">‹</button>'
        '<input id="place" type="range" min="0" value="0" aria-label="Position in the replay">'
        '<button type="button" id="on" aria-label="Next event">›</button>'
        '<output id="count"></output></nav>\n<main id="story">\n'
    )


def render_entry(entry: StoryEntry) -> str:
    """Return the HTML of one event, with all of its text escaped."""
    text, risk = escape_text(entry.text), ""
    if entry.risk:
        risk = f'<span class="risk {entry.risk}">{entry.risk.capitalize()} risk</span>'
    lines = entry.text.count("\n") + 1
    body = f"<pre>{text}</pre>"
    if lines > LONG_LINES:
        body = f"<details><summary>{lines:,} lines</summary>{body}</details>"
    return (
        f'<article class="{entry.tone}" id="e{entry.seq}"><h2>{escape_text(entry.author)}{risk}'
        f'<a href="#e{entry.seq}">{entry.seq}</a>{_time(entry.at)}</h2>{body}</article>\n'
    )


def render_tail() -> str:
    """Return the HTML after the last event."""
    return f"</main>\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"


def escape_text(text: str) -> str:
    """Return text escaped for HTML, with U+FFFD in place of control and text-direction characters."""
    # `replace` also substitutes lone surrogates, which UTF-8 cannot encode.
    printable = _CONTROL.sub("\ufffd", text).encode("utf-8", "replace").decode()
    return escape(printable, quote=True)


def _time(at: datetime) -> str:
    return f'<time datetime="{at.isoformat()}">{at:%Y-%m-%d %H:%M:%S} UTC</time>'
