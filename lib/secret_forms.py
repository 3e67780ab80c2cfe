"""A search for known secret values in text, in the encodings and line breaks in which programs write them.

The text is normalized instead of listing every form of a value: escapes of URLs, HTML, JSON and shells are decoded, and
white space is removed, so that a value is found wherever its lines are wrapped. A finding is a place in the original
text. All steps take time proportional to the length of the text.

This is a safety net against accidents and not a boundary: a program can write a value in a way that no list contains,
for example backwards or encrypted.
"""

import base64
import bisect
import html
import json
import re
from collections.abc import Callable, Iterable
from functools import lru_cache

MIN_LENGTH = 6
"""Shorter values are not searched for: they are often ordinary words."""
WRAPPED_MIN_LENGTH = 12
"""The least length of a plain value that is also found with white space inside."""
LINE_MIN_LENGTH = 12
"""The least length of a line of a value that is hidden without the other lines."""
SEED, STRIDE, FRAGMENT = 16, 32, 32
"""Parts of a long form are found by seeds of 16 characters at every 32nd place, and hidden from 32 characters on."""
MANY_STARTS = 100
"""With more different beginnings of forms, all places of a text are compared, in one loop."""
ROUNDS = 3
"""How many layers of escapes are decoded."""
_ESCAPE = re.compile(
    r"%[0-9a-fA-F]{2}"
    r"|&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,30});"
    r"|\\{1,64}(?:u[dD][89abAB][0-9a-fA-F]{2}\\{1,64}u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}"
    r"|[0-3][0-7]{2}|[nrtbfv\"'/\\])"
)
_LINE = re.compile(r"\S(?:[^\r\n]*\S)?")
_SPACE = re.compile(r"[\x00-\x20\x7f]+")
_BETWEEN_HEX = re.compile(r"[:,;-]|0x")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "v": "\v"}
Span = tuple[int, int]


class _View:
    """A normalized text, which can tell where in the text before a place was.

    Without ``new``, matches of the pattern are removed. Without a pattern, characters are only replaced one by one.
    """

    def __init__(
        self,
        before: "_View | None",
        source: str,
        pattern: re.Pattern[str] | None = None,
        new: Callable[[str], str] | None = None,
        text: str | None = None,
    ) -> None:
        self._before, self._source, self._pattern, self._new = before, source, pattern, new
        if text is not None or pattern is None:
            self.text = source if text is None else text
        else:
            self.text = pattern.sub((lambda match: new(match[0])) if new else "", source)
        self._runs: list[tuple[int, int, int, bool]] | None = None

    def locate(self, start: int, end: int) -> Span:
        """Return the place in the original text for a place in this text."""
        if self._runs is None:
            self._runs = self._compute_runs()
        first = self._runs[self._find_run(start)]
        last = self._runs[self._find_run(end - 1)]
        begin = first[1] + (start - first[0] if first[3] else 0)
        until = last[1] + (end - last[0]) if last[3] else last[2]
        return self._before.locate(begin, until) if self._before else (begin, until)

    def _find_run(self, place: int) -> int:
        assert self._runs is not None
        return bisect.bisect_right(self._runs, place, key=lambda run: run[0]) - 1

    def _compute_runs(self) -> list[tuple[int, int, int, bool]]:
        """Return ``(start here, start before, end before, whether it was copied)`` for each run of characters."""
        runs, here, done = [], 0, 0
        for match in self._pattern.finditer(self._source) if self._pattern else ():
            if match.start() > done:
                runs.append((here, done, match.start(), True))
                here += match.start() - done
            length = len(self._new(match[0])) if self._new else 0
            if length:
                runs.append((here, match.start(), match.end(), False))
                here += length
            done = match.end()
        if done < len(self._source):
            runs.append((here, done, len(self._source), True))
        return runs


_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


def _as_bytes(character: str) -> str:
    """Return the UTF-8 bytes of a text as characters, one for each byte."""
    return character.encode("utf-8", "surrogatepass").decode("latin-1")


@lru_cache(4_096)
def _decode(escape: str) -> str:
    if escape[0] == "%":
        return chr(int(escape[1:], 16))
    if escape[0] == "&":
        return _as_bytes(html.unescape(escape))
    code = escape.lstrip("\\")
    match code[:1]:
        case "u":
            units = [int(unit, 16) for unit in re.findall(r"u([0-9a-fA-F]{4})", code)]
            raw = b"".join(unit.to_bytes(2, "big") for unit in units)
            return _as_bytes(raw.decode("utf-16-be", "surrogatepass"))
        case "x":
            return chr(int(code[1:], 16))
        case "0" | "1" | "2" | "3":
            return chr(int(code, 8))
        case "":
            return "\\"
    return _CONTROLS.get(code, code)


def _decode_all(text: str) -> _View:
    view = _View(None, text, None if text.isascii() else _NOT_ASCII, _as_bytes)
    for _ in range(ROUNDS):
        decoded = _View(view, view.text, _ESCAPE, _decode)
        if decoded.text == view.text:
            break
        view = decoded
    return view


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


class Finder:
    """A search for some secret values. ``longest`` is the length of the longest form that is found as a whole."""

    def __init__(self, values: Iterable[str]) -> None:
        plain: set[str] = set()
        decoded: set[str] = set()
        squeezed: set[str] = set()
        lower: set[str] = set()
        digits: set[str] = set()
        for value in values:
            if len(value) < MIN_LENGTH:
                continue
            lines = [line.strip() for line in value.splitlines()]
            kept = [line for line in lines if len(line) >= LINE_MIN_LENGTH]
            plain |= {value, *(kept if len(lines) > 1 else ())}
            for text in (value, value.replace(" ", "+")):
                for form in (_as_bytes(text), _decode_all(text).text):
                    decoded.add(form)
                    without_space = _SPACE.sub("", form)
                    if len(without_space) >= WRAPPED_MIN_LENGTH:
                        squeezed.add(without_space)
            raw = _as_bytes(value).encode("latin-1")
            squeezed |= _base64_forms(raw)
            lower |= _base32_forms(raw)
            digits.add(raw.hex())
        self._values = plain
        self.is_empty = not plain
        self.longest = max(map(len, plain | decoded | squeezed | lower | digits), default=0)
        as_json = {form for value in plain for form in _escape_twice(value)}
        self._plain = _Index(plain, with_fragments=False)
        self._as_json = _Index(as_json | plain, with_fragments=False)
        self._decoded = _Index(form for form in decoded if len(form) >= MIN_LENGTH)
        self._squeezed = _Index(squeezed)
        self._lower = _Index(lower)
        self._digits = _Index(digits)

    def find(self, text: str) -> list[Span]:
        """Return the places in a text that contain a value, sorted and without overlaps."""
        spans = self._plain.find(text)
        decoded = _decode_all(text)
        squeezed = _View(decoded, decoded.text, _SPACE)
        # Only characters up to U+00FF are left, so lower case has the same length.
        lower = _View(squeezed, squeezed.text, text=squeezed.text.lower())
        digits = _View(lower, lower.text, _BETWEEN_HEX)
        for view, index in (
            (decoded, self._decoded),
            (squeezed, self._squeezed),
            (lower, self._lower),
            (digits, self._digits),
        ):
            spans += [view.locate(*span) for span in index.find(view.text)]
        return _merge(spans)

    def hide(self, text: str, hidden: str) -> str:
        """Return a text with ``hidden`` in place of each value."""
        parts, done = [], 0
        for start, end in self.find(text):
            found = text[start:end]
            # Keep the line breaks of a value that was written in another form than its own.
            is_own_form = found in self._values
            parts += [
                text[done:start],
                hidden if is_own_form else _LINE.sub(lambda _: hidden, found),
            ]
            done = end
        return "".join([*parts, text[done:]]) if parts else text

    def hide_in_json(self, payload: str, hidden: str) -> str:
        """Return JSON text with ``hidden`` in place of each value in one of its strings.

        All other text stays byte for byte the same, and valid JSON stays valid.
        """
        # Most payloads contain no secret, and one search in the whole text is cheaper than one in each string.
        if not self._as_json.find(payload) and not self.find(payload):
            return payload

        def clean(match: re.Match[str]) -> str:
            text = json.loads(match[0], strict=False)
            redacted = self.hide(text, hidden)
            if redacted == text:
                return match[0]
            # A lone surrogate can be stored only as an escape.
            has_surrogate = any("\ud800" <= character <= "\udfff" for character in redacted)
            return json.dumps(redacted, ensure_ascii=has_surrogate)

        return _STRING.sub(clean, payload)


def _merge(spans: list[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _escape_twice(text: str) -> set[str]:
    once = {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
    return once | {json.dumps(form)[1:-1] for form in once}


def _base64_forms(raw: bytes) -> set[str]:
    """Return the parts of a value's base64 text that do not depend on the bytes around the value.

    Base64 encodes groups of three bytes, so there is one result for each of the three positions in a group, in both
    base64 alphabets.
    """
    forms = set()
    for before in range(3):
        text = base64.b64encode(b"\0" * before + raw).decode()
        inner = text[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6]
        if len(inner) >= MIN_LENGTH + 2:
            forms |= {inner, inner.replace("+", "-").replace("/", "_")}
    return forms


def _base32_forms(raw: bytes) -> set[str]:
    """Return the same for base32 in lower case, which encodes groups of five bytes."""
    forms = set()
    for before in range(5):
        text = base64.b32encode(b"\0" * before + raw).decode().lower()
        inner = text[-(-before * 8 // 5) : (before + len(raw)) * 8 // 5]
        if len(inner) >= MIN_LENGTH + 2:
            forms.add(inner)
    return forms
