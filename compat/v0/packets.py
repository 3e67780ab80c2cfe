"""The packets that V0 clients may send: Engine.IO 4 with Socket.IO 5 inside, as text.

python-socketio 5 and python-engineio 4 log a traceback or end with an exception for most malformed packets, and let a
client trigger the handlers of ``connect`` and ``disconnect`` by an event of that name. So each packet is checked before
the library reads it. The formats: https://socket.io/docs/v4/engine-io-protocol/ and
https://socket.io/docs/v4/socket-io-protocol/.
"""

import re
from typing import Any, Final

from django.conf import settings
from socketio.packet import Packet

from lib.api import nesting

CLOSE: Final = "1"
"""Engine.IO's packet with which a client ends its connection. Its content does not matter."""
ENGINE_TYPES: Final = "12356"
"""Engine.IO's close, ping, pong, upgrade and noop, whose content does not matter here."""
_PACKET: Final = re.compile(
    r"4(?P<type>[0-3])(?P<namespace>/[^,?]{0,100}(?:\?[^,]{0,1000})?(?:,|\Z))?(?P<id>[0-9]{1,15})?(?P<data>.*)",
    re.DOTALL,
)
CONNECT, DISCONNECT, EVENT, ACK = "0123"
RESERVED: Final = ("connect", "connect_error", "disconnect", "disconnecting")
"""Names that Socket.IO reserves: clients may not send events with these names."""


class BadPacket(Exception):
    """The client sent a packet that is not valid at this point. The text is for the client, as a close reason."""


class PacketCheck:
    """The check of one connection's packets in their order."""

    __slots__ = ("_is_connected",)

    def __init__(self) -> None:
        self._is_connected = False
        """Whether the client has connected to the namespace ``/``, the only one of this server."""

    def check(self, text: str) -> None:
        """Raise ``BadPacket`` if the library must not read this packet."""
        if text[:1] in ENGINE_TYPES and text:
            return
        packet = _PACKET.fullmatch(text)
        if packet is None:
            raise BadPacket("This is not a text packet of Socket.IO 5.")
        data = _parse(packet["data"])
        kind, namespace = packet["type"], (packet["namespace"] or "").rstrip(",").partition("?")[0]
        if namespace not in ("", "/"):
            # The library answers a CONNECT to another namespace with an error.
            if kind != CONNECT:
                raise BadPacket("This server has only the namespace /.")
            return
        if kind == CONNECT:
            self._connect(data)
        elif not self._is_connected:
            raise BadPacket("Send the packet CONNECT first.")
        elif kind == DISCONNECT:
            self._is_connected = False
        elif not isinstance(data, list):
            raise BadPacket("The data of this packet must be an array.")
        elif kind == EVENT:
            _check_event(data)

    def _connect(self, data: Any) -> None:
        if self._is_connected:
            raise BadPacket("This client is already connected.")
        if data is not None and not isinstance(data, dict):
            raise BadPacket("The data of CONNECT must be an object.")
        self._is_connected = True


def _parse(text: str) -> Any:
    """Return the JSON value of a packet, or None if it has none."""
    if not text:
        return None
    if nesting(text.encode()) > settings.JSON_MAX_DEPTH:
        raise BadPacket("The data of this packet is nested too deeply.")
    try:
        # The parser of the library, which refuses numbers of more than 100 digits.
        return Packet.json.loads(text)
    except ValueError as error:
        raise BadPacket("The data of this packet is not valid JSON.") from error


def _check_event(data: list[Any]) -> None:
    if not data or not isinstance(data[0], str):
        raise BadPacket("The first element of an event must be its name.")
    if data[0] in RESERVED:
        raise BadPacket("This event name is reserved.")
