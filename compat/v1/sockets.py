"""``/sockets/events/{id}``: the WebSocket on which V1 clients follow a conversation and send messages.

V1 is OpenHands' newer protocol. Events come from the hub (``conversations.realtime.hub``), which reads each
conversation's log once for all sockets of a process and passes it on as frames.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.db.models.functions import Coalesce

from accounts.permissions import MissingPermission
from billing import services as billing
from compat.v1 import responses, resuming, serializers, translation
from conversations import services
from conversations.api.authentication import HEADER
from conversations.engine.payloads import build_analyzer, build_policy
from conversations.models import Conversation, Event, LoggedEvent
from conversations.realtime import access
from conversations.realtime.frames import DeltaFrame, EventFrame, Frame, StatusFrame
from conversations.realtime.hub import get_hub
from conversations.realtime.socket import signed_in
from conversations.realtime.threads import run_in_thread
from lib.api import strict_loads
from lib.problems import Problem

log = logging.getLogger(__name__)
PROTOCOL = "V1"
"""The key under which a frame of the hub caches its V1 form for the other sockets."""
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
SAFETY = {"confirmation_policy": build_policy, "security_analyzer": build_analyzer}
"""The fields of the state that say when the agent asks, each with the function that builds the engine's format."""
TOO_FAST = "You sent too many messages. Wait a moment, then send this message again."
NO_VIEW = "You no longer have access to this conversation."
NO_STEERING = "You need the permission conversations.steer to send messages, and the creator must let others steer."
INBOX_MAX = 1_000
"""The maximum number of a socket's waiting messages. Their maximum length together is ``BODY_MAX_BYTES`` characters."""


class BadFrame(Problem):
    """The client's frame is not a valid message."""

    code = "bad-frame"
    sentence = 'This frame is not a message. Send {"role": "user", "content": [{"type": "text", "text": …}]}.'


class V1EventsConsumer(AsyncWebsocketConsumer):
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

    channel_layer_alias = ""  # unused: the hub subscribes once for all sockets
    permission = access.VIEW

    async def connect(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []
        self.conversation_id = _parse_id(self.scope["url_route"]["kwargs"]["conversation_id"])
        query = self.scope.get("query_string", b"").decode("utf-8", "replace")
        self.query = resuming.parse_query(query)
        self.resending = resuming.Resending()
        self.sent_status = ""
        # The confirmation policy and the analyzer that the client knows, in the engine's format.
        self.sent_safety: dict[str, Any] = {}
        self.start_seq = 0
        self.is_open = False
        self.inbox: asyncio.Queue[str] = asyncio.Queue(INBOX_MAX)
        self.inbox_size = 0
        self.watcher: access.Watcher | None = None
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
            await self.send(text_data=translation.encode_error(problem.code, problem.detail))
            await self.close(CLOSE_BAD_REQUEST, problem.detail[:123])
            return None
        signed_in(self.scope)
        try:
            access.start_watching(self.watcher, access.UnpingedStream(self._end_access))
        except access.TooManyStreams as problem:
            await self.send(text_data=translation.encode_error(problem.code, problem.detail))
            await self.close(CLOSE_TOO_MANY, problem.detail[:123])
            return None
        self.is_open = True
        self._spawn(self._send_frames())
        self._spawn(self._process_inbox())
        return None

    def _spawn(self, work: Any) -> None:
        self.tasks.append(asyncio.create_task(work))

    async def disconnect(self, code: int) -> None:
        for task in self.tasks:
            task.cancel()
        if self.watcher is not None:
            await access.stop_watching(self.watcher)

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

    def _end_access(self) -> None:
        assert self.watcher is not None
        assert self.watcher.refusal is not None
        self._spawn(self._end(CLOSE_CODES[self.watcher.refusal]))

    async def _end(self, code: int) -> None:
        self.is_open = False
        # This may run in one of the tasks, which must not be cancelled before it has closed the socket.
        current = asyncio.current_task()
        for task in self.tasks:
            if task is not current:
                task.cancel()
        await self.close(code)

    # --- To the client ---------------------------------------------------------------------

    async def _send_frames(self) -> None:
        # If the loop below ends without another reason, the subscription has overflowed: the client is too slow.
        code = CLOSE_OVERFLOW
        try:
            state, after, self.sent_status, self.start_seq = await run_in_thread(self._load_state)
            self.sent_safety = {name: state[name] for name in SAFETY}
            async with get_hub().subscribe(self.conversation_id, after=after) as subscription:
                # The web client disables its input until it has received a state.
                await self.send(text_data=translation.encode_state("full_state", state))
                async for frame in subscription.frames():
                    if frame.reset_to is not None:
                        code = CLOSE_RESTART
                        break
                    for text in await self._encode_frame(frame):
                        await self.send(text_data=text)
                if subscription.feed.is_gone:
                    code = CLOSE_UNKNOWN
        except asyncio.CancelledError:
            raise
        except OSError:
            return  # the client has disconnected
        except Exception:
            log.exception("The feed of a V1 socket failed; the client will reconnect.")
        await self._end(code)

    def _load_state(self) -> tuple[dict[str, Any], int, str, int]:
        """Return the conversation's state, the ``seq`` after which to send events, the status, and the last ``seq``."""
        row = Conversation.objects.select_related("sandbox").get(pk=self.conversation_id)
        usage = billing.get_usage([row.pk]).get(row.pk)
        has_open_messages = bool(responses.conversations_with_open_messages([row.pk]))
        state = responses.serialize_runtime_info(row, usage, has_open_messages=has_open_messages)
        return state, self._resume_position(row), row.execution_status, row.last_seq

    def _resume_position(self, row: Conversation) -> int:
        # The web client of 2025 sends ``resend_all=true`` with every connection, also after a reconnect.
        if self.resending.is_all:
            return row.pruned_seq
        since = self.resending.since
        if since is None:
            return row.last_seq
        times = Event.objects.filter(conversation=row).annotate(
            at=Coalesce("engine_time", "received_at")
        )
        first = times.filter(at__gte=since).order_by("seq").values_list("seq", flat=True).first()
        return row.last_seq if first is None else max(first - 1, row.pruned_seq)

    async def _encode_frame(self, frame: Frame) -> list[str]:
        """Return the V1 texts for a frame of the hub: the frame's event, unless V1 clients do not receive it.

        If the event ends a run, the full state follows, as on the engine's own socket.
        """
        if not isinstance(frame, EventFrame):
            return await self._encode_other_frame(frame)
        # The first socket of this process that needs the V1 form encodes it for all others.
        form = frame.cached_form(PROTOCOL)
        if form is None:
            form = await run_in_thread(_encode_event, frame.event, self.conversation_id)
            frame.cache_form(PROTOCOL, form)
        text, status = form
        texts = [text] if text else []
        self.sent_status = status or self.sent_status
        # Events up to ``start_seq`` are sent again from the log. The runs that they ended are long over.
        if status in translation.ENDED_STATES and frame.event.seq > self.start_seq:
            texts.append(await self._encode_full_state(status))
        return texts

    async def _encode_other_frame(self, frame: Frame) -> list[str]:
        """Return the V1 texts of a frame outside the log: a delta, or changes of the record that no event reported."""
        # A client with ``resend_all``, such as the web client, counts every frame as part of the history and does not
        # show deltas, so it receives none.
        if isinstance(frame, DeltaFrame) and "resend_all" not in self.query:
            text = translation.encode_delta(frame.delta)
            return [text] if text else []
        if not isinstance(frame, StatusFrame) or frame.record is None:
            return []
        # The SDK reads these from the state that it received, so it would show an old policy (openhands-sdk 1.58.2).
        safety = {name: build(frame.record[name]) for name, build in SAFETY.items()}
        texts = [
            translation.encode_state(name, value)
            for name, value in safety.items()
            if value != self.sent_safety.get(name, value)
        ]
        self.sent_safety = safety
        status = frame.record["execution_status"]
        if status == self.sent_status:
            return texts
        self.sent_status = status
        texts.append(translation.encode_state("execution_status", status))
        if status in translation.ENDED_STATES:
            texts.append(await self._encode_full_state(status))
        return texts

    async def _encode_full_state(self, status: str) -> str:
        state, *_ = await run_in_thread(self._load_state)
        return translation.encode_state("full_state", state | {"execution_status": status})

    # --- From the client ----------------------------------------------------------------------

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Queue a frame. Close the socket if too many frames, or too much text, are queued."""
        text = text_data or ""
        self.inbox_size += len(text)
        if self.inbox_size > settings.BODY_MAX_BYTES or self.inbox.full():
            await self._end(CLOSE_OVERFLOW)
        else:
            self.inbox.put_nowait(text)

    async def _next_message(self) -> str:
        text = await self.inbox.get()
        self.inbox_size -= len(text)
        return text

    async def _process_inbox(self) -> None:
        """Post the client's messages in the order of arrival, and report errors to the client as events."""
        while True:
            text = await self._next_message()
            frame = _parse_object(text)
            # Clients that authenticated in the handshake may still send the frame for it.
            if frame is not None and frame.get("type") == "auth":
                continue
            try:
                await run_in_thread(self._post, frame)
            except access.TooManyCommands as refusal:
                await self.send(text_data=translation.encode_error(refusal.code, TOO_FAST))
            except Problem as refusal:
                await self.send(text_data=translation.encode_error(refusal.code, refusal.detail))
            except Exception:
                log.exception("A message of a V1 socket could not be posted.")
                detail = (
                    "The server could not post this message because of an error. Send it again."
                )
                await self.send(text_data=translation.encode_error("not-taken", detail))

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


def _encode_event(event: LoggedEvent, conversation_id: UUID) -> tuple[str, str]:
    """Return the V1 text of an event (``""`` if V1 clients do not receive it), and the agent's state in the event."""
    text = (
        translation.encode_event(event) if translation.is_sent_to_v1(event, conversation_id) else ""
    )
    return text, translation.read_status(event)


def _parse_object(text: str) -> dict[str, Any] | None:
    """Return the JSON object in a frame, or None if the frame contains no object or is too large."""
    if len(text) > settings.BODY_MAX_BYTES:
        return None
    try:
        value = strict_loads(text.encode(), max_depth=settings.JSON_MAX_DEPTH)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
