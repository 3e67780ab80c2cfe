"""A conversation as one HTML file: needs nothing else, runs from a disk, and trusts nothing that it shows."""

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
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069]")
LONG_LINES = 40


def _hash(source: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode() + "'"


_INSIDE = (
    f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}; "
    "base-uri 'none'; form-action 'none'"
)
CONTENT_POLICY = f"{_INSIDE}; frame-ancestors 'none'; sandbox allow-scripts"
"""What the file may do when a server gives it: run its own script, in an origin of its own."""


def head(*, title: str, facts: str) -> str:
    """Everything before the first event. ``facts`` is a line of plain text below the title."""
    name = clean(title)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_INSIDE}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="robots" content="noindex, nofollow">\n'
        '<meta name="referrer" content="no-referrer">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{name}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{name}</h1><p>{clean(facts)}</p></header>\n"
        '<nav id="controls" aria-label="Replay" hidden>'
        '<button type="button" id="play">Play</button>'
        '<button type="button" id="back" aria-label="One step back">‹</button>'
        '<input id="place" type="range" min="0" value="0" aria-label="Place in the story">'
        '<button type="button" id="on" aria-label="One step on">›</button>'
        '<output id="count"></output></nav>\n<main id="story">\n'
    )


def article(entry: StoryEntry) -> str:
    """One event. All of its text is text."""
    text, risk = clean(entry.text), ""
    if entry.risk:
        risk = f'<span class="risk {entry.risk}">{entry.risk.capitalize()} risk</span>'
    lines = entry.text.count("\n") + 1
    body = f"<pre>{text}</pre>"
    if lines > LONG_LINES:
        body = f"<details><summary>{lines:,} lines</summary>{body}</details>"
    return (
        f'<article class="{entry.tone}" id="e{entry.seq}"><h2>{clean(entry.who)}{risk}'
        f'<a href="#e{entry.seq}">{entry.seq}</a>{_time(entry.at)}</h2>{body}</article>\n'
    )


def tail() -> str:
    """Everything behind the last event."""
    return f"</main>\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"


def clean(text: str) -> str:
    """Text for HTML: escaped, without control characters that hide or turn around what follows them."""
    told = _CONTROL.sub("\ufffd", text).encode("utf-8", "replace").decode()
    return escape(told, quote=True)


def _time(at: datetime) -> str:
    return f'<time datetime="{at.isoformat()}">{at:%Y-%m-%d %H:%M:%S} UTC</time>'
