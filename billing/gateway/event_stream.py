"""A parser of event streams (``text/event-stream``) that receives the bytes in pieces of any size.

It follows https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream, with additions for
model servers. It also returns the last event if the stream ends without an empty line, which browsers drop. A line
``error: {...}`` (llama.cpp), a JSON object on one line (Ollama) or several lines (proxies) and a bare ``[DONE]`` count
as events. It returns comments, which keep connections open, and keeps the lines that are no field, because proxies
write their errors there. The decoder of ``httpx-sse`` has none of these, ignores a byte order mark and has no limit.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_EVENT_BYTES = 33_554_432
MAX_STRAY = 4_000
_LINE_END = re.compile(rb"\r\n|\r|\n")
_BOM = b"\xef\xbb\xbf"


class EventTooLarge(ValueError):
    """An event of the stream is larger than ``MAX_EVENT_BYTES``."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event with its name (empty for the default name ``message``) and data, or only a ``comment``."""

    data: str = ""
    name: str = ""
    comment: str | None = None

    def encode(self) -> bytes:
        """Return the event or comment as it is sent to callers, without the name, which they do not expect."""
        if self.comment is not None:
            return b":%b\n\n" % self.comment.encode()
        data = "".join(f"data: {line}\n" for line in self.data.split("\n"))
        return f"{data}\n".encode()


class EventStreamParser:
    """The parser of one stream. Call ``feed`` with each piece, and ``finish`` at the end.

    ``encoding`` is the encoding of lines that are not UTF-8. ``stray`` is the text outside of all events.
    """

    def __init__(self, encoding: str = "utf-8") -> None:
        self._encoding = encoding
        self.stray = ""
        self._is_in_json = False
        self._line = bytearray()  # the beginning of a line whose end has not arrived
        self._data: list[str] = []
        self._name = ""
        self._size = 0
        self._is_first_line = True
        self._skips_line_feed = False

    def feed(self, piece: bytes) -> Iterator[Event]:
        """Yield the events that this piece completes. Raise ``EventTooLarge``."""
        if self._skips_line_feed and piece:
            piece = piece.removeprefix(b"\n")
            self._skips_line_feed = False
        self._skips_line_feed = piece.endswith(b"\r")
        *lines, rest = _LINE_END.split(piece)
        for line in lines:
            self._line += line
            yield from self._end_line()
        self._line += rest
        if len(self._line) + self._size > MAX_EVENT_BYTES:
            raise EventTooLarge

    def finish(self) -> Iterator[Event]:
        """Yield the events that were not complete when the stream ended."""
        if self._line:
            yield from self._end_line()
        yield from self._dispatch()

    def _end_line(self) -> Iterator[Event]:
        raw = bytes(self._line)
        self._line.clear()
        if self._is_first_line:
            raw, self._is_first_line = raw.removeprefix(_BOM), False
        line = self._decode(raw)
        if not line:
            yield from self._dispatch()
            return
        if self._is_in_json:
            self._add(line)
            if line in ("}", "]"):
                yield from self._dispatch()
            return
        if line.startswith(":"):
            yield Event(comment=line[1:])
            return
        if line.startswith("{"):  # Ollama reports a failure in the middle of a stream in this way
            yield from self._dispatch()
            if _is_json(line):
                yield Event(line)
            else:
                self._is_in_json = True
                self._add(line)
            return
        yield from self._read_field(line)

    def _read_field(self, line: str) -> Iterator[Event]:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._add(value)
        elif field == "event":
            self._name = value
        elif field == "error" and value:  # llama.cpp
            yield from self._dispatch()
            yield Event(value, "error")
        elif line.strip() == "[DONE]":
            yield from self._dispatch()
            yield Event(line)
        elif field not in ("id", "retry", "error") and len(self.stray) < MAX_STRAY:
            self.stray += f"{line[:MAX_STRAY]}\n"

    def _add(self, value: str) -> None:
        self._size += len(value)
        if self._size > MAX_EVENT_BYTES:
            raise EventTooLarge
        self._data.append(value)

    def _decode(self, raw: bytes) -> str:
        for encoding in ("utf-8", self._encoding):
            try:
                return raw.decode(encoding)
            except (LookupError, ValueError):
                continue
        return raw.decode("utf-8", "replace")

    def _dispatch(self) -> Iterator[Event]:
        if self._data:
            yield Event("\n".join(self._data), self._name)
        self._data, self._name, self._size, self._is_in_json = [], "", 0, False


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
