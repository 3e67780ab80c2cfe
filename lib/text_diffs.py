"""Differences of two texts in the unified format, as ``diff -u`` and Git write them."""

import difflib

_NO_NEWLINE = "\\ No newline at end of file"


def unified_diff(old: str, new: str, old_name: str, new_name: str) -> str:
    """Return the difference of two texts with three lines of context, or ``""`` if they are equal.

    Only LF ends a line. ``str.splitlines`` would also split at form feeds and at the separators of Unicode, and hide a
    change from CRLF to LF. A last line without LF is marked as Git marks it.
    """
    lines = difflib.unified_diff(_split(old), _split(new), old_name, new_name, lineterm="")
    return "\n".join(lines)


def _split(text: str) -> list[str]:
    lines = text.split("\n")
    if lines[-1]:
        lines[-1] += f"\n{_NO_NEWLINE}"
    else:
        lines.pop()
    return lines
