"""V0's Socket.IO endpoint at ``/socket.io``: one socket follows one conversation's log.

V0 is OpenHands' older protocol. Every process reads the log through its hub (``conversations.realtime.hub``) and sends
only to its own sockets, so neither a Redis manager nor Socket.IO rooms are needed. The only transport is WebSocket:
requests of the polling transport would have to reach the process that holds their session, and no load balancer routes
them there (ADR 10). The web client uses only WebSocket.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import socketio
from socketio.exceptions import ConnectionRefusedError as ConnectionRefused

from compat.v0 import commands, handshake, log, states, translation
from compat.v0.packets import CLOSE, BadPacket, PacketCheck
from compat.v0.translation import Entry, Json, Links
from conversations.realtime.access import TooManyStreams, UnpingedStream, Watcher, watching
from conversations.realtime.frames import EventFrame, Frame, ResetFrame, StatusFrame
from conversations.realtime.hub import get_hub
from conversations.realtime.socket import signed_in
from conversations.realtime.subscription import Subscription
from conversations.realtime.threads import run_in_thread
from lib.problems import Problem
from lib.threads import DatabaseThreads

Receive = Callable[[], Awaitable[Json]]
Send = Callable[[Json], Awaitable[None]]
logger = logging.getLogger(__name__)
_commands = DatabaseThreads("socket.io", 4)
"""Threads for the clients' actions. They may wait for row locks, so they do not share threads with the hub's reads."""
PATH: Final = "/socket.io"
MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""The maximum size of a client's message. OpenHands' own server has the same limit."""
JOIN_SECONDS: Final = 20
"""Seconds that a socket may stay open without joining a conversation."""
DRAIN_PAUSE: Final = 0.02
"""Seconds between two checks of the library's send queue."""
RESTORED: Final = "This conversation was restored from a backup. Reload the page to see its events."


class Follower:
    """A socket that follows a conversation, with the position in the log and the last state sent to the client."""

    def __init__(self, sid: str, eio_sid: str, watcher: Watcher, after: int) -> None:
        # ``sid`` is the id of the Socket.IO session, ``eio_sid`` the id of the connection below it (Engine.IO).
        self.sid, self.eio_sid, self.after = sid, eio_sid, after
        self.watcher, self.conversation_id = watcher, watcher.conversation_id
        self.last_sent_id = 0
        self.state = ""
        self.status = ""
        self.title: str | None = None
        # The ``seq`` of the agent's open question, to which an answer of the client refers.
        self.asked_seq: int | None = None
        self.links = Links()
        # While past events are replayed, the last state change, which is sent at the end of the replay.
        self.pending_state: Json | None = None
        self.is_replaying = True
        self.task: asyncio.Task[None] | None = None
        self.disconnecting: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Send the events that the client lacks, then new events, until the socket closes."""
        try:
            # Clients drop events that arrive before the answer to their connect packet. The library has
            # no signal for that answer.
            while not server.manager.is_connected(self.sid, "/"):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            async with watching(self.watcher, UnpingedStream(self._end_access)):
                is_gone = await self._follow()
            # A Socket.IO client does not reconnect after a disconnect, which is right for a deleted conversation.
            await (server.disconnect(self.sid) if is_gone else self._close_transport())
        except asyncio.CancelledError:
            raise
        except TooManyStreams as refusal:
            # A disconnect packet: the client shows the message and does not connect again by itself.
            await self.emit({"error": True, "message": refusal.detail})
            await server.disconnect(self.sid)
        except Exception:
            logger.exception(
                "The feed of a V0 socket failed; the client will reconnect and resume."
            )
            await self._close_transport()

    async def _follow(self) -> bool:
        """Send events until the subscription ends. Return whether the conversation was deleted."""
        after, self.links = await run_in_thread(
            log.find_resume_position, self.conversation_id, self.after
        )
        async with get_hub().subscribe(self.conversation_id, after=after) as subscription:
            async for frame in subscription.frames():
                await self._handle_frame(frame)
                await self._drain(subscription)
            return subscription.feed.is_gone

    def _end_access(self) -> None:
        self.disconnecting = asyncio.create_task(server.disconnect(self.sid))

    async def _close_transport(self) -> None:
        """Close the connection without a disconnect packet, so that the client reconnects and resumes."""
        await _close_connection(self.eio_sid)

    async def _drain(self, subscription: Subscription) -> None:
        """Wait until the library has sent the queued packets.

        The library's queue has no limit. While this method waits, new frames stay in the subscription, which has a
        limit.
        """
        while (socket := server.eio.sockets.get(self.eio_sid)) and not socket.queue.empty():
            if subscription.has_overflowed or socket.closed:
                return
            # One turn of the event loop is usually enough. Pause only if it was not.
            await asyncio.sleep(0)
            if not socket.queue.empty():
                await asyncio.sleep(DRAIN_PAUSE)

    # --- Frames of the hub ---

    async def _handle_frame(self, frame: Frame) -> None:
        if isinstance(frame, EventFrame):
            await self._send_event(Entry.of_event(frame.event))
        elif isinstance(frame, StatusFrame) and frame.record is not None:
            await self._send_record_changes(frame.record)
        elif isinstance(frame, ResetFrame):
            await self.emit({"error": True, "message": RESTORED})

    async def _send_event(self, entry: Entry) -> None:
        if log.needs_lookup(entry, self.links):
            await run_in_thread(log.load_links, self.conversation_id, [entry], self.links)
        event = translation.translate_event(entry, self.links)
        if event is None or translation.is_null(event):
            return
        if not translation.is_state_change(event):
            await self.emit(event)
        elif self.is_replaying:
            self.pending_state = event  # of the past states, V0 clients receive only the last
        else:
            await self._send_state(event)

    async def _send_state(self, event: Json) -> None:
        self.state = event["extras"]["agent_state"]
        # A client resumes from the last id it received. A state that is sent after later events must not
        # carry its id, or the client would receive those events again.
        if event["id"] < self.last_sent_id:
            event = translation.build_state_frame(self.state, reason=event["extras"]["reason"])
        await self.emit(event)

    async def _send_record_changes(self, record: Json) -> None:
        """Send the changes that are not in the log: the sandbox's state and the title."""
        # The hub sends the first record after the stored events, so the replay is over.
        self.is_replaying = False
        self.asked_seq = record["asked_seq"]
        if self.pending_state is not None:
            pending, self.pending_state = self.pending_state, None
            await self._send_state(pending)
        state = states.map_agent_state(record)
        if state != self.state:
            self.state = state
            await self.emit(translation.build_state_frame(state, reason=record["status_detail"]))
        if self.title not in (None, record["title"]):
            # In this status update ``message`` is the conversation's id. The web client loads the conversation again.
            update = {"message": self.conversation_id.hex, "conversation_title": record["title"]}
            await self.emit({"status_update": True, "type": "info"} | update)
        self.title = record["title"]
        status = states.map_runtime_status(record)
        if status not in (self.status, "STATUS$READY"):
            kind = "error" if status == "STATUS$ERROR" else "info"
            update = {"id": status, "message": record["status_detail"]}
            await self.emit({"status_update": True, "type": kind} | update)
        self.status = status

    async def emit(self, event: Json) -> None:
        """Send an ``oh_event``, the only event name that V0 servers send."""
        await server.emit("oh_event", event, to=self.sid)
        if isinstance(seq := event.get("id"), int):
            self.last_sent_id = max(self.last_sent_id, seq)

    # --- Actions of the client ---

    async def handle_action(self, event: Any) -> None:
        """Execute an action that the client sent. If the action is refused or fails, send the error to this client."""
        try:
            await _commands.run(self._execute, event)
        except Problem as refusal:
            await self.emit({"error": True, "message": refusal.detail})
        except Exception:
            logger.exception("An action of a V0 client failed.")
            message = "The server could not execute this action because of an error. Try again."
            await self.emit({"error": True, "message": message})

    def _execute(self, event: Any) -> None:
        with self.watcher.authorized_command(commands.find_permission(event)) as user:
            commands.execute(
                conversation_id=self.conversation_id,
                event=event,
                asked_seq=self.asked_seq,
                by=user,
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
    try:
        watcher = await run_in_thread(handshake.admit, scope)
        after = handshake.parse_cursor(scope)
    except ConnectionRefused:
        scope["v0.refused"].set()
        raise
    except Exception as error:
        logger.exception("A V0 socket could not join its conversation.")
        scope["v0.refused"].set()
        # The text of OpenHands' own server.
        message = f"Failed to access conversation events: {type(error).__name__}"
        raise ConnectionRefused(message) from error
    scope["v0.joined"].set()
    signed_in(scope)
    eio_sid = server.manager.eio_sid_from_sid(sid, "/")
    follower = _followers[sid] = Follower(sid, eio_sid, watcher, after)
    follower.task = asyncio.create_task(follower.run())


@server.event
async def disconnect(sid: str, reason: Any = None) -> None:
    # The follower's own task may have called ``server.disconnect``. That task must not cancel itself.
    follower = _followers.pop(sid, None)
    if follower is None:
        return
    if follower.task and follower.task is not asyncio.current_task():
        follower.task.cancel()
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
    connection = server.eio.sockets.get(eio_sid)
    if connection is not None:
        await server.eio.disconnect(eio_sid)
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

    async def __call__(self, scope: Json, receive: Receive, send: Send) -> None:
        if scope["path"].rstrip("/") != PATH:
            await self.application(scope, receive, send)
            return
        # ``connect`` sets one of these events when the socket has joined a conversation or was refused.
        signals = {"v0.joined": asyncio.Event(), "v0.refused": asyncio.Event()}
        await _HandshakeGuard(scope | signals, receive, send).run()


class _HandshakeGuard:
    """An ASGI wrapper that closes sockets that are refused, never join, or send what the library cannot read.

    It also closes sockets whose client ends the connection. Close codes: 1000 for the client's own end, 1003 for a
    binary frame, 1008 with a reason for a malformed packet.
    """

    def __init__(self, scope: Json, receive: Receive, send: Send) -> None:
        self.scope, self._receive, self._send = scope, receive, send
        self._packets = PacketCheck()

    async def run(self) -> None:
        self.deadline = asyncio.get_running_loop().time() + JOIN_SECONDS
        await _socketio_app(self.scope, self.receive, self._send)

    async def receive(self) -> Json:
        if self.scope["v0.refused"].is_set():
            return {"type": "websocket.disconnect", "code": 1008}
        if not self.scope["v0.joined"].is_set():
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
            await self._send({"type": "websocket.close", "code": code, "reason": reason})
        return {"type": "websocket.disconnect", "code": code}
