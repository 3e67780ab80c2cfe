"""A search for known secret values in text, in the encodings and line breaks in which programs write them.

A quick filter passes the texts that contain no value. The others are searched exactly, for the values that the filter
names. A finding is a place in the original text. All steps take time proportional to the length of the text.

This is a safety net against accidents and not a boundary: a program can write a value in a way that no list contains,
for example backwards, compressed or encrypted.
"""

import json
import re
from collections.abc import Iterable
from functools import lru_cache

from lib.secret_filter import Filter
from lib.secret_forms import (
    DUMP,
    DUMP_TEXT,
    FRAGMENT,
    MIN_LENGTH,
    Span,
    View,
    build_forms,
    decode_all,
    normalize,
)

SEED, STRIDE = 16, 32
"""Parts of a long form are found by seeds of 16 characters at every 32nd place."""
MANY_STARTS = 100
"""With more different beginnings of forms, all places of a text are compared, in one loop."""
SEARCHES_MAX = 32
"""How many exact searches a finder keeps, each for the values that were found together."""
_LINE = re.compile(r"\S(?:[^\r\n]*\S)?")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)


class _Index:
    """The forms to search for in one view, by the first ``MIN_LENGTH`` characters of a form or of its seeds."""

    def __init__(self, forms: Iterable[str], *, with_fragments: bool = True) -> None:
        self._by_start: dict[str, list[tuple[str, int]]] = {}
        for form in sorted(forms):
            is_long = with_fragments and len(form) > FRAGMENT
            for offset in range(0, len(form) - SEED + 1, STRIDE) if is_long else (0,):
                start = form[offset : offset + MIN_LENGTH]
                self._by_start.setdefault(start, []).append((form, offset))

    def find(self, text: str) -> list[Span]:
        """Return the places of forms, and of long parts of long forms, in a text."""
        spans = []
        # The end of the newest place of each form: a long form has many seeds, and one of them finds the whole.
        ends: dict[str, int] = {}
        for place in self._candidates(text):
            for form, offset in self._by_start[text[place : place + MIN_LENGTH]]:
                if place < ends.get(form, 0):
                    continue
                span = _extend(form, offset, text, place, ends.get(form, 0))
                if span[1] - span[0] >= min(FRAGMENT, len(form)):
                    spans.append(span)
                    ends[form] = span[1]
        return spans

    def _candidates(self, text: str) -> list[int]:
        """Return the places at which a form or a seed may begin, in order."""
        starts = self._by_start
        # Searches for single texts are fast, but a hundred of them cost more than one loop over all places.
        if len(starts) > MANY_STARTS:
            last = len(text) - MIN_LENGTH + 1
            return [i for i in range(last) if text[i : i + MIN_LENGTH] in starts]
        places = []
        for start in starts:
            place = text.find(start)
            while place >= 0:
                places.append(place)
                place = text.find(start, place + 1)
        places.sort()
        return places


def _extend(form: str, offset: int, text: str, place: int, limit: int) -> Span:
    """Return the place of the longest part of a form around its character ``offset``, which is at ``place``."""
    if offset == 0 and text.startswith(form, place):
        return place, place + len(form)
    first, last, begin, end = offset, offset, place, place
    while first > 0 and begin > limit and form[first - 1] == text[begin - 1]:
        first, begin = first - 1, begin - 1
    while last < len(form) and end < len(text) and form[last] == text[end]:
        last, end = last + 1, end + 1
    return begin, end


class ExactSearch:
    """An exact search for some values."""

    def __init__(self, values: Iterable[str]) -> None:
        forms = build_forms(values)
        self.plain = forms.plain
        self._plain = _Index(forms.plain, with_fragments=False)
        self._indexes = {
            name: _Index(getattr(forms, name))
            for name in ("decoded", "bare", "squeezed", "lower", "digits")
        }

    def find(self, text: str) -> list[Span]:
        """Return the places in a text that contain a value, sorted and without overlaps."""
        spans = self._plain.find(text)
        decoded = decode_all(text)
        spans += self._find_in_views(decoded)
        dump = View(None, decoded.text, DUMP)
        if dump.text != decoded.text:
            for start, end in self._find_in_views(dump):
                beside = DUMP_TEXT.match(decoded.text, end)
                spans.append(decoded.locate(start, beside.end() if beside else end))
        return _merge(spans)

    def _find_in_views(self, decoded: View) -> list[Span]:
        return [
            view.locate(*span)
            for name, view in normalize(decoded)
            for span in self._indexes[name].find(view.text)
        ]


class Finder:
    """A search for some secret values. ``longest`` is the length of the longest form that is found as a whole."""

    def __init__(self, values: Iterable[str]) -> None:
        kept = {value: build_forms([value]) for value in set(values) if len(value) >= MIN_LENGTH}
        self.is_empty = not kept
        self.longest = max(
            (len(form) for forms in kept.values() for form in forms.all()), default=0
        )
        self._filter = Filter(kept)
        self._search = lru_cache(SEARCHES_MAX)(ExactSearch)

    def find(self, text: str) -> list[Span]:
        """Return the places in a text that contain a value, sorted and without overlaps."""
        values = self._filter.find(text)
        return self._search(frozenset(values)).find(text) if values else []

    def hide(self, text: str, hidden: str) -> str:
        """Return a text with ``hidden`` in place of each value."""
        values = self._filter.find(text)
        return _hide(text, hidden, self._search(frozenset(values))) if values else text

    def hide_in_json(self, payload: str, hidden: str) -> str:
        """Return JSON text with ``hidden`` in place of each value in one of its strings.

        All other text stays byte for byte the same, and valid JSON stays valid.
        """
        values = set() if self.is_empty else self._filter.find(payload)
        if not values:
            return payload
        # A value that occurs in a string also occurs in the payload, so only the values found there are searched for.
        search = self._search(frozenset(values))

        def clean(match: re.Match[str]) -> str:
            if len(match[0]) < MIN_LENGTH + 2:
                return match[0]
            text = json.loads(match[0], strict=False)
            redacted = _hide(text, hidden, search)
            if redacted == text:
                return match[0]
            # A lone surrogate can be stored only as an escape.
            has_surrogate = any("\ud800" <= character <= "\udfff" for character in redacted)
            return json.dumps(redacted, ensure_ascii=has_surrogate)

        return _STRING.sub(clean, payload)


def _hide(text: str, hidden: str, search: ExactSearch) -> str:
    parts, done = [], 0
    for start, end in search.find(text):
        found = text[start:end]
        # Keep the line breaks of a value that was written in another form than its own.
        is_own_form = found in search.plain
        parts += [text[done:start], hidden if is_own_form else _LINE.sub(lambda _: hidden, found)]
        done = end
    return "".join([*parts, text[done:]]) if parts else text


def _merge(spans: list[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
