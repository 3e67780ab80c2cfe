"""The parser of uploads, which refuses a body that was cut off. Django keeps the parts before the cut silently."""

from typing import Any

from django.utils.http import parse_header_parameters
from rest_framework import parsers
from rest_framework.exceptions import ParseError

TAIL_BYTES = 4_096


class _Tail:
    """A stream that remembers the last bytes that were read from it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.last = b""

    def read(self, *size: int) -> bytes:
        data: bytes = self._stream.read(*size)
        self.last = (self.last + data[-TAIL_BYTES:])[-TAIL_BYTES:]
        return data


class UploadParser(parsers.MultiPartParser):
    """A parser of ``multipart/form-data`` (RFC 7578). A body without its closing boundary is a ``ParseError``."""

    def parse(self, stream: Any, media_type: Any = None, parser_context: Any = None) -> Any:
        tail: Any = _Tail(stream)
        result = super().parse(tail, media_type, parser_context)
        boundary = parse_header_parameters(media_type or "")[1].get("boundary", "")
        if f"--{boundary}--".encode() not in tail.last:
            raise ParseError(
                "The upload ended before its last part was complete, so no file was stored. Send it again."
            )
        return result
