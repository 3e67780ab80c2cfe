"""The encoding of a file's bytes: UTF-8, UTF-16, UTF-32, one of the Western single-byte encodings, or none (binary)."""

import codecs

BINARY = "binary"
# UTF-32 first, because its mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
_CONTROLS = bytes(range(32)).translate(None, b"\t\n\r\f\b\x1b")
"""Bytes that no text contains, apart from tabs, line ends, page breaks, backspaces and terminal colors."""


def decode(data: bytes) -> tuple[str | None, str]:
    """Return the text of a file and the name of its encoding, or ``(None, "binary")``.

    Without a byte order mark, bytes that are not UTF-8 are read as ``windows-1252`` if they contain characters that
    only this encoding has, and otherwise as ``iso-8859-1``. Both decode nearly every file, so this is an assumption.
    """
    for mark, name in _MARKS:
        if data.startswith(mark):
            return _decode_as(data, name)
    if b"\0" in data:
        guess = _guess_utf16(data)
        return _decode_as(data, guess) if guess else (None, BINARY)
    try:
        return data.decode(), "utf-8"
    except UnicodeDecodeError:
        pass
    if data.translate(None, _CONTROLS) != data:
        return None, BINARY
    try:
        has_c1 = any(0x80 <= byte < 0xA0 for byte in data)
        return (data.decode("cp1252"), "windows-1252") if has_c1 else _latin(data)
    except UnicodeDecodeError:
        # Five bytes mean nothing in windows-1252. No text has the control characters that ISO 8859-1 has instead.
        return None, BINARY


def _latin(data: bytes) -> tuple[str, str]:
    return data.decode("latin-1"), "iso-8859-1"


def _decode_as(data: bytes, name: str) -> tuple[str | None, str]:
    try:
        return data.decode(name), name
    except UnicodeDecodeError:
        return None, BINARY


def _guess_utf16(data: bytes) -> str | None:
    """Return the byte order of UTF-16 without a mark, in which every second byte of Western text is NUL."""
    if len(data) % 2:
        return None
    pairs = len(data) // 2
    high, low = data[::2].count(0), data[1::2].count(0)
    if low > pairs * 0.4 and high == 0:
        guess = "utf-16-le"
    elif high > pairs * 0.4 and low == 0:
        guess = "utf-16-be"
    else:
        return None
    text = data.decode(guess, "replace")
    return guess if all(char.isprintable() or char in "\t\n\r\f" for char in text) else None
