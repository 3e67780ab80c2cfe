"""WebSocket text messages as they go over the wire: one frame, not masked, not compressed (RFC 6455, section 5.2)."""

import struct

READY = "openhands.ready_frames"
"""ASGI extension of a server that takes messages of this type, with ``frames``: each is written as it is."""
_TEXT = 0x81
_short, _middle, _long = struct.Struct(">BB"), struct.Struct(">BBH"), struct.Struct(">BBQ")


def framed(body: bytes) -> bytes:
    """The message that carries ``body``, which is UTF-8. It is the same for every client."""
    size = len(body)
    if size < 126:
        return _short.pack(_TEXT, size) + body
    if size < 65_536:
        return _middle.pack(_TEXT, 126, size) + body
    return _long.pack(_TEXT, 127, size) + body


def body_of(message: bytes) -> bytes:
    """What a message of ``framed`` carries."""
    head = {126: _middle.size, 127: _long.size}.get(message[1], _short.size)
    return message[head:]
