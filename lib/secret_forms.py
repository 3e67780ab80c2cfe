"""The forms in which programs write a secret value: escapes, encodings, hexadecimal dumps and wrapped lines.

A text is normalized instead of listing every form of a value: escapes of URLs, HTML, JSON and shells are decoded, and
quotes, white space and the addresses of hexadecimal dumps are removed. Forms that cannot be decoded in place, such as
base64, are computed from the value.
"""

import base64
import bisect
import html
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

MIN_LENGTH = 6
"""Shorter values are not searched for: they are often ordinary words."""
WRAPPED_MIN_LENGTH = 12
"""The least length of a plain value that is also found with white space inside."""
LINE_MIN_LENGTH = 12
"""The least length of a line of a value that is hidden without the other lines."""
BASE32_MAX_LENGTH = 4_096
"""Longer values are not searched for in base32."""
RARE_MAX_LENGTH = 1_024
"""Longer values are not searched for twice in base64, in octal and decimal numbers, and in words of dumps."""
FRAGMENT = 32
"""Parts of a longer form are hidden from this number of characters on."""
ROUNDS = 3
"""How many layers of escapes are decoded."""
ESCAPE = re.compile(
    r"%[0-9a-fA-F]{2}"
    r"|&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,30});"
    r"|\\{1,64}(?:u[dD][89abAB][0-9a-fA-F]{2}\\{1,64}u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}"
    r"|[0-3][0-7]{2}|[nrtbfv\"'/\\])"
)
# The end of a line of `xxd`, `hexdump -C` or `od`, and the address at the beginning of the next line.
DUMP = re.compile(
    r"  [^\n]{1,16}\r?\n[0-9a-f]{8,16}: "
    r"|  [|>][^\n]{1,16}[|<]\r?\n[0-9a-f]{6,16} "
    r"|\r?\n[0-9a-f]{6,16}(?=[ \t])"
)
# The text column beside the last line of a dump, which follows the hexadecimal digits.
DUMP_TEXT = re.compile(r"[0-9a-fA-F ]*  (?:[|>][^\n]{1,16}[|<]|[^\n]{1,16})(?=\r?\n|\Z)")
_QUOTES = re.compile(r"['\"\\]+")
_SPACE = re.compile(r"[\x00-\x20\x7f]+")
_BETWEEN_DIGITS = re.compile(r"[:,;-]|0x")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "v": "\v"}
Span = tuple[int, int]


class View:
    """A normalized text, which can tell where in the text before a place was.

    Without ``new``, matches of the pattern are removed. Without a pattern, characters are only replaced one by one.
    """

    def __init__(
        self,
        before: "View | None",
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


def decode_all(text: str) -> View:
    """Return a text as UTF-8 bytes, one character for each byte, with its escapes decoded in three rounds."""
    view = View(None, text, None if text.isascii() else _NOT_ASCII, as_bytes)
    for _ in range(ROUNDS):
        decoded = View(view, view.text, ESCAPE, decode_escape)
        if decoded.text == view.text:
            break
        view = decoded
    return view


def normalize(decoded: View) -> Iterator[tuple[str, View]]:
    """Yield the normalized views of a decoded text, each with the name of the ``Forms`` to search for in it."""
    yield "decoded", decoded
    bare = View(decoded, decoded.text, _QUOTES)
    yield "bare", bare
    squeezed = View(bare, bare.text, _SPACE)
    yield "squeezed", squeezed
    # Only characters up to U+00FF are left, so lower case has the same length.
    lower = View(squeezed, squeezed.text, text=squeezed.text.lower())
    yield "lower", lower
    yield "digits", View(lower, lower.text, _BETWEEN_DIGITS)


def as_bytes(text: str) -> str:
    """Return the UTF-8 bytes of a text as characters, one for each byte."""
    return text.encode("utf-8", "surrogatepass").decode("latin-1")


@lru_cache(4_096)
def decode_escape(escape: str) -> str:
    """Return the characters for which a match of ``ESCAPE`` stands, as one character for each byte."""
    if escape[0] == "%":
        return chr(int(escape[1:], 16))
    if escape[0] == "&":
        return as_bytes(html.unescape(escape))
    code = escape.lstrip("\\")
    match code[:1]:
        case "u":
            units = [int(unit, 16) for unit in re.findall(r"u([0-9a-fA-F]{4})", code)]
            raw = b"".join(unit.to_bytes(2, "big") for unit in units)
            return as_bytes(raw.decode("utf-16-be", "surrogatepass"))
        case "x":
            return chr(int(code[1:], 16))
        case "0" | "1" | "2" | "3":
            return chr(int(code, 8))
        case "":
            return "\\"
    return _CONTROLS.get(code, code)


@dataclass
class Forms:
    """The forms of some values, by the view in which they are searched for. ``plain`` is for the text as it is."""

    plain: set[str] = field(default_factory=set)
    as_json: set[str] = field(default_factory=set)
    decoded: set[str] = field(default_factory=set)
    bare: set[str] = field(default_factory=set)
    squeezed: set[str] = field(default_factory=set)
    lower: set[str] = field(default_factory=set)
    digits: set[str] = field(default_factory=set)

    def add(self, value: str) -> None:
        """Add the forms of a value of at least ``MIN_LENGTH`` characters."""
        lines = [line.strip() for line in value.splitlines()]
        kept = [line for line in lines if len(line) >= LINE_MIN_LENGTH]
        plain = {value, *(kept if len(lines) > 1 else ())}
        self.plain |= plain
        self.as_json |= {form for text in plain for form in _escape_twice(text)}
        for text in (value, value.replace(" ", "+")):
            for form in (as_bytes(text), decode_all(text).text):
                self._add_decoded(form)
        raw = as_bytes(value).encode("latin-1")
        base64_forms = _base64_forms(raw)
        self.squeezed |= base64_forms
        self.digits.add(raw.hex())
        if len(raw) <= BASE32_MAX_LENGTH:
            self.lower |= _base32_forms(raw)
        if len(raw) <= RARE_MAX_LENGTH:
            for form in base64_forms:
                self.squeezed |= _base64_forms(form.encode())
            self.digits |= _number_forms(raw)

    def _add_decoded(self, form: str) -> None:
        if len(form) >= MIN_LENGTH:
            self.decoded.add(form)
        bare = _QUOTES.sub("", form)
        if len(bare) >= MIN_LENGTH:
            self.bare.add(bare)
        without_space = _SPACE.sub("", bare)
        if len(without_space) >= WRAPPED_MIN_LENGTH:
            self.squeezed.add(without_space)

    def normalized(self) -> set[str]:
        """Return the forms in normalized texts, with one character for each byte."""
        return self.decoded.union(self.bare, self.squeezed, self.lower, self.digits)

    def all(self) -> set[str]:
        """Return all forms."""
        return self.plain | self.as_json | self.normalized()


def build_forms(values: Iterable[str]) -> Forms:
    """Return the forms of some values of at least ``MIN_LENGTH`` characters."""
    forms = Forms()
    for value in values:
        forms.add(value)
    return forms


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


def _number_forms(raw: bytes) -> set[str]:
    """Return a value as `od -b`, `od -t u1`, `od -t x2` and `od` print it, without the space between the numbers.

    The last two print words of two bytes, the low byte first, which begin at an even place of the file.
    """
    forms = {"".join(f"{byte:03o}" for byte in raw), "".join(map(str, raw))}
    for start in range(2):
        pairs = zip(raw[start::2], raw[start + 1 :: 2], strict=False)
        words = [low + 256 * high for low, high in pairs]
        forms |= {
            "".join(f"{word:04x}" for word in words),
            "".join(f"{word:06o}" for word in words),
        }
    return {form for form in forms if len(form) >= 2 * MIN_LENGTH - 4}
