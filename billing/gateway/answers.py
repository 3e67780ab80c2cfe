"""Reads the response of a model server, and decides from its content whether the call succeeded.

Servers report failures inside responses with status 200, end streams early, send one JSON completion although a stream
was requested, and the other way around. Callers get what they requested, or an ``UpstreamRefused``.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from billing.gateway import conversion, refusals
from billing.gateway.event_stream import Event, EventStreamParser, EventTooLarge
from billing.gateway.refusals import ErrorDetails, UpstreamRefused
from billing.gateway.script import STREAM_END, encode_event
from billing.gateway.tool_calls import ToolCalls
from billing.gateway.usage_reports import repair_usage

Json = dict[str, Any]
MAX_RESPONSE_BYTES = 33_554_432
FAILED_REASONS = frozenset(
    (
        *("error", "insufficient_system_resource", "network_error", "server_error", "abort"),
        *("aborted", "cancelled", "canceled", "failed", "timeout", "internal_error", "overloaded"),
    )
)
"""Values of ``finish_reason`` of a model that did not finish: OpenRouter, Mistral and Cohere; DeepSeek; Zhipu; vLLM."""
NO_REASONS = frozenset(("", "null", "none"))
"""Texts that servers send as ``finish_reason`` in the middle of an answer."""
INCOMPLETE = "upstream_incomplete"
MALFORMED = "upstream_malformed"
TOO_LARGE = "upstream_too_large"
_FIELDS = (b"data", b"event", b"id", b"retry", b"error", b"")
_BLANKS = b"\xef\xbb\xbf \t\r\n"


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a stream: the bytes for the caller (may be empty), and the chunk's JSON (None for a comment)."""

    raw: bytes
    body: Json | None = None


async def read_stream(
    pieces: AsyncIterator[bytes], *, content_type: str, key: str
) -> AsyncGenerator[Chunk, None]:
    """Yield the chunks of a response to a request with ``stream``, and the end mark.

    Raise ``UpstreamRefused`` if the response reports an error, ends before the answer is complete, or is no answer.
    ``key`` is the API key, which is masked in messages.
    """
    reader = _StreamReader(content_type, key)
    async for piece in _read_until_lost(pieces, lambda: reader.is_complete):
        for chunk in reader.feed(piece):
            yield chunk
        if reader.is_done:  # some servers keep the connection open after the end mark
            break
    for chunk in reader.finish():
        yield chunk
    yield Chunk(STREAM_END)


async def read_completion(
    pieces: AsyncIterator[bytes],
    *,
    content_type: str,
    key: str,
    each: Callable[[], Awaitable[None]] | None = None,
) -> Json:
    """Return the completion in the body of a response to a request without ``stream``.

    A server that streams anyway is understood. Raise ``UpstreamRefused`` if the body reports an error or is no
    completion. ``each`` is called after each piece.
    """
    raw = bytearray()

    def is_complete() -> bool:
        return _is_complete(bytes(raw), content_type)

    async for piece in _read_until_lost(pieces, is_complete):
        raw += piece
        if len(raw) > MAX_RESPONSE_BYTES:
            raise too_large()
        if each:
            await each()
    return parse_completion(bytes(raw), content_type=content_type, key=key)


async def _read_until_lost(
    pieces: AsyncIterator[bytes], is_complete: Callable[[], bool]
) -> AsyncGenerator[bytes, None]:
    """Yield the pieces. A lost connection is the end of a response that is complete already.

    Many servers and proxies close the connection without the end of a chunked body, or state a wrong length.
    """
    try:
        async for piece in pieces:
            yield piece
    except UpstreamRefused:
        if not is_complete():
            raise


def _is_complete(raw: bytes, content_type: str) -> bool:
    if not _is_event_stream(raw[:200], content_type):
        return isinstance(_parse_json(raw, content_type), dict)
    reader = _StreamReader(content_type, "")
    try:
        for _ in reader.feed(raw):
            pass
    except UpstreamRefused:
        return True
    return reader.is_complete


def parse_completion(raw: bytes, *, content_type: str, key: str) -> Json:
    """Return the completion in a whole body. Raise ``UpstreamRefused`` like ``read_completion``."""
    if _is_event_stream(raw[:200], content_type):
        return _join(raw, content_type, key)
    body = _parse_json(raw, content_type)
    if error := refusals.find_error(body):
        raise _refuse(error, key)
    if isinstance(body, dict) and conversion.is_completion(body):
        _repair(body, ToolCalls())
        _check_reasons(body, key)
        return body
    return _join(raw, content_type, key)


def _join(raw: bytes, content_type: str, key: str) -> Json:
    """Return the completion that a body with chunks makes up."""
    reader = _StreamReader(content_type, key)
    chunks = [*reader.feed(raw), *reader.finish()]
    return conversion.join_chunks([chunk.body for chunk in chunks if chunk.body])


class _StreamReader:
    """Turns the bytes of one response into chunks, and remembers whether the answer is complete."""

    def __init__(self, content_type: str, key: str) -> None:
        self._content_type, self._key = content_type, key
        self._parser = EventStreamParser(refusals.find_encoding(content_type))
        self._calls = ToolCalls()
        self._beginning = bytearray()
        self._is_event_stream = self._has_deltas = False
        self.is_done = False
        self._begun: set[Any] = set()  # the indexes of choices
        self._finished: set[Any] = set()
        self._stray_text = ""

    @property
    def is_complete(self) -> bool:
        """Whether all choices have ended, although the response may go on."""
        if self._beginning:
            return _parse_json(bytes(self._beginning), self._content_type) is not None
        has_end = self._begun <= self._finished or (self.is_done and self._calls.are_whole)
        return bool(self._begun) and has_end

    def feed(self, piece: bytes) -> Iterator[Chunk]:
        """Yield the chunks that this piece completes. Raise ``UpstreamRefused`` if it reports an error."""
        if not self._is_event_stream:
            self._beginning += piece
            if len(self._beginning) > MAX_RESPONSE_BYTES:
                raise too_large()
            if not _is_event_stream(bytes(self._beginning[:200]), self._content_type):
                return
            self._is_event_stream = True
            piece = bytes(self._beginning)
            self._beginning.clear()
        try:
            yield from self._read(self._parser.feed(piece))
        except EventTooLarge as error:
            raise too_large() from error

    def finish(self) -> Iterator[Chunk]:
        """Yield the last chunks. Raise ``UpstreamRefused`` if the answer is not complete."""
        if self._beginning.strip(_BLANKS):
            raw = bytes(self._beginning)
            self._beginning.clear()
            yield from self._read(_iter_document(raw, self._content_type, self._key))
        elif not self.is_done:
            yield from self._read(self._parser.finish())
        if not self.is_complete:
            raise self._explain_end()

    def _read(self, events: Iterator[Event]) -> Iterator[Chunk]:
        for event in events:
            if event.comment is not None:
                yield Chunk(event.encode())
            elif event.data.strip() == "[DONE]":
                self.is_done = True
                return
            elif event.data.strip():
                yield from self._read_data(event)

    def _explain_end(self) -> UpstreamRefused:
        if text := self._stray_text or self._parser.stray:
            details = ErrorDetails(message=refusals.parse_body(text.encode()).message)
            if details.message:
                return _refuse(details, self._key, code=INCOMPLETE)
        message = "The model server sent an empty answer. Try again."
        if self._begun:
            message = "The model server ended its answer before it was complete. Try again."
        return UpstreamRefused(502, message, code=INCOMPLETE)

    def _read_data(self, event: Event) -> Iterator[Chunk]:
        body = _parse_json(event.data.encode())
        if event.name == "error":
            details = refusals.parse_body(event.data.encode())
            raise _refuse(refusals.with_default_message(details, event.data[:500]), self._key)
        if error := refusals.find_error(body):
            raise _refuse(error, self._key)
        if not isinstance(body, dict):
            # A keep-alive that is not JSON would break the caller's parser, so it is not forwarded.
            self._stray_text = self._stray_text or ("" if body is not None else event.data)
            return
        if conversion.is_completion(body) and not self._has_deltas:
            for part in conversion.split_completion(body):
                yield from self._read_chunk(encode_event(part), part)
        else:
            self._has_deltas |= conversion.has_delta(body)
            # A line break outside of the strings, which the parser may have put between two lines of data.
            yield from self._read_chunk(Event(event.data.replace("\n", " ")).encode(), body)

    def _read_chunk(self, raw: bytes, body: Json) -> Iterator[Chunk]:
        choices = body.get("choices")
        if isinstance(choices, list):
            if _repair(body, self._calls):
                raw = encode_event(body)
            _check_reasons(body, self._key)
            for choice in choices:
                if isinstance(choice, dict):
                    index = choice.get("index")
                    index = index if isinstance(index, int) else 0
                    self._begun.add(index)
                    if choice.get("finish_reason"):
                        self._finished.add(index)
            yield Chunk(raw, body)
        elif "usage" in body:
            repair_usage(body)
            yield Chunk(encode_event(body | {"choices": []}), body)
        else:
            yield Chunk(b"", body)


def _repair(body: Json, calls: ToolCalls) -> bool:
    """Repair the parts of a chunk or completion that the engine cannot read; return whether anything was changed."""
    is_changed = calls.repair(body)
    is_changed |= repair_usage(body)
    for choice in body["choices"]:
        if not isinstance(choice, dict):
            continue
        reason = choice.get("finish_reason")
        if isinstance(reason, dict):  # SGLang's own API
            reason = reason.get("type")
        if not isinstance(reason, str) or reason.lower() in NO_REASONS:
            reason = None
        if reason != choice.get("finish_reason"):
            choice["finish_reason"] = reason
            is_changed = True
        for name in ("delta", "message"):
            message = choice.get(name)
            if isinstance(message, dict) and isinstance(message.get("content"), list):
                is_changed |= conversion.flatten_content(message)
    return is_changed


def _iter_document(raw: bytes, content_type: str, key: str) -> Iterator[Event]:
    """Yield the events that a body means that is no event stream: a completion, or chunks as JSON lines or a list."""
    bodies: list[Any]
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        body = None
        lines = [line for line in raw.splitlines() if line.strip(_BLANKS) not in (b"", b"[DONE]")]
        bodies = [_parse_json(line, content_type) for line in lines]
        if None in bodies:
            bodies = [_parse_json(raw, content_type)]
    else:
        bodies = body if isinstance(body, list) else [body]
    if error := refusals.find_error(body if body is not None else bodies):
        raise _refuse(error, key)
    if not bodies or not all(isinstance(part, dict) for part in bodies):
        raise _malformed(raw, content_type, key)
    if not any(_has_choices(part) for part in bodies):
        raise _malformed(raw, content_type, key)
    for part in bodies:
        yield Event(json.dumps(part))


def _is_event_stream(beginning: bytes, content_type: str) -> bool | None:
    """Return whether a body is an event stream; None if too little of it has arrived.

    Some servers send a wrong content type, so the first line decides.
    """
    text = beginning.lstrip(_BLANKS)
    if not text:
        return None
    if text[:1] in (b"{", b"[", b"<"):
        return False
    field, colon, _ = text.partition(b":")
    if colon:
        return field in _FIELDS
    # The first field's name is not complete, or the line has no colon.
    is_declared = content_type.partition(";")[0].strip().lower() == "text/event-stream"
    return None if len(text) < 10 else is_declared


def _has_choices(body: Json) -> bool:
    choices = body.get("choices")
    return isinstance(choices, list) and any(isinstance(choice, dict) for choice in choices)


def _check_reasons(body: Json, key: str) -> None:
    """Raise ``UpstreamRefused`` if a choice ended because of a failure."""
    for choice in body["choices"]:
        reason = choice.get("finish_reason") if isinstance(choice, dict) else None
        if isinstance(reason, str) and reason.lower() in FAILED_REASONS:
            message = (
                f"The model stopped because of a failure (finish_reason: {reason}). Try again."
            )
            raise _refuse(ErrorDetails(message=message), key, code=INCOMPLETE)


def _parse_json(raw: bytes, content_type: str = "") -> Any:
    """Return a parsed JSON value; None if the bytes are not JSON."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        pass
    try:  # lone surrogates, a byte order mark, other encodings
        return refusals.parse_json(raw, content_type)
    except (ValueError, RecursionError):
        return None


def _refuse(details: ErrorDetails, key: str, *, code: str = "") -> UpstreamRefused:
    message = "The model server reported an error without a message."
    failure = refusals.build_refusal(refusals.with_default_message(details, message), key=key)
    failure.code = code or failure.code
    return failure


def _malformed(raw: bytes, content_type: str, key: str) -> UpstreamRefused:
    kind = content_type.partition(";")[0].strip().lower()[:60] or "none"
    message = f"The model server's response is not a chat completion (content type: {kind})."
    try:
        json.loads(raw[: refusals.MAX_MESSAGE])
    except (ValueError, RecursionError):
        if text := refusals.mask(refusals.parse_body(raw[:65_536], content_type).message, key):
            message += f" It begins: {text[:200]}"
    if "html" in kind:
        message += " Check the URL of the model server: it usually ends with /v1."
    return UpstreamRefused(502, message, code=MALFORMED)


def too_large() -> UpstreamRefused:
    """Return the failure of a call whose response is larger than ``MAX_RESPONSE_BYTES``."""
    return UpstreamRefused(502, "The model server's response is too large.", code=TOO_LARGE)
