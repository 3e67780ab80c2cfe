"""V0's Socket.IO at ``/socket.io``: one socket follows one conversation, by reading our log through the hub.

There is no Redis manager and no room: each process delivers to its own sockets what it reads itself, so nothing
is ever passed on between processes. For the same reason the only transport is WebSocket, whose requests cannot
end up in different processes (docs/adr/0024).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import socketio
from socketio.exceptions import ConnectionRefusedError as ConnectionRefused

from compat.v0 import callers, commands, log, states, translate
from compat.v0.translate import Entry, Json, Links
from conversations.realtime.access import UnpingedStream, Watcher, watching
from conversations.realtime.frames import EventFrame, Frame, ResetFrame, StatusFrame
from conversations.realtime.hub import get_hub
from conversations.realtime.subscription import Subscription
from conversations.realtime.threads import run_in_thread
from lib.problems import Problem
from lib.threads import DatabaseThreads

Receive = Callable[[], Awaitable[Json]]
Send = Callable[[Json], Awaitable[None]]
logger = logging.getLogger(__name__)
_commands = DatabaseThreads("socket.io", 4)
"""Commands write and may wait for a lock, so they have threads of their own, apart from the hub's reads."""
PATH: Final = "/socket.io"
MESSAGE_BYTES: Final = 4 * 1024 * 1024
JOIN_SECONDS: Final = 20
"""How long a socket may stay open without having joined a conversation."""
DRAIN_PAUSE: Final = 0.02
RESTORED: Final = "The history of this conversation was restored from a copy. Reload the page."
CURSOR_DIGITS: Final = 18


class Follower:
    """One socket: its conversation, what it was sent last, and what it knows of earlier events."""

    def __init__(self, sid: str, eio_sid: str, watcher: Watcher, after: int) -> None:
        self.sid, self.eio_sid, self.after = sid, eio_sid, after
        self.watcher, self.conversation_id = watcher, watcher.conversation_id
        self.sent = 0
        self.state = ""
        self.status = ""
        self.title: str | None = None
        self.asked_seq: int | None = None
        self.links = Links()
        self.held: Json | None = None
        self.is_replaying = True
        self.task: asyncio.Task[None] | None = None
        self.leaving: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Replay what the client lacks, then follow; ends with the socket."""
        try:
            while not server.manager.is_connected(self.sid, "/"):  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.005)  # the client must hear of its connection first
            async with watching(self.watcher, UnpingedStream(self._refused)):
                is_gone = await self._follow()
            await (server.disconnect(self.sid) if is_gone else self._hang_up())
        except asyncio.CancelledError:
            raise
        except Exception:
            logger.exception("a V0 socket's feed failed; the client resumes")
            await self._hang_up()

    async def _follow(self) -> bool:
        """Send the log from the client's place on until the subscription ends; whether the conversation is gone."""
        after, self.links = await run_in_thread(log.place_at, self.conversation_id, self.after)
        async with get_hub().subscribe(self.conversation_id, after=after) as subscription:
            async for frame in subscription.frames():
                await self._take(frame)
                await self._drain(subscription)
            return subscription.feed.is_gone

    def _refused(self) -> None:
        self.leaving = asyncio.create_task(server.disconnect(self.sid))

    async def _hang_up(self) -> None:
        """Close the transport: unlike a refusal, the client comes back by itself and resumes."""
        await server.eio.disconnect(self.eio_sid)

    async def _drain(self, subscription: Subscription) -> None:
        """Wait until what was sent is on its way: the library's own queue has no bound."""
        while (socket := server.eio.sockets.get(self.eio_sid)) and not socket.queue.empty():
            if subscription.has_overflowed or socket.closed:
                return
            await asyncio.sleep(0)
            if not socket.queue.empty():
                await asyncio.sleep(DRAIN_PAUSE)

    # --- From the log ---

    async def _take(self, frame: Frame) -> None:
        if isinstance(frame, EventFrame):
            await self._tell(Entry.of_event(frame.event))
        elif isinstance(frame, StatusFrame) and frame.record is not None:
            await self._tell_record(frame.record)
        elif isinstance(frame, ResetFrame):
            await self.emit({"error": True, "message": RESTORED})

    async def _tell(self, entry: Entry) -> None:
        if log.must_look_up(entry, self.links):
            await run_in_thread(log.prepare, self.conversation_id, [entry], self.links)
        event = translate.translate(entry, self.links)
        if event is None or translate.is_null(event):
            return
        if not translate.is_state(event):
            await self.emit(event)
        elif self.is_replaying:
            self.held = event  # of all states of the past, only the last is news
        else:
            await self._tell_state(event)

    async def _tell_state(self, event: Json) -> None:
        self.state = event["extras"]["agent_state"]
        if (
            event["id"] < self.sent
        ):  # told behind later events: with its id, the client would resume too early
            event = translate.state_frame(self.state, reason=event["extras"]["reason"])
        await self.emit(event)

    async def _tell_record(self, record: Json) -> None:
        """What is not in the log: the state of the place, and the title."""
        self.is_replaying = False
        self.asked_seq = record["asked_seq"]
        if self.held is not None:
            held, self.held = self.held, None
            await self._tell_state(held)
        state = states.agent_state(record)
        if state != self.state:
            self.state = state
            await self.emit(translate.state_frame(state, reason=record["status_detail"]))
        if self.title not in (None, record["title"]):
            titled = {"message": self.conversation_id.hex, "conversation_title": record["title"]}
            await self.emit({"status_update": True, "type": "info"} | titled)
        self.title = record["title"]
        status = states.runtime_status(record)
        if status not in (self.status, "STATUS$READY"):
            kind = "error" if status == "STATUS$ERROR" else "info"
            told = {"id": status, "message": record["status_detail"]}
            await self.emit({"status_update": True, "type": kind} | told)
        self.status = status

    async def emit(self, event: Json) -> None:
        """One ``oh_event``."""
        await server.emit("oh_event", event, to=self.sid)
        if isinstance(seq := event.get("id"), int):
            self.sent = max(self.sent, seq)

    # --- From the client ---

    async def act(self, event: Any) -> None:
        """Carry out what the client sent; a refusal is told to it and to nobody else."""
        try:
            await _commands.run(self._carry_out, event)
        except Problem as refusal:
            await self.emit({"error": True, "message": refusal.detail})
        except Exception:
            logger.exception("an action of a V0 client failed")
            sentence = "The server could not carry this out. Try again."
            await self.emit({"error": True, "message": sentence})

    def _carry_out(self, event: Any) -> None:
        with self.watcher.authorized_command():
            commands.carry_out(
                conversation_id=self.conversation_id, event=event, asked_seq=self.asked_seq
            )


def cursor_of(scope: Json) -> int:
    """The seq behind which the client wants to be told; 0 for -1 and for what is no number."""
    value = callers.query_of(scope).get("latest_event_id", "")
    is_number = value.isascii() and value.isdigit() and len(value) <= CURSOR_DIGITS
    return int(value) if is_number else 0


# --- The server -------------------------------------------------------------------

server = socketio.AsyncServer(
    async_mode="asgi",
    transports=["websocket"],
    cors_allowed_origins=[],  # the origin is checked before, exactly (openhands_site.serving.origins)
    async_handlers=False,  # or a client's actions overtake one another
    max_http_buffer_size=MESSAGE_BYTES,
    serializer="default",
    monitor_clients=True,
)
_engine = socketio.ASGIApp(server, socketio_path=PATH)
_followers: dict[str, Follower] = {}


@server.event
async def connect(sid: str, environ: Json, auth: Any = None) -> None:
    """Let somebody in who may watch; what they lack follows as soon as they know that they are in."""
    if sid in _followers:  # the library takes a client's own event of that name for a connection
        return
    scope = environ["asgi.scope"]
    try:
        watcher = await run_in_thread(callers.admit, scope)
    except ConnectionRefused:
        scope["v0.refused"].set()
        raise
    except Exception as error:
        logger.exception("a V0 socket could not join")
        scope["v0.refused"].set()
        sentence = f"Failed to access conversation events: {type(error).__name__}"
        raise ConnectionRefused(sentence) from error
    scope["v0.joined"].set()
    eio_sid = server.manager.eio_sid_from_sid(sid, "/")
    follower = _followers[sid] = Follower(sid, eio_sid, watcher, cursor_of(scope))
    follower.task = asyncio.create_task(follower.run())


@server.event
async def disconnect(sid: str, reason: Any = None) -> None:
    follower = _followers.pop(sid, None)
    if follower and follower.task and follower.task is not asyncio.current_task():
        follower.task.cancel()


@server.on("oh_user_action")
async def oh_user_action(sid: str, event: Any = None, *_: Any) -> None:
    if follower := _followers.get(sid):
        await follower.act(event)


@server.on("oh_action")
async def oh_action(sid: str, event: Any = None, *_: Any) -> None:
    """The older name of the same."""
    await oh_user_action(sid, event)


async def polling(scope: Json, receive: Receive, send: Send) -> None:
    """ASGI: tells who asks for another transport than WebSocket that there is none."""
    await _engine(scope, receive, send)


class SocketIO:
    """ASGI: answers ``/socket.io``, with and without a slash at its end, and hands on every other socket."""

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(self, scope: Json, receive: Receive, send: Send) -> None:
        if scope["path"].rstrip("/") != PATH:
            await self.application(scope, receive, send)
            return
        marks = {"v0.joined": asyncio.Event(), "v0.refused": asyncio.Event()}
        await _Handshake(scope | marks, receive, send).run()


class _Handshake:
    """Ends sockets that were refused, or that say nothing: the library leaves both open."""

    def __init__(self, scope: Json, receive: Receive, send: Send) -> None:
        self.scope, self._receive, self._send = scope, receive, send

    async def run(self) -> None:
        self.until = asyncio.get_running_loop().time() + JOIN_SECONDS
        await _engine(self.scope, self.receive, self._send)

    async def receive(self) -> Json:
        if self.scope["v0.refused"].is_set():
            return {"type": "websocket.disconnect", "code": 1008}
        if not self.scope["v0.joined"].is_set():
            try:
                async with asyncio.timeout_at(self.until):
                    return self._text_only(await self._receive())
            except TimeoutError:
                return {"type": "websocket.disconnect", "code": 1008}
        return self._text_only(await self._receive())

    @staticmethod
    def _text_only(message: Json) -> Json:
        """No client of V0 sends binary frames, which the library would collect without a bound."""
        is_binary = message["type"] == "websocket.receive" and message.get("bytes") is not None
        return {"type": "websocket.disconnect", "code": 1003} if is_binary else message
