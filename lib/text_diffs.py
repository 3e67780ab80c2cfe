"""Differences of two texts in the unified format, as ``diff -u`` and Git write them."""

import difflib

_NO_NEWLINE = "\\ No newline at end of file"


def unified_diff(
    old: str, new: str, old_name: str, new_name: str, *, marks_end: bool = True
) -> str:
    """Return the difference of two texts with three lines of context, or ``""`` if they are equal.

    Only LF ends a line. ``str.splitlines`` would also split at form feeds and at the separators of Unicode, and hide a
    change from CRLF to LF. With ``marks_end``, a last line without LF is marked as Git marks it.
    """
    before, after = _split(old, marks_end=marks_end), _split(new, marks_end=marks_end)
    lines = difflib.unified_diff(before, after, old_name, new_name, lineterm="")
    return "\n".join(lines)


def _split(text: str, *, marks_end: bool) -> list[str]:
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    elif marks_end:
        lines[-1] += f"\n{_NO_NEWLINE}"
    return lines
