"""Follow the events of a conversation on the session socket of its engine."""

import asyncio
from collections.abc import AsyncGenerator
from uuid import UUID

import msgspec
import websockets
from django.conf import settings
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from conversations.engine import payloads
from conversations.engine.errors import (
    EngineMissing,
    EngineRefused,
    EngineUnreachable,
    FrameTooLarge,
)
from conversations.engine.payloads import Frame
from conversations.engine.transport import ENGINE_URL, Dial, dial_in_thread

OPEN_SECONDS = 30.0
"""The time limit for connecting to the engine, and again for the handshake."""


async def follow(
    dial: Dial, session_key: str, conversation_id: UUID, after_seq: int
) -> AsyncGenerator[Frame, None]:
    """Yield the frames of a conversation's session socket: the events after the index ``after_seq``, then new frames.

    The index -1 requests all events. ``dial`` connects to the engine; it is called once, in a thread. The generator
    ends only with an exception: ``EngineUnreachable`` if the connection fails or is lost (reconnect with the last
    index), ``FrameTooLarge``, ``EngineMissing`` if the engine does not know the conversation, and ``EngineRefused`` if
    the key is wrong (4001 or 403). While a tool runs, the first frame may arrive only after the tool ends. Close the
    generator with ``aclose``.
    """
    try:
        async with await _open_socket(dial, conversation_id, after_seq) as socket:
            # Send the key in the first frame, because a key in the URL would appear in access logs.
            await socket.send(
                msgspec.json.encode({"type": "auth", "session_api_key": session_key}).decode()
            )
            while True:
                # Read bytes, because decoding a text frame that is not UTF-8 would end the connection.
                yield payloads.parse_frame(await socket.recv(decode=False))
    except ConnectionClosed as closed:
        raise _closed(closed) from closed
    except InvalidStatus as refused:
        status = refused.response.status_code
        raise (
            EngineMissing()
            if status == 404
            else EngineRefused(status, "the engine refused the socket")
        ) from refused
    except (
        OSError,
        InvalidHandshake,
        InvalidURI,
        TimeoutError,
        websockets.WebSocketException,
    ) as error:
        raise EngineUnreachable(str(error) or type(error).__name__) from error


async def _open_socket(dial: Dial, conversation_id: UUID, after_seq: int) -> ClientConnection:
    async with asyncio.timeout(OPEN_SECONDS):
        connection = await dial_in_thread(dial)
    try:
        return await connect(
            f"{ENGINE_URL.replace('http', 'ws', 1)}/sockets/session/{conversation_id}?after_seq={after_seq}",
            sock=connection,
            max_size=settings.EVENT_MAX_BYTES + 65_536,  # room for the envelope
            open_timeout=OPEN_SECONDS,
            ping_interval=20,
            ping_timeout=30,
            close_timeout=2,
            proxy=None,
        )
    except ValueError as error:
        # This is the response to a redirect, which a socket that is connected already cannot follow.
        connection.close()
        raise EngineUnreachable(str(error)) from error
    except BaseException:
        connection.close()
        raise


def _closed(closed: ConnectionClosed) -> Exception:
    received, sent = closed.rcvd, closed.sent
    code, reason = (received.code, received.reason) if received else (1006, "")
    if code == 4004:
        return EngineMissing(reason or "not found")
    if code in (4001, 1008):
        return EngineRefused(code, reason or "not allowed")
    # Either the engine refused to send the frame, or this client refused to receive it (1009).
    if reason == "frame_too_large" or (sent and sent.code == 1009):
        return FrameTooLarge("the next event is too large for the socket")
    return EngineUnreachable(f"the socket was closed ({code} {reason})".rstrip())
