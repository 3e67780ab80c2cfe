"""A quick answer to the question which secret values a text may contain, so that most texts need no exact search.

A text and the forms of the values are reduced to their letters (in lower case) and digits. If a form occurs in the
text, its reduced form occurs in the reduced text, and therefore one of the blocks of eight characters into which the
reduced text is cut is a part of the reduced form. All such parts are computed once. One pass of C code through the
blocks finds those that are parts of a form, in a time that does not depend on the number of values.
"""

import re
import string
from collections.abc import Mapping
from typing import Literal

from lib.secret_forms import DUMP, FRAGMENT, ROUNDS, Forms, decode_escape

LONG, SHORT = 8, 4
"""The lengths of blocks. A form has at least ``2 * length - 1`` characters, so that it contains a whole block."""
PERIOD = 24
"""Parts of a long form are found from ``PERIOD + LONG - 1`` letters and digits on."""
BLOCKS_MAX = 4_096
"""A form with more blocks has longer periods, which limits the memory of a very long value."""
TOKEN_MIN = 4
"""A form with fewer letters and digits, or with fewer than other characters if it is long, is always searched for."""
_KEPT = (string.ascii_letters + string.digits).encode()
_DROPPED = bytes(byte for byte in range(256) if byte not in _KEPT)
_LOWER = bytes.maketrans(string.ascii_uppercase.encode(), string.ascii_lowercase.encode())
# Line breaks, the most frequent escapes, are replaced first, because it is faster.
_FREQUENT = ((rb"\n", b"\n"), (rb"\t", b"\t"), (rb"\r", b"\r"), (rb"\u001b", b"\x1b"))
_ESCAPE = re.compile(
    rb"%[0-9a-fA-F]{2}|&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,30});"
    rb"|\\{1,64}(?:u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[0-3][0-7]{2}|[nrtbfv])"
)
_DUMP = re.compile(DUMP.pattern.encode())
_QUOTED = re.compile(rb"\\{1,64}([\"'/\\])")
_IN_DUMP = re.compile(rb"\n[0-9a-f]{6,16}[: \t]")
# An escape that begins before a value or ends after it takes these characters of the value with it.
_EATEN = re.compile(r"^[0-9a-fA-FnrtvuxX#]|^[a-zA-Z0-9]{0,31};|[%&\\][#\w]{0,31}$")
_Places = tuple[tuple[bytes | None, str], ...]


class Filter:
    """A quick search for values. It may name values that do not occur, but misses none that occurs."""

    def __init__(self, values: Mapping[str, Forms]) -> None:
        # A block is a part of these reduced forms of a value. No form stands for a form of which a part is enough.
        self._long: dict[int, _Places] = {}
        self._short: dict[int, _Places] = {}
        self._tokens: set[tuple[bytes, str]] = set()
        self._exact: list[tuple[str, str]] = []
        self._always: set[str] = set()
        for value, forms in values.items():
            for form in forms.as_json | forms.plain:
                if _EATEN.search(form):
                    self._exact.append((form, value))
            for form in forms.normalized():
                self._add(form, value)

    def _add(self, form: str, value: str) -> None:
        reduced = _reduce(form.encode("latin-1"))
        length, is_part_enough = len(reduced), len(form) > FRAGMENT
        if length < TOKEN_MIN or (is_part_enough and 2 * length < len(form)):
            self._always.add(value)
        elif length < 2 * SHORT - 1:
            self._tokens.add((reduced, value))
        elif length < 2 * LONG - 1:
            places: _Places = ((reduced, value),)
            for offset in range(SHORT):
                [block] = _cut(reduced[offset : offset + SHORT], "I")
                self._short[block] = _join(self._short.get(block), places)
        else:
            # Each part of `period + 7` characters contains one of these blocks at a place that the text is cut at.
            period = max(PERIOD, -(-length // BLOCKS_MAX) * LONG)
            places = ((None if is_part_enough else reduced, value),)
            for offset in range(length - LONG + 1):
                if offset % period < LONG:
                    [block] = _cut(reduced[offset : offset + LONG], "Q")
                    self._long[block] = _join(self._long.get(block), places)

    def find(self, text: str) -> set[str]:
        """Return the values that may occur in a text, as plain text or in one of their forms."""
        found = set(self._always)
        data = text.encode("utf-8", "surrogatepass")
        if self._exact and (b"\\" in data or b"%" in data or b"&" in data):
            found.update(value for form, value in self._exact if form in text)
        data = _decode(data)
        self._look(_reduce(data), found)
        if b"0x" in data or b"0X" in data:
            self._look(_reduce(data.lower().replace(b"0x", b"")), found)
        if _IN_DUMP.search(data):
            # The text column of a dump has one character for each byte, without backslashes of JSON.
            data = _DUMP.sub(b"", _QUOTED.sub(rb"\1", data))
            self._look(_reduce(data), found)
        return found

    def _look(self, reduced: bytes, found: set[str]) -> None:
        self._look_for_blocks(self._long, "Q", reduced, found)
        self._look_for_blocks(self._short, "I", reduced, found)
        found.update(value for form, value in self._tokens if form in reduced)

    @staticmethod
    def _look_for_blocks(
        places: Mapping[int, _Places], code: Literal["Q", "I"], reduced: bytes, found: set[str]
    ) -> None:
        for block in places.keys() & _cut(reduced, code) if places else ():
            for form, value in places[block]:
                if value not in found and (form is None or form in reduced):
                    found.add(value)


def _join(places: _Places | None, others: _Places) -> _Places:
    """Return both, without a copy where one is enough: there are thousands of blocks."""
    if not places or places == others:
        return others
    return places if others[0] in places else places + others


def _reduce(data: bytes) -> bytes:
    """Return the letters and digits of a text, in lower case."""
    return data.translate(_LOWER, _DROPPED)


def _cut(reduced: bytes, code: Literal["Q", "I"]) -> list[int]:
    """Return the blocks of a text as integers of a format of ``struct``, without an incomplete last block."""
    size = LONG if code == "Q" else SHORT
    blocks: list[int] = memoryview(reduced)[: len(reduced) // size * size].cast(code).tolist()
    return blocks


def _decode(data: bytes) -> bytes:
    """Return a text with its escapes decoded, which may have other white space and punctuation than ``decode_all``."""
    for _ in range(ROUNDS):
        if b"\\" in data:
            for escape, character in _FREQUENT:
                data = data.replace(escape, character)
        elif b"%" not in data and b"&" not in data:
            break
        data, count = _ESCAPE.subn(_decode_match, data)
        if not count:
            break
    return data


_decoded: dict[bytes, bytes] = {}


def _decode_match(match: re.Match[bytes]) -> bytes:
    escape = match[0]
    text = _decoded.get(escape)
    if text is None:
        text = decode_escape(escape.decode()).encode("latin-1")
        if len(_decoded) < 4_096:
            _decoded[escape] = text
    return text
