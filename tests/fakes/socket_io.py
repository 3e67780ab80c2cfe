"""A Socket.IO v4 client that uses python-socketio for packets and ``websockets`` for the transport."""

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Self
from urllib.parse import urlencode

from socketio.packet import CONNECT, CONNECT_ERROR, DISCONNECT, EVENT, Packet
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

Json = dict[str, Any]


class Refused(Exception):
    """The server refused the connection. The argument is the data of its ``connect_error``."""


class Ended(Exception):
    """The server ended the connection: ``"disconnect"`` or ``"close"`` by a packet, ``"transport"`` without one."""


class V0Client:
    """A joined connection. ``events`` holds the ``oh_event`` payloads in order; the ``wait…`` methods read them."""

    def __init__(
        self,
        url: str,
        conversation_id: Any,
        *,
        after: int = -1,
        path: str = "/socket.io/",
        headers: dict[str, str] | None = None,
        **query: str,
    ) -> None:
        parameters = {"EIO": "4", "transport": "websocket", "latest_event_id": str(after)} | query
        if conversation_id is not None:
            parameters["conversation_id"] = str(conversation_id)
        self.events: list[Json] = []
        self.frames: list[str] = []
        self._closing = ExitStack()
        opening = connect(
            f"{url.replace('http', 'ws', 1)}{path}?{urlencode(parameters)}",
            additional_headers=headers or {},
            open_timeout=30,
            close_timeout=2,
            max_size=None,
            proxy=None,
        )
        try:
            self._socket = self._closing.enter_context(opening)
            opened = self._socket.recv(timeout=30)
            assert opened[0] == "0", opened
            self.opened = json.loads(opened[1:])
            self._socket.send("4" + Packet(CONNECT).encode())
            while not self._read(30):
                pass
        except BaseException:
            self._closing.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def _read(self, seconds: float) -> bool:
        """Read a frame. Return whether it confirms the connection."""
        try:
            frame = self._socket.recv(timeout=seconds)
        except ConnectionClosed as closed:
            raise Ended("transport") from closed
        assert isinstance(frame, str)
        self.frames.append(frame)
        if frame == "2":
            self._socket.send("3")
        elif frame == "1":
            raise Ended("close")
        elif frame.startswith("4"):
            packet = Packet(encoded_packet=frame[1:])
            if packet.packet_type == CONNECT:
                return True
            if packet.packet_type == CONNECT_ERROR:
                raise Refused(packet.data)
            if packet.packet_type == DISCONNECT:
                raise Ended("disconnect")
            if packet.packet_type == EVENT and packet.data[0] == "oh_event":
                self.events.append(packet.data[1])
        return False

    def wait(self, is_there: Callable[[Json], Any], *, seconds: float = 60) -> Json:
        """Return the next event for which ``is_there`` is true, after the event that ``wait`` returned last."""
        deadline = time.monotonic() + seconds
        place = getattr(self, "_place", 0)
        while True:
            while place < len(self.events):
                event = self.events[place]
                place += 1
                if is_there(event):
                    self._place = place
                    return event
            left = deadline - time.monotonic()
            assert left > 0, (
                f"no such event within {seconds} s; the last events: {json.dumps(self.events[-5:])[:3000]}"
            )
            try:
                self._read(left)
            except TimeoutError:
                continue

    def wait_state(self, *states: str, seconds: float = 60) -> Json:
        return self.wait(lambda event: state_of(event) in states, seconds=seconds)

    def read_for(self, seconds: float) -> None:
        """Read frames for this time."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                self._read(left)
            except TimeoutError:
                return

    def wait_end(self, *, seconds: float = 30) -> str:
        """Read until the server ends the connection. Return how it ended it (see ``Ended``)."""
        try:
            deadline = time.monotonic() + seconds
            while True:
                self._read(max(0.01, deadline - time.monotonic()))
        except Ended as end:
            return str(end)

    def emit(self, name: str, data: Any) -> None:
        self._socket.send("4" + Packet(EVENT, data=[name, data]).encode())

    def send_raw(self, frame: str) -> None:
        self._socket.send(frame)

    def act(self, action: str, **args: Any) -> None:
        self.emit("oh_user_action", {"action": action, "args": args})

    def say(self, text: str, **args: Any) -> None:
        self.act("message", content=text, image_urls=[], file_urls=[], timestamp="now", **args)

    @property
    def ids(self) -> list[int]:
        return [event["id"] for event in self.events if "id" in event and "timestamp" in event]


def state_of(event: Json) -> str | None:
    """Return the agent's state in an event, or None if the event reports no state."""
    if event.get("observation") != "agent_state_changed":
        return None
    state: str = event["extras"]["agent_state"]
    return state
