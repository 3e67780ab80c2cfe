"""The encoding of WebSocket text messages as one unmasked, uncompressed frame (RFC 6455, section 5.2)."""

import struct

READY = "openhands.ready_frames"
"""An ASGI extension and message type: the server writes each of the message's ``frames`` unchanged."""
_TEXT = 0x81
_short, _middle, _long = struct.Struct(">BB"), struct.Struct(">BBH"), struct.Struct(">BBQ")


def encode_frame(body: bytes) -> bytes:
    """Return the frame of a text message; ``body`` is UTF-8. A frame can be sent to any number of clients."""
    size = len(body)
    if size < 126:
        return _short.pack(_TEXT, size) + body
    if size < 65_536:
        return _middle.pack(_TEXT, 126, size) + body
    return _long.pack(_TEXT, 127, size) + body


def decode_frame(frame: bytes) -> bytes:
    """Return the body of a frame made by ``encode_frame``."""
    head = {126: _middle.size, 127: _long.size}.get(frame[1], _short.size)
    return frame[head:]
