"""V0's Socket.IO endpoint at ``/socket.io``: one socket follows one conversation's log.

V0 is OpenHands' older protocol. Every process reads the log through its hub (``conversations.realtime.hub``) and sends
only to its own sockets, so neither a Redis manager nor Socket.IO rooms are needed. The only transport is WebSocket:
requests of the polling transport would have to reach the process that holds their session, and no load balancer routes
them there (ADR 10). The web client uses only WebSocket.

python-socketio handles the connection: the handshake, pings, and the packets of the client. Events do not pass through
its queue. ``encoding`` encodes each event once, and the feed writes the same bytes to every socket.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

import socketio
from engineio.async_drivers.asgi import WebSocket
from socketio.exceptions import ConnectionRefusedError as ConnectionRefused

from compat.v0 import commands, encoding, handshake
from compat.v0.encoding import PROTOCOL, EventForm, V0Encoder
from compat.v0.packets import CLOSE, BadPacket, PacketCheck
from compat.v0.translation import Json
from conversations.realtime import watching
from conversations.realtime.access import Watcher
from conversations.realtime.frames import EventFrame, Frame, ResetFrame, StatusFrame
from conversations.realtime.hub import get_hub
from conversations.realtime.socket import signed_in
from conversations.realtime.subscription import Subscription
from lib import framing
from lib.problems import Problem
from lib.threads import DatabaseThreads

Receive = Callable[[], Awaitable[Json]]
Send = Callable[[Json], Coroutine[Any, Any, None]]
logger = logging.getLogger(__name__)
_commands = DatabaseThreads("socket.io", 4)
"""Threads for the clients' actions. They may wait for row locks, so they do not share threads with the hub's reads."""
PATH: Final = "/socket.io"
MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""The maximum size of a client's message. OpenHands' own server has the same limit."""
JOIN_SECONDS: Final = 20
"""Seconds that a socket may stay open without joining a conversation."""
ANSWER: Final = "40"
"""The start of the packet with which the library answers the client's connect packet."""
RESTORED: Final = encoding.encode_packet(
    {
        "error": True,
        "message": "This conversation was restored from a backup. Reload the page to see its events.",
    }
)


class Follower:
    """A socket that follows a conversation. The encoder of its feed encodes the events."""

    __slots__ = (
        "_cursor",
        "_is_replaying",
        "_last_sent_id",
        "_pending_state",
        "_send",
        "_subscription",
        "_task",
        "conversation_id",
        "eio_sid",
        "is_ready_for_frames",
        "sid",
        "watcher",
    )

    def __init__(self, sid: str, eio_sid: str, watcher: Watcher, scope: Json, cursor: int) -> None:
        # ``sid`` is the id of the Socket.IO session, ``eio_sid`` the id of the connection below it (Engine.IO).
        self.sid, self.eio_sid = sid, eio_sid
        self.watcher, self.conversation_id = watcher, watcher.conversation_id
        self._send: Send = scope["v0.guard"].send_raw
        self.is_ready_for_frames = framing.READY in scope.get("extensions", ())
        self._cursor = cursor
        self._subscription: Subscription | None = None
        self._task: asyncio.Task[None] | None = None
        # While past events are replayed, V0 clients receive only the last change of state, at the end of the replay.
        self._is_replaying = True
        self._pending_state: tuple[int, EventForm] | None = None
        self._last_sent_id = 0

    def start(self) -> None:
        """Send the events that the client lacks, then new events, until the socket closes."""
        self._spawn(self._open())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.create_task(work)

    async def _open(self) -> None:
        """Subscribe and send the backlog. From then on the feed sends, and an idle socket needs no task of its own."""
        try:
            watching.start_watching(self.watcher, watching.UnpingedStream(self._lose_access))
            hub = get_hub()
            self._subscription = await hub.join(
                self.conversation_id, after=self._cursor, encoder=V0Encoder
            )
            # Events up to the horizon were deleted at the end of their retention period.
            horizon = self._subscription.feed.horizon
            self._subscription.cursor = max(self._cursor, horizon)
            if self.watcher.refusal is not None:
                self._subscription.revoke()
            await self._subscription.go_live(self._push, self._end)
        except asyncio.CancelledError:
            raise
        except watching.TooManyStreams as refusal:
            # A disconnect packet: the client shows the message and does not connect again by itself.
            await self.send_error(refusal.detail)
            await server.disconnect(self.sid)
        except OSError:  # the client has left
            await _close_connection(self.eio_sid)
        except Exception:
            logger.exception(
                "The feed of a V0 socket failed; the client will reconnect and resume."
            )
            await _close_connection(self.eio_sid)

    def _lose_access(self) -> None:
        if self._subscription is not None:
            self._subscription.revoke()

    def _end(self) -> None:
        """Close the socket, because the subscription is over."""
        assert self._subscription is not None
        # A Socket.IO client does not reconnect after a disconnect packet, which is right for a client without access
        # and for a deleted conversation. Otherwise the client reconnects and resumes.
        if self.watcher.refusal is not None or self._subscription.feed.is_gone:
            self._spawn(server.disconnect(self.sid))
        else:
            self._spawn(_close_connection(self.eio_sid))

    async def leave(self) -> None:
        """Free everything that the socket uses. Safe to repeat."""
        # The socket's own task may have disconnected it, and must not cancel itself.
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        watching.stop_watching(self.watcher)
        if (subscription := self._subscription) is not None:
            self._subscription = None
            await get_hub().leave(subscription)

    # --- To the client ---

    def _push(self, frames: Sequence[Frame]) -> Coroutine[Any, Any, None]:
        packets = self._collect_packets(frames)
        if packets is None:
            return self._push_encoded(frames)
        return self._send_packets(packets)

    async def _push_encoded(self, frames: Sequence[Frame]) -> None:
        """Send frames whose forms were dropped while they waited for this socket."""
        assert self._subscription is not None
        assert self._subscription.encoder is not None
        await self._subscription.encoder.encode_page(frames)
        await self._send_packets(self._collect_packets(frames) or [])

    def _collect_packets(self, frames: Sequence[Frame]) -> list[bytes] | None:
        """Return the packets of frames, or None if the form of an event is missing."""
        packets: list[bytes] = []
        events = [frame for frame in frames if isinstance(frame, EventFrame)]
        if any(frame.cached_form(PROTOCOL) is None for frame in events):
            return None
        for frame in frames:
            if isinstance(frame, EventFrame):
                self._add_event(packets, frame.event.seq, frame.cached_form(PROTOCOL))
            elif isinstance(frame, StatusFrame) and frame.record is not None:
                self._add_record(packets, frame, frame.record)
            elif isinstance(frame, ResetFrame):
                packets.append(RESTORED)
        return packets

    def _add_event(self, packets: list[bytes], seq: int, form: EventForm) -> None:
        if form.state is not None and self._is_replaying:
            self._pending_state = seq, form
        elif form.packet:
            packets.append(form.packet)
            self._last_sent_id = seq

    def _add_record(self, packets: list[bytes], frame: StatusFrame, record: Json) -> None:
        if not self._is_replaying:
            # The changes since the previous record, which all sockets have received.
            packets += frame.cached_form(PROTOCOL) or ()
            return
        # The first record follows the stored events, so the replay is over.
        self._is_replaying = False
        state = ""
        if self._pending_state is not None:
            (seq, form), self._pending_state = self._pending_state, None
            state = form.state or ""
            # A client resumes from the last id it received. A state that is sent after later events must not carry its
            # id, or the client would receive those events again.
            is_late = seq < self._last_sent_id
            packets.append(
                encoding.encode_state(state, reason=form.reason) if is_late else form.packet
            )
        packets += encoding.encode_record_changes(record, None, state=state)

    async def _send_packets(self, packets: Sequence[bytes]) -> None:
        if not packets:
            return
        if self.is_ready_for_frames:
            await self._send({"type": framing.READY, "frames": packets})
            return
        for packet in packets:
            text = framing.decode_frame(packet).decode()
            await self._send({"type": "websocket.send", "text": text})

    async def send_error(self, message: str) -> None:
        # A client that has left needs no error.
        with contextlib.suppress(OSError):
            await self._send_packets([encoding.encode_packet({"error": True, "message": message})])

    # --- Actions of the client ---

    async def handle_action(self, event: Any) -> None:
        """Execute an action that the client sent. If the action is refused or fails, send the error to this client."""
        try:
            await _commands.run(self._execute, event, self._asked_seq)
        except Problem as refusal:
            await self.send_error(refusal.detail)
        except Exception:
            logger.exception("An action of a V0 client failed.")
            await self.send_error(
                "The server could not execute this action because of an error. Try again."
            )

    @property
    def _asked_seq(self) -> int | None:
        """The ``seq`` of the agent's open question, to which an answer of the client refers."""
        reading = self._subscription.feed.reading if self._subscription else None
        record = reading.record if reading else None
        asked_seq: int | None = record["asked_seq"] if record else None
        return asked_seq

    def _execute(self, event: Any, asked_seq: int | None) -> None:
        with self.watcher.authorized_command(commands.find_permission(event)) as user:
            commands.execute(
                conversation_id=self.conversation_id, event=event, asked_seq=asked_seq, by=user
            )


# --- The server -------------------------------------------------------------------

server = socketio.AsyncServer(
    async_mode="asgi",
    transports=["websocket"],
    cors_allowed_origins=[],  # openhands_site.serving.origins has already checked the origin
    async_handlers=False,  # separate tasks could run a client's actions in the wrong order
    max_http_buffer_size=MESSAGE_BYTES,
    serializer="default",
    monitor_clients=True,
)


class _QuietEnd(WebSocket):
    """The library's socket, whose ``wait`` returns None when the client has left, instead of raising an exception.

    The library ends the connection in either case. It would keep the exception together with the objects of the socket
    until the next garbage collection.
    """

    async def wait(self) -> Any:
        message = await self.asgi_receive()
        return message.get("text") if message["type"] == "websocket.receive" else None


server.eio._async = server.eio._async | {"websocket": _QuietEnd}  # noqa: SLF001
_socketio_app = socketio.ASGIApp(server, socketio_path=PATH)
_followers: dict[str, Follower] = {}
"""Followers by Socket.IO session. The web client opens two sockets per page and keeps both open."""
_closing: set[asyncio.Task[None]] = set()
"""The tasks that close connections. The event loop holds only weak references to tasks."""


@server.event
async def connect(sid: str, environ: Json, auth: Any = None) -> None:
    """Accept the socket if the caller may watch the conversation, and start a task that sends the events."""
    # The library also calls this for an event that a client names "connect".
    if sid in _followers:
        return
    scope = environ["asgi.scope"]
    guard: _SocketGuard = scope["v0.guard"]
    try:
        watcher = handshake.read_watcher(scope)
        handshake.raise_refusal(scope, watcher, await watcher.check_access())
        cursor = handshake.parse_cursor(scope)
    except ConnectionRefused:
        guard.is_refused = True
        raise
    except Exception as error:
        logger.exception("A V0 socket could not join its conversation.")
        guard.is_refused = True
        # The text of OpenHands' own server.
        message = f"Failed to access conversation events: {type(error).__name__}"
        raise ConnectionRefused(message) from error
    guard.is_joined = True
    signed_in(scope)
    eio_sid = server.manager.eio_sid_from_sid(sid, "/")
    follower = _followers[sid] = Follower(sid, eio_sid, watcher, scope, cursor)
    guard.joining = follower


@server.event
async def disconnect(sid: str, reason: Any = None) -> None:
    follower = _followers.pop(sid, None)
    if follower is None:
        return
    await follower.leave()
    # Engine.IO's connection stays open, so that the client could join again. It is not counted meanwhile.
    asyncio.get_running_loop().call_later(JOIN_SECONDS, _close_unless_joined, follower.eio_sid)


def _close_unless_joined(eio_sid: str) -> None:
    """Close the connection of a client that has left its conversation and not joined again."""
    if eio_sid not in server.eio.sockets:
        return
    if all(follower.eio_sid != eio_sid for follower in _followers.values()):
        task = asyncio.create_task(_close_connection(eio_sid))
        _closing.add(task)
        task.add_done_callback(_closing.discard)


async def _close_connection(eio_sid: str) -> None:
    """Close a connection of Engine.IO and its socket. Safe to repeat."""
    connection = server.eio.sockets.pop(eio_sid, None)
    if connection is not None:
        # Without ``wait``, which waits forever for a writer that has ended because the client left.
        await connection.close(wait=False, reason=server.eio.reason.SERVER_DISCONNECT)
        # python-engineio 4 only asks the client to close the socket, and closes it itself after 45 seconds. This ends
        # its writer, which closes the socket now.
        await connection.queue.put(None)


@server.on("oh_user_action")
async def oh_user_action(sid: str, event: Any = None, *_: Any) -> None:
    if follower := _followers.get(sid):
        await follower.handle_action(event)


@server.on("oh_action")
async def oh_action(sid: str, event: Any = None, *_: Any) -> None:
    """Handle the deprecated name of ``oh_user_action``, which older clients send."""
    await oh_user_action(sid, event)


async def refuse_polling(scope: Json, receive: Receive, send: Send) -> None:
    """Respond to HTTP requests for other transports with an error of Socket.IO. This is an ASGI application.

    Without ``Connection: Upgrade``, a request is not a handshake of a WebSocket, whatever its header ``Upgrade`` says.
    python-engineio 4 reads only the latter, and would treat the request as a socket.
    """
    headers = [pair for pair in scope["headers"] if pair[0] != b"upgrade"]
    await _socketio_app(scope | {"headers": headers}, receive, send)


class SocketIO:
    """ASGI middleware that serves ``/socket.io`` and passes every other socket to the application.

    The Socket.IO client library of the web client adds a slash to the path, so both forms are served.
    """

    def __init__(self, application: Any) -> None:
        self.application = application

    # A plain function: the frame of a coroutine would be kept as long as a socket is open.
    def __call__(self, scope: Json, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["path"].rstrip("/") != PATH:
            result: Awaitable[None] = self.application(scope, receive, send)
            return result
        # A copy, because a client may leave its conversation and join again with the same handshake.
        return _SocketGuard(scope.copy(), receive, send).run()


class _SocketGuard:
    """An ASGI wrapper that closes sockets that are refused, never join, or send what the library cannot read.

    It also closes sockets whose client ends the connection. Close codes: 1000 for the client's own end, 1003 for a
    binary frame, 1008 with a reason for a malformed packet.
    """

    def __init__(self, scope: Json, receive: Receive, send: Send) -> None:
        self.scope, self._receive, self.send_raw = scope, receive, send
        scope["v0.guard"] = self
        # ``connect`` sets one of these when the socket has joined a conversation or was refused.
        self.is_joined = self.is_refused = False
        self.joining: Follower | None = None
        """The follower that starts when the client has received the answer to its connect packet."""
        self._packets = PacketCheck()

    async def run(self) -> None:
        self.deadline = asyncio.get_running_loop().time() + JOIN_SECONDS
        try:
            await _socketio_app(self.scope, self.receive, self.send)
        finally:
            # The library keeps a reference to this object until the next garbage collection.
            del self.scope, self._receive, self.send_raw

    async def send(self, message: Json) -> None:
        """Send a packet of the library. Start the follower after the answer to the client's connect packet.

        Clients drop events that arrive before that answer.
        """
        await self.send_raw(message)
        if self.joining is not None and (message.get("text") or "").startswith(ANSWER):
            follower, self.joining = self.joining, None
            if _followers.get(follower.sid) is follower:
                follower.start()

    async def receive(self) -> Json:
        if self.is_refused:
            return {"type": "websocket.disconnect", "code": 1008}
        if not self.is_joined:
            try:
                async with asyncio.timeout_at(self.deadline):
                    message = await self._receive()
            except TimeoutError:
                return {"type": "websocket.disconnect", "code": 1008}
        else:
            message = await self._receive()
        return await self._checked(message)

    async def _checked(self, message: Json) -> Json:
        """Return a message, or close the socket and return a disconnect if the library must not read its packet.

        V0 clients send no binary frames, and the library would store them without limit.
        """
        if message["type"] != "websocket.receive":
            return message
        if message.get("bytes") is not None:
            return await self._close(1003, "This server reads only text frames.")
        text = message.get("text") or ""
        try:
            self._packets.check(text)
        except BadPacket as error:
            return await self._close(1008, str(error))
        # python-engineio 4 ends the session after this packet, but leaves the socket open for 45 seconds, uncounted.
        if text.startswith(CLOSE):
            return await self._close(1000, "")
        return message

    async def _close(self, code: int, reason: str) -> Json:
        # The library has no way to close a socket with a code. Its own close after this one has no effect.
        with contextlib.suppress(Exception):
            await self.send_raw({"type": "websocket.close", "code": code, "reason": reason})
        return {"type": "websocket.disconnect", "code": code}
