"""``/sockets/events/{id}``: a conversation as V1 clients follow it, and in which they speak."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID, uuid4

from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.db.models.functions import Coalesce
from django.utils.dateparse import parse_datetime

from accounts.permissions import MissingPermission
from billing import services as billing
from compat.v1 import responses, shapes, translation
from conversations import services
from conversations.api.authentication import HEADER
from conversations.models import Conversation, Event, LoggedEvent
from conversations.realtime import access
from conversations.realtime.frames import DeltaFrame, EventFrame, Frame, StatusFrame
from conversations.realtime.hub import get_hub
from conversations.realtime.threads import run_in_thread
from lib.api import strict_loads
from lib.problems import Problem

log = logging.getLogger(__name__)
PROTOCOL = "V1"
"""The name under which frames keep their V1 form."""
AUTH_SECONDS = 10
CLOSE_UNAUTHENTICATED = 4001
CLOSE_UNKNOWN = 4004
CLOSE_OVERFLOW = 1013
CLOSE_RESTART = 1012
CLOSES = {
    access.Refusal.UNAUTHENTICATED: CLOSE_UNAUTHENTICATED,
    access.Refusal.NOT_PERMITTED: CLOSE_UNKNOWN,
    access.Refusal.NOT_VISIBLE: CLOSE_UNKNOWN,
}
TOO_FAST = "Too many messages. Wait a moment, then send it again."
NO_VIEW = "You may not see this conversation any more."
NO_STEERING = "This needs the permission conversations.steer."
MANY = 1_000
"""Messages that one socket may have waiting, and ``BODY_MAX_BYTES`` of them: more ends it."""


class BadFrame(Problem):
    """A frame that is no message."""

    code = "bad-frame"
    sentence = 'A frame is {"role": "user", "content": [{"type": "text", "text": …}]}.'


class V1EventsConsumer(AsyncWebsocketConsumer):
    """Send one conversation's log in V1 form, after its state; take messages for the agent.

    Who it is: a key in ``X-Session-API-Key``, ``Authorization`` or ``session_api_key=``, else our cookie where the
    browser names its origin, else a first frame ``{"type": "auth", "session_api_key"}`` within ten seconds.
    ``resend_all=true`` (or ``resend_mode=all``) tells the log from its start, ``resend_mode=since`` from
    ``after_timestamp`` on, else only what is new. Close codes: 4001 not authenticated, or no more; 4004 unknown;
    1013 too slow; 1012 the log was restored, begin again.
    """

    channel_layer_alias = ""  # the hub listens for all sockets of the process
    permission = access.VIEW

    async def connect(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []
        self.conversation_id = _id(self.scope["url_route"]["kwargs"]["conversation_id"])
        given = self.scope.get("query_string", b"").decode("ascii", "replace")
        self.asked = {name: values[-1] for name, values in parse_qs(given).items()}
        self.told_status = ""
        self.begun_at = 0
        self.is_open = False
        self.waiting: asyncio.Queue[str] = asyncio.Queue(MANY)
        self.waiting_size = 0
        self.watcher: access.Watcher | None = None
        await self.accept()
        refusal = await self._admit(self._tokens())
        if refusal is access.Refusal.UNAUTHENTICATED and self._may_say_later():
            self._spawn(self._await_auth())
        elif refusal:
            await self.close(CLOSES[refusal])

    async def _admit(self, tokens: Sequence[str]) -> access.Refusal | None:
        """Begin, if the caller may watch this conversation now; return why not otherwise."""
        credentials = self._credentials(tokens)
        self.watcher = access.Watcher(credentials, self.conversation_id, self.permission)
        if refusal := await self.watcher.look():
            return refusal
        access.begin(self.watcher, access.Unpinged(self._refused))
        self.is_open = True
        self._spawn(self._tell())
        self._spawn(self._hear())
        return None

    def _spawn(self, work: Any) -> None:
        self.tasks.append(asyncio.create_task(work))

    async def disconnect(self, code: int) -> None:
        for task in self.tasks:
            task.cancel()
        if self.watcher is not None:
            await access.end(self.watcher)

    # --- Who ---------------------------------------------------------------------

    def _may_say_later(self) -> bool:
        """Whether nothing was said yet about who this is: then a first frame may say it."""
        return not self._tokens() and not (self._header("cookie") and self._header("origin"))

    def _header(self, name: str) -> str:
        wanted = name.lower().encode()
        found = [value for key, value in self.scope["headers"] if key == wanted]
        return found[-1].decode("latin-1") if found else ""

    def _tokens(self) -> list[str]:
        scheme, _, bearer = self._header("authorization").partition(" ")
        found = [
            self._header(HEADER),
            self.asked.get("session_api_key", ""),
            bearer if scheme.lower() == "bearer" else "",
        ]
        return [token.strip() for token in found if token.strip() not in ("", "null", "undefined")]

    def _credentials(self, tokens: Sequence[str]) -> access.Credentials:
        # A cookie counts only for a page of ours: OriginCheck let in no other origin.
        has_cookie = any(map(self._header, ("origin", "authorization", "x-api-key")))
        scope = self.scope if has_cookie else self.scope | {"headers": []}
        return access.Credentials.of_scope(scope, keys=tokens)

    async def _await_auth(self) -> None:
        """Wait for the first frame; close where it does not come, or says nothing that opens this."""
        try:
            async with asyncio.timeout(AUTH_SECONDS):
                text = await self._next()
        except TimeoutError:
            await self.close(CLOSE_UNAUTHENTICATED)
            return
        said = _loads(text)
        token = said.get("session_api_key") if said and said.get("type") == "auth" else None
        refusal = await self._admit([token.strip()] if isinstance(token, str) else [])
        if refusal:
            await self.close(CLOSES[refusal])

    def _refused(self) -> None:
        assert self.watcher is not None
        assert self.watcher.refusal is not None
        self._spawn(self._end(CLOSES[self.watcher.refusal]))

    async def _end(self, code: int) -> None:
        self.is_open = False
        mine = asyncio.current_task()
        for task in self.tasks:
            if task is not mine:
                task.cancel()
        await self.close(code)

    # --- Out ---------------------------------------------------------------------

    async def _tell(self) -> None:
        code = CLOSE_OVERFLOW
        try:
            state, after, self.told_status, self.begun_at = await run_in_thread(self._state)
            async with get_hub().subscribe(self.conversation_id, after=after) as subscription:
                await self.send(text_data=translation.state_text("full_state", state))
                async for frame in subscription.frames():
                    if frame.reset_to is not None:
                        code = CLOSE_RESTART
                        break
                    for text in await self._texts(frame):
                        await self.send(text_data=text)
                if subscription.feed.is_gone:
                    code = CLOSE_UNKNOWN
        except asyncio.CancelledError:
            raise
        except OSError:
            return  # the client left; its server says so to whoever still sends
        except Exception:
            log.exception("a V1 socket's feed failed; the client comes again")
        await self._end(code)

    def _state(self) -> tuple[dict[str, Any], int, str, int]:
        """The state now, where in the log to begin, the status that the state tells, and where the log ends."""
        row = Conversation.objects.select_related("sandbox").get(pk=self.conversation_id)
        usage = billing.usage_of([row.pk]).get(row.pk)
        is_asked = bool(responses.with_open_messages([row.pk]))
        state = responses.runtime_info(row, usage, is_asked=is_asked)
        return state, self._after(row), row.execution_status, row.last_seq

    def _after(self, row: Conversation) -> int:
        mode = self.asked.get("resend_mode", "")
        if mode == "all" or (not mode and self.asked.get("resend_all", "").lower() in _TRUE):
            return row.pruned_seq
        since = _moment(self.asked.get("after_timestamp", "")) if mode == "since" else None
        if since is None:
            return row.last_seq
        times = Event.objects.filter(conversation=row).annotate(
            at=Coalesce("engine_time", "received_at")
        )
        first = times.filter(at__gte=since).order_by("seq").values_list("seq", flat=True).first()
        return row.last_seq if first is None else max(first - 1, row.pruned_seq)

    async def _texts(self, frame: Frame) -> list[str]:
        """What a frame of the hub is in V1: at most an event and the state that it leads to."""
        if not isinstance(frame, EventFrame):
            return await self._outside(frame)
        form = frame.form(PROTOCOL)
        if form is None:
            form = await run_in_thread(_form, frame.event, self.conversation_id)
            frame.keep(PROTOCOL, form)
        text, status = form
        texts = [text] if text else []
        self.told_status = status or self.told_status
        if status in translation.SETTLED and frame.event.seq > self.begun_at:
            texts.append(await self._full_state(status))
        return texts

    async def _outside(self, frame: Frame) -> list[str]:
        """Deltas for those who follow live; a state that no event told."""
        if isinstance(frame, DeltaFrame) and "resend_all" not in self.asked:
            text = translation.delta_text(frame.delta)
            return [text] if text else []
        if not isinstance(frame, StatusFrame) or frame.record is None:
            return []
        status = frame.record["execution_status"]
        if status == self.told_status:
            return []
        self.told_status = status
        texts = [translation.state_text("execution_status", status)]
        if status in translation.SETTLED:
            texts.append(await self._full_state(status))
        return texts

    async def _full_state(self, status: str) -> str:
        state, *_ = await run_in_thread(self._state)
        return translation.state_text("full_state", state | {"execution_status": status})

    # --- In ----------------------------------------------------------------------

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Keep a frame for its turn; close where too many, or too much, wait for theirs."""
        text = text_data or ""
        self.waiting_size += len(text)
        if self.waiting_size > settings.BODY_MAX_BYTES or self.waiting.full():
            await self._end(CLOSE_OVERFLOW)
        else:
            self.waiting.put_nowait(text)

    async def _next(self) -> str:
        text = await self.waiting.get()
        self.waiting_size -= len(text)
        return text

    async def _hear(self) -> None:
        """Carry out what the client says, one frame after the other."""
        while True:
            text = await self._next()
            said = _loads(text)
            if said is not None and said.get("type") == "auth":
                continue
            try:
                await run_in_thread(self._post, said)
            except access.TooManyCommands as refusal:
                await self.send(text_data=translation.error_text(refusal.code, TOO_FAST))
            except Problem as refusal:
                await self.send(text_data=translation.error_text(refusal.code, refusal.detail))
            except Exception:
                log.exception("a message of a V1 socket was not taken")
                sentence = "The server could not take this message. Send it again."
                await self.send(text_data=translation.error_text("not-taken", sentence))

    def _post(self, said: dict[str, Any] | None) -> None:
        """Post a frame's message. A question that is open stays open: it is answered by REST only."""
        message = shapes.V1MessageSerializer(data=said if said is not None else {})
        if said is None or not message.is_valid():
            raise BadFrame
        assert self.watcher is not None
        try:
            with self.watcher.commanding():
                text, images = shapes.spoken(message.validated_data)
                services.post_message(
                    conversation_id=self.conversation_id,
                    text=text,
                    images=images,
                    message_id=str(uuid4()),
                )
        except access.MayNotSteer as error:
            is_seen = error.extra["refusal"] is access.Refusal.NOT_PERMITTED
            raise MissingPermission(NO_STEERING if is_seen else NO_VIEW) from error


def _id(text: str) -> UUID:
    """The id in an address; one that cannot be is one that is not there."""
    try:
        return UUID(text)
    except ValueError:
        return UUID(int=0)


_TRUE = ("true", "1", "yes", "on", "t", "y")


def _form(event: LoggedEvent, conversation_id: UUID) -> tuple[str, str]:
    """Return an event in V1 form, empty for one that V1 clients are not sent, and the agent's state in it."""
    text = translation.text_of(event) if translation.is_told(event, conversation_id) else ""
    return text, translation.status_in(event)


def _loads(text: str) -> dict[str, Any] | None:
    """A frame's object, or None for what is none."""
    if len(text) > settings.BODY_MAX_BYTES:
        return None
    try:
        value = strict_loads(text.encode(), max_depth=settings.JSON_MAX_DEPTH)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _moment(text: str) -> datetime | None:
    """A time of a query; one without a zone is UTC."""
    try:
        found = parse_datetime(text)
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found is not None and found.tzinfo is None else found
