"""Encoding of WebSocket frames, compared with the library ``websockets`` at each length where the header changes."""

import pytest
from websockets.frames import Frame, Opcode

from lib import framing

SIZES = (0, 1, 125, 126, 127, 65_535, 65_536, 200_000)


@pytest.mark.parametrize("size", SIZES)
def test_encoded_frame_equals_the_frame_of_the_library(size):
    body = b"x" * size

    message = framing.encode_frame(body)

    assert message == Frame(Opcode.TEXT, body).serialize(mask=False)
    assert framing.decode_frame(message) == body
