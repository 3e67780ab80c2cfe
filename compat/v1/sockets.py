"""``/sockets/events/{id}``: the WebSocket on which V1 clients follow a conversation and send messages.

V1 is OpenHands' newer protocol. Events come from the hub (``conversations.realtime.hub``), which reads each
conversation's log once for all sockets of a process and passes it on as frames.
"""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.db.models.functions import Coalesce

from accounts.permissions import MissingPermission
from compat.v1 import encoding, resuming, serializers, translation
from compat.v1.encoding import PROTOCOL, EventForm, State, V1Encoder
from compat.v1.transport import Receive, Scope, Send, Transport
from conversations import services
from conversations.api.authentication import HEADER
from conversations.models import Event
from conversations.realtime import access, watching
from conversations.realtime.frames import DeltaFrame, EventFrame, Frame, ResetFrame, StatusFrame
from conversations.realtime.hub import get_hub
from conversations.realtime.socket import signed_in
from conversations.realtime.subscription import Subscription
from conversations.realtime.threads import run_in_thread
from lib import framing
from lib.api import strict_loads
from lib.problems import Problem

log = logging.getLogger(__name__)
AUTH_SECONDS = 10
"""Seconds in which the first frame must arrive. The engine's own socket has the same limit."""
CLOSE_UNAUTHENTICATED = 4001
CLOSE_UNKNOWN = 4004
CLOSE_BAD_REQUEST = 1008
CLOSE_OVERFLOW = 1013
CLOSE_RESTART = 1012
CLOSE_TOO_MANY = 4029
# The codes are those of the engine's own socket. A conversation that the caller may not see counts as unknown.
CLOSE_CODES = {
    access.Refusal.UNAUTHENTICATED: CLOSE_UNAUTHENTICATED,
    access.Refusal.NOT_PERMITTED: CLOSE_UNKNOWN,
    access.Refusal.NOT_VISIBLE: CLOSE_UNKNOWN,
}
TOO_FAST = "You sent too many messages. Wait a moment, then send this message again."
NO_VIEW = "You no longer have access to this conversation."
NO_STEERING = "You need the permission conversations.steer to send messages, and the creator must let others steer."
INBOX_MAX = 1_000
"""The maximum number of a socket's waiting messages. Their maximum length together is ``BODY_MAX_BYTES`` characters."""


class BadFrame(Problem):
    """The client's frame is not a valid message."""

    code = "bad-frame"
    sentence = 'This frame is not a message. Send {"role": "user", "content": [{"type": "text", "text": …}]}.'


class V1EventsConsumer(Transport):
    """A WebSocket that sends a conversation's state, then its log as V1 events, and accepts messages for the agent.

    Credentials, in the order in which they are used:

    - a key in the header ``X-Session-API-Key`` or ``Authorization``, or in the parameter ``session_api_key``;
    - the session cookie, if the request has an ``Origin`` header;
    - a first frame ``{"type": "auth", "session_api_key": …}`` within ten seconds.

    With ``resend_all=true`` or ``resend_mode=all``, the log is sent from its start. With ``resend_mode=since``, events
    since ``after_timestamp`` are sent. Otherwise only new events are sent. A parameter that is not valid is answered
    with a ``ServerErrorEvent``, and the socket is closed.

    Close codes: 1008 if a parameter is not valid, 4001 if the caller is not (or no longer) authenticated, 4004 if the
    conversation is unknown to the caller, 4029 if the user has too many open sockets and streams, 1013 if the client
    is too slow, and 1012 if the log was restored from a backup and the client must reconnect.
    """

    permission = access.VIEW

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(scope, receive, send)
        self.tasks: set[asyncio.Task[None]] = set()
        self.conversation_id = _parse_id(self.scope["url_route"]["kwargs"]["conversation_id"])
        query = self.scope.get("query_string", b"").decode("utf-8", "replace")
        self.query = resuming.parse_query(query)
        # ``signed_in`` clears the scope.
        self.supports_ready_frames = framing.READY in self.scope.get("extensions", ())
        self.resending = resuming.Resending()
        self.subscription: Subscription | None = None
        self.sent_status = ""
        # The confirmation policy and the analyzer that the client knows, in the engine's format.
        self.sent_safety: dict[str, Any] = {}
        self.start_seq = 0
        # Whether the client has received the first record, after the backlog.
        self.is_live = False
        self.must_restart = False
        self.is_open = False
        self.is_processing = False
        self.inbox: asyncio.Queue[str] = asyncio.Queue(INBOX_MAX)
        self.inbox_size = 0
        self.watcher: access.Watcher | None = None

    async def connect(self) -> None:
        # Accept first: only an open socket has close codes. A refused handshake is an HTTP 403 without a reason.
        await self.accept()
        refusal = await self._admit(self._tokens())
        if refusal is access.Refusal.UNAUTHENTICATED and self._may_authenticate_later():
            self._spawn(self._await_auth())
        elif refusal:
            await self.close(CLOSE_CODES[refusal])

    async def _admit(self, tokens: Sequence[str]) -> access.Refusal | None:
        """Start to send and receive frames if the caller may watch this conversation, else return the refusal."""
        credentials = self._credentials(tokens)
        self.watcher = access.Watcher(credentials, self.conversation_id, self.permission)
        if refusal := await self.watcher.check_access():
            return refusal
        try:
            self.resending = resuming.parse_resending(self.query)
        except Problem as problem:
            # A close code alone does not say which parameter is wrong.
            await self.send_text(translation.encode_error(problem.code, problem.detail))
            await self.close(CLOSE_BAD_REQUEST, problem.detail[:123])
            return None
        signed_in(self.scope)
        try:
            watching.start_watching(self.watcher, watching.UnpingedStream(self._lose_access))
        except watching.TooManyStreams as problem:
            await self.send_text(translation.encode_error(problem.code, problem.detail))
            await self.close(CLOSE_TOO_MANY, problem.detail[:123])
            return None
        self.is_open = True
        self._spawn(self._open_stream())
        self._process_soon()
        return None

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._has_ended)

    def _has_ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        # An OSError means that the client has left.
        if error is not None and not isinstance(error, OSError):
            log.error("A task of a V1 socket failed.", exc_info=error)

    async def disconnect(self) -> None:
        for task in list(self.tasks):
            task.cancel()
        if self.watcher is not None:
            watching.stop_watching(self.watcher)
        if self.subscription is not None:
            await get_hub().leave(self.subscription)

    # --- Credentials ---------------------------------------------------------------------

    def _may_authenticate_later(self) -> bool:
        """Return whether the handshake had no credentials, so that the first frame may contain them."""
        return not self._tokens() and not (self._header("cookie") and self._header("origin"))

    def _header(self, name: str) -> str:
        key = name.lower().encode()
        values = [value for other, value in self.scope["headers"] if other == key]
        return values[-1].decode("latin-1") if values else ""

    def _tokens(self) -> list[str]:
        scheme, _, bearer = self._header("authorization").partition(" ")
        tokens = [
            self._header(HEADER),
            self.query.get("session_api_key", ""),
            bearer if scheme.lower() == "bearer" else "",
        ]
        # Clients that have no key put JavaScript's null or undefined into the query as text.
        return [token.strip() for token in tokens if token.strip() not in ("", "null", "undefined")]

    def _credentials(self, tokens: Sequence[str]) -> access.Credentials:
        # The cookie counts only together with an Origin, which OriginCheck has compared with ours: then the
        # request comes from a page of this server.
        keeps_headers = any(map(self._header, ("origin", "authorization", "x-api-key")))
        scope = self.scope if keeps_headers else self.scope | {"headers": []}
        return access.Credentials.from_scope(scope, keys=tokens)

    async def _await_auth(self) -> None:
        """Wait for the first frame. Close the socket if it does not arrive or its key is not valid."""
        try:
            async with asyncio.timeout(AUTH_SECONDS):
                text = await self._next_message()
        except TimeoutError:
            await self.close(CLOSE_UNAUTHENTICATED)
            return
        frame = _parse_object(text)
        token = frame.get("session_api_key") if frame and frame.get("type") == "auth" else None
        refusal = await self._admit([token.strip()] if isinstance(token, str) else [])
        if refusal:
            await self.close(CLOSE_CODES[refusal])

    def _lose_access(self) -> None:
        if self.subscription is None:
            self._spawn(self._end(self._close_code()))
        else:
            self.subscription.revoke()

    def _close_code(self) -> int:
        """Return the close code for the end of the subscription."""
        if self.watcher is not None and self.watcher.refusal is not None:
            return CLOSE_CODES[self.watcher.refusal]
        if self.must_restart:
            return CLOSE_RESTART
        is_gone = self.subscription is not None and self.subscription.feed.is_gone
        return CLOSE_UNKNOWN if is_gone else CLOSE_OVERFLOW

    async def _end(self, code: int) -> None:
        self.is_open = False
        if self.subscription is not None:
            self.subscription.close()
        # This may run in one of the tasks, which must not be cancelled before it has closed the socket.
        current = asyncio.current_task()
        for task in list(self.tasks):
            if task is not current:
                task.cancel()
        await self.close(code)

    # --- To the client ---------------------------------------------------------------------

    async def _open_stream(self) -> None:
        """Send the state and the backlog. From then on the feed sends, and an idle socket needs no task of its own."""
        try:
            state = await encoding.load_state(self.conversation_id)
            self.sent_status, self.start_seq = state.status, state.last_seq
            self.sent_safety = {name: state.fields[name] for name in encoding.SAFETY}
            self.subscription = await get_hub().join(
                self.conversation_id,
                after=await self._resume_position(state),
                encoder=V1Encoder,
            )
            # The web client disables its input until it has received a state.
            await self._send_messages([state.message])
            if self.watcher is not None and self.watcher.refusal is not None:
                self.subscription.revoke()
            await self.subscription.go_live(self._push, self._handle_over)
        except asyncio.CancelledError:
            raise
        except OSError:
            return  # the client has disconnected
        except Exception:
            log.exception("The feed of a V1 socket failed; the client will reconnect.")
            await self._end(CLOSE_OVERFLOW)

    async def _resume_position(self, state: State) -> int:
        """Return the ``seq`` after which to send events."""
        # The web client of 2025 sends ``resend_all=true`` with every connection, also after a reconnect.
        if self.resending.is_all:
            return state.pruned_seq
        if (since := self.resending.since) is None:
            return state.last_seq
        first = await run_in_thread(_find_first_since, self.conversation_id, since)
        return state.last_seq if first is None else max(first - 1, state.pruned_seq)

    def _handle_over(self) -> None:
        self._spawn(self._end(self._close_code()))

    def _push(self, frames: Sequence[Frame]) -> Coroutine[Any, Any, None]:
        messages: list[bytes] = []
        for frame in frames:
            if not isinstance(frame, EventFrame | DeltaFrame):
                # Changes of the record and the log. The first record may need the database.
                return self._push_all(frames)
            if isinstance(frame, DeltaFrame):
                self._add_delta(messages, frame)
                continue
            form: EventForm | None = frame.cached_form(PROTOCOL)
            if form is None or (self._must_send_state(frame, form) and not form.full_state):
                return self._push_all(frames)
            self._add_event(messages, frame, form)
        return self._send_messages(messages)

    async def _push_all(self, frames: Sequence[Frame]) -> None:
        """Send frames of any kind, also those whose forms were dropped while they waited for this socket."""
        assert self.subscription is not None
        assert self.subscription.encoder is not None
        await self.subscription.encoder.encode_page(frames)
        messages: list[bytes] = []
        for frame in frames:
            if isinstance(frame, EventFrame):
                form: EventForm = frame.cached_form(PROTOCOL)
                self._add_event(messages, frame, form)
                if self._must_send_state(frame, form) and not form.full_state:
                    state = await encoding.load_state(self.conversation_id)
                    messages.append(encoding.encode_full_state(state, form.status))
            elif isinstance(frame, DeltaFrame):
                self._add_delta(messages, frame)
            elif isinstance(frame, StatusFrame) and frame.record is not None:
                messages += await self._encode_record(frame, frame.record)
            elif isinstance(frame, ResetFrame):
                self.must_restart = True
                self.subscription.revoke()
                break
        await self._send_messages(messages)

    def _add_event(self, messages: list[bytes], frame: EventFrame, form: EventForm) -> None:
        if form.message:
            messages.append(form.message)
        self.sent_status = form.status or self.sent_status
        if form.full_state and self._must_send_state(frame, form):
            messages.append(form.full_state)

    def _must_send_state(self, frame: EventFrame, form: EventForm) -> bool:
        """Return whether the full state follows an event: the event ends a run, as on the engine's own socket."""
        # Events up to ``start_seq`` are sent again from the log. The runs that they ended are long over.
        return form.status in translation.ENDED_STATES and frame.event.seq > self.start_seq

    def _add_delta(self, messages: list[bytes], frame: DeltaFrame) -> None:
        # A client with ``resend_all``, such as the web client, counts every frame as part of the history and does not
        # show deltas, so it receives none.
        if "resend_all" not in self.query and (message := encoding.encode_delta(frame)):
            messages.append(message)

    async def _encode_record(self, frame: StatusFrame, record: dict[str, Any]) -> list[bytes]:
        """Return the messages for the changes of the record that no event reported."""
        messages: list[bytes] | None = frame.cached_form(PROTOCOL) if self.is_live else None
        if messages is None:
            messages = await encoding.encode_record_changes(
                record, status=self.sent_status, safety=self.sent_safety
            )
        self.is_live = True
        self.sent_status = record["execution_status"]
        self.sent_safety = encoding.build_safety(record)
        return messages

    async def _send_messages(self, messages: Sequence[bytes]) -> None:
        if not messages:
            return
        if self.supports_ready_frames:
            await self.base_send({"type": framing.READY, "frames": messages})
            return
        for message in messages:
            await self.send_text(framing.decode_frame(message).decode())

    # --- From the client ----------------------------------------------------------------------

    async def receive_text(self, text: str) -> None:
        """Queue a frame. Close the socket if too many frames, or too much text, are queued."""
        self.inbox_size += len(text)
        if self.inbox_size > settings.BODY_MAX_BYTES or self.inbox.full():
            await self._end(CLOSE_OVERFLOW)
        else:
            self.inbox.put_nowait(text)
            self._process_soon()

    def _process_soon(self) -> None:
        """Start a task for the client's messages, unless there is none to process or a task runs already."""
        if self.is_open and not self.is_processing and not self.inbox.empty():
            self.is_processing = True
            self._spawn(self._process_inbox())

    async def _next_message(self) -> str:
        text = await self.inbox.get()
        self.inbox_size -= len(text)
        return text

    async def _process_inbox(self) -> None:
        """Post the client's messages in the order of arrival, and report errors to the client as events."""
        while True:
            if self.inbox.empty():
                self.is_processing = False
                return
            text = await self._next_message()
            frame = _parse_object(text)
            # Clients that authenticated in the handshake may still send the frame for it.
            if frame is not None and frame.get("type") == "auth":
                continue
            try:
                await run_in_thread(self._post, frame)
            except access.TooManyCommands as refusal:
                await self.send_text(translation.encode_error(refusal.code, TOO_FAST))
            except Problem as refusal:
                await self.send_text(translation.encode_error(refusal.code, refusal.detail))
            except Exception:
                log.exception("A message of a V1 socket could not be posted.")
                detail = (
                    "The server could not post this message because of an error. Send it again."
                )
                await self.send_text(translation.encode_error("not-taken", detail))

    def _post(self, frame: dict[str, Any] | None) -> None:
        """Post the message in a frame. It does not answer the agent's open question; that needs a REST request."""
        message = serializers.V1MessageSerializer(data=frame if frame is not None else {})
        if frame is None or not message.is_valid():
            raise BadFrame
        assert self.watcher is not None
        try:
            with self.watcher.authorized_command() as user:
                text, images = serializers.split_message(message.validated_data)
                services.post_message(
                    conversation_id=self.conversation_id,
                    text=text,
                    images=images,
                    message_id=str(uuid4()),
                    by=user,
                )
        except access.MayNotSteer as error:
            is_visible = error.extra["refusal"] is access.Refusal.NOT_PERMITTED
            raise MissingPermission(NO_STEERING if is_visible else NO_VIEW) from error


def _parse_id(text: str) -> UUID:
    """Return the UUID in a text. Return the nil UUID, which no conversation has, if the text is malformed."""
    try:
        return UUID(text)
    except ValueError:
        return UUID(int=0)


def _find_first_since(conversation_id: UUID, since: datetime) -> int | None:
    """Return the ``seq`` of the first event at or after a time, or None if there is none."""
    events = Event.objects.filter(conversation=conversation_id).annotate(
        at=Coalesce("engine_time", "received_at")
    )
    return events.filter(at__gte=since).order_by("seq").values_list("seq", flat=True).first()


def _parse_object(text: str) -> dict[str, Any] | None:
    """Return the JSON object in a frame, or None if the frame contains no object or is too large."""
    if len(text) > settings.BODY_MAX_BYTES:
        return None
    try:
        value = strict_loads(text.encode(), max_depth=settings.JSON_MAX_DEPTH)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
