"""``/sockets/events/{id}``: a conversation as V1 clients follow it, and in which they speak."""

import asyncio
import contextlib
import logging
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID, uuid4

from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.db.models.functions import Coalesce
from django.http import HttpRequest
from django.utils.dateparse import parse_datetime

from accounts import services as accounts
from accounts.permissions import MissingPermission, permissions_in
from accounts.sign_in.authentication import user_of_scope
from billing import services as billing
from compat.v1 import responses, shapes, translation
from conversations import services
from conversations.api.authentication import HEADER
from conversations.models import Conversation, Event, LoggedEvent
from conversations.realtime.frames import DeltaFrame, EventFrame, Frame, StatusFrame
from conversations.realtime.hub import get_hub
from conversations.realtime.threads import run_in_thread
from lib import limits
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
MANY = 1_000
"""Messages that one socket may have waiting, and ``BODY_MAX_BYTES`` of them: more ends it."""


class BadFrame(Problem):
    """A frame that is no message."""

    code = "bad-frame"
    sentence = 'A frame is {"role": "user", "content": [{"type": "text", "text": …}]}.'


class TooFast(Problem):
    """More messages than the server takes of one caller."""

    status = 429
    code = "too-many-requests"
    sentence = "Too many messages. Wait a moment, then send it again."


class V1EventsConsumer(AsyncWebsocketConsumer):
    """Send one conversation's log in V1 form, after its state; take messages for the agent.

    Who it is: a key in ``X-Session-API-Key``, ``Authorization`` or ``session_api_key=``, else our cookie where the
    browser names its origin, else a first frame ``{"type": "auth", "session_api_key"}`` within ten seconds.
    ``resend_all=true`` (or ``resend_mode=all``) tells the log from its start, ``resend_mode=since`` from
    ``after_timestamp`` on, else only what is new. Close codes: 4001 not authenticated, or no more; 4004 unknown;
    1013 too slow; 1012 the log was restored, begin again.
    """

    channel_layer_alias = ""  # the hub listens for all sockets of the process
    permission = "conversations.view"

    async def connect(self) -> None:
        self.tasks: list[asyncio.Task] = []
        self.conversation_id = _id(self.scope["url_route"]["kwargs"]["conversation_id"])
        given = self.scope.get("query_string", b"").decode("ascii", "replace")
        self.asked = {name: values[-1] for name, values in parse_qs(given).items()}
        self.token = ""
        self.told_status = ""
        self.begun_at = 0
        self.is_open = False
        self.waiting: asyncio.Queue[str] = asyncio.Queue(MANY)
        self.waiting_size = 0
        await self.accept()
        code = await run_in_thread(self._refusal)
        if code == CLOSE_UNAUTHENTICATED and self._may_say_later():
            self._spawn(self._await_auth())
        elif code:
            await self.close(code)
        else:
            self._begin()

    def _begin(self) -> None:
        self.is_open = True
        self._spawn(self._tell())
        self._spawn(self._keep())
        self._spawn(self._hear())

    def _spawn(self, work: Any) -> None:
        self.tasks.append(asyncio.create_task(work))

    async def disconnect(self, code: int) -> None:
        for task in self.tasks:
            task.cancel()

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
            self.token,
            self._header(HEADER),
            self.asked.get("session_api_key", ""),
            bearer if scheme.lower() == "bearer" else "",
        ]
        return [token.strip() for token in found if token.strip() not in ("", "null", "undefined")]

    def _user(self) -> Any:
        """The user as of now, or None."""
        address = (self.scope.get("client") or ("", 0))[0]
        for token in self._tokens():
            if token.startswith("oh_"):
                with contextlib.suppress(accounts.InvalidKey):
                    return accounts.authenticate_api_key(token, address=address).user
            elif found := services.holder_of_key(token, address=address):
                return found[0]
        # A cookie counts only for a page of ours: OriginGate let in no other origin.
        if self._header("origin") or self._header("authorization") or self._header("x-api-key"):
            user = user_of_scope(self.scope)
            return user if user.is_authenticated else None
        return None

    def _refusal(self) -> int | None:
        """The code to close with, or None for somebody who may watch this conversation now."""
        user = self._user()
        if user is None:
            return CLOSE_UNAUTHENTICATED
        self.user = user
        found = Conversation.objects.visible_to(user).filter(pk=self.conversation_id).first()
        if found is None or self.permission not in permissions_in(user, found.organization_id):
            return CLOSE_UNKNOWN
        self.organization_id = found.organization_id
        return None

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
        self.token = token if isinstance(token, str) else ""
        code = await run_in_thread(self._refusal) if self.token else CLOSE_UNAUTHENTICATED
        if code:
            await self.close(code)
        else:
            self._begin()

    async def _keep(self) -> None:
        """Look again whether this person may still watch: now and then, and at once when told."""
        async with get_hub().watch_access(self.user.pk) as woken:
            woken.set()
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(settings.SOCKET_RECHECK_SECONDS):
                        await woken.wait()
                woken.clear()
                with contextlib.suppress(Exception):  # the database away: ask in the next round
                    if code := await run_in_thread(self._refusal):
                        await self._end(code)
                        return

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
        if code := self._refusal():
            raise MissingPermission("You may not see this conversation any more.", code=code)
        if "conversations.steer" not in permissions_in(self.user, self.organization_id):
            raise MissingPermission("This needs the permission conversations.steer.")
        self._count()
        text, images = shapes.spoken(message.validated_data)
        services.post_message(
            conversation_id=self.conversation_id, text=text, images=images, message_id=str(uuid4())
        )

    def _count(self) -> None:
        """Count against the rate of what spends money, as the same by REST is."""
        rate = settings.RATE_LIMITS.get("spend") if settings.RATE_LIMITS else None
        if rate is None:
            return
        try:
            usage = limits.count(
                HttpRequest(), group="spend|", value=f"user {self.user.pk}", rate=rate
            )
        except limits.NotCounted as error:
            raise TooFast from error
        if usage.is_over:
            raise TooFast


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
