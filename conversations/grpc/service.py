"""``openhands.v1.EventService``: parse, one service call, answer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from uuid import UUID

import grpc

from accounts import services as accounts
from accounts.models import Organization
from accounts.permissions import MissingPermission, require
from conversations import services
from conversations.grpc.interceptors import Refused, RpcCaller, caller, in_thread
from conversations.grpc.v1 import events_pb2 as wire
from conversations.grpc.v1.events_pb2_grpc import EventServiceServicer
from conversations.models import Conversation
from conversations.realtime.access import Refusal, UnpingedStream, Watcher, watching
from conversations.realtime.frames import EventFrame, Frame, ResetFrame, StatusFrame
from conversations.realtime.hub import get_hub
from conversations.services.publications import BATCH_MAX
from lib.api import dumps

BATCHES_WAITING = 64
"""Batches of one stream that are read ahead; beyond it, flow control makes the sender wait."""
PERMISSIONS = {
    "Append": "events.publish",
    "Subscribe": "conversations.view",
    "GetLastSeq": "conversations.view",
}
"""The permission that each method asks for, in the conversation's organization."""


class EventService(EventServiceServicer):
    """Events in and out of conversations, for programs with an API key."""

    async def GetLastSeq(  # noqa: N802 - the name on the wire
        self, request: wire.GetLastSeqRequest, context: grpc.aio.ServicerContext
    ) -> wire.GetLastSeqResponse:
        who = caller.get()
        found = await in_thread(_visible, who, request.conversation_id, PERMISSIONS["GetLastSeq"])
        newest = await in_thread(services.last_published_id, conversation_id=found.pk)
        return wire.GetLastSeqResponse(
            last_seq=found.last_seq, epoch=found.epoch, last_event_id=newest
        )

    async def Subscribe(  # noqa: N802
        self, request: wire.SubscribeRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[wire.SubscribeResponse]:
        who = caller.get()
        permission = PERMISSIONS["Subscribe"]
        found = await in_thread(_visible, who, request.conversation_id, permission)
        watcher = _watcher(who, found.pk, permission)
        async with (
            get_hub().subscribe(
                found.pk, after=request.after_seq, epoch=request.epoch or None
            ) as subscription,
            watching(watcher, UnpingedStream(subscription.end)),
        ):
            async for frame in subscription.frames():
                if (answer := _answer(frame)) is not None:
                    yield answer
            _raise_refusal(watcher)
            if subscription.feed.is_gone:
                raise Conversation.DoesNotExist
        raise Refused(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "You read too slowly. Subscribe again from your last seq.",
        )

    async def Append(  # noqa: N802
        self, messages: AsyncIterator[wire.AppendRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[wire.AppendResponse]:
        who = caller.get()
        first = await anext(messages, None)
        if first is None or first.WhichOneof("message") != "open":
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "The first message opens the run.")
        run = await in_thread(_open, who, first.open)
        newest = await in_thread(services.last_published_id, conversation_id=run.pk)
        yield wire.AppendResponse(
            opened=wire.Opened(
                conversation_id=str(run.pk),
                last_seq=run.last_seq,
                epoch=run.epoch,
                last_event_id=newest,
            )
        )
        waiting: asyncio.Queue[wire.Batch | None] = asyncio.Queue(BATCHES_WAITING)
        reader = asyncio.create_task(_read_ahead(messages, waiting))
        try:
            watcher = _watcher(who, run.pk, PERMISSIONS["Append"])
            async with watching(watcher, UnpingedStream(reader.cancel)):
                while batches := await _next_batches(waiting):
                    _raise_refusal(watcher)
                    stored = await in_thread(
                        services.publish_events,
                        conversation_id=run.pk,
                        batches=[[event.json for event in batch.events] for batch in batches],
                    )
                    for batch, answer in zip(batches, stored, strict=True):
                        yield wire.AppendResponse(
                            appended=wire.Appended(
                                number=batch.number,
                                last_seq=answer.last_seq,
                                stored=answer.stored,
                                known=answer.known,
                            )
                        )
                _raise_refusal(watcher)
            await reader  # raises what was wrong with the stream
        finally:
            reader.cancel()
            await asyncio.shield(in_thread(services.close_run, conversation_id=run.pk))


async def _read_ahead(
    messages: AsyncIterator[wire.AppendRequest], waiting: "asyncio.Queue[wire.Batch | None]"
) -> None:
    try:
        async for message in messages:
            if message.WhichOneof("message") != "batch":
                raise Refused(
                    grpc.StatusCode.INVALID_ARGUMENT, "A run is opened once; send batches."
                )
            await waiting.put(message.batch)
    finally:
        with suppress(asyncio.CancelledError):
            await waiting.put(None)


async def _next_batches(waiting: "asyncio.Queue[wire.Batch | None]") -> list[wire.Batch]:
    """All that is there, at least one, as one transaction's worth; nothing at the stream's end."""
    batches: list[wire.Batch] = []
    batch = await waiting.get()
    while batch is not None:
        batches.append(batch)
        if waiting.empty() or sum(len(b.events) for b in batches) >= BATCH_MAX:
            return batches
        batch = waiting.get_nowait()
    waiting.put_nowait(None)  # said again, behind what came before it
    return batches


def _raise_refusal(watcher: Watcher) -> None:
    """Raise why a stream's access has ended, if it has."""
    match watcher.refusal:
        case Refusal.UNAUTHENTICATED:
            raise Refused(grpc.StatusCode.UNAUTHENTICATED, accounts.InvalidKey.sentence)
        case Refusal.NOT_PERMITTED:
            sentence = (
                f"This needs the permission {watcher.permission}, which you do not have here."
            )
            raise MissingPermission(sentence, permission=watcher.permission)
        case Refusal.NOT_VISIBLE:
            raise Conversation.DoesNotExist


def _watcher(who: RpcCaller, conversation_id: UUID, permission: str) -> Watcher:
    return Watcher(who.credentials, conversation_id, permission, user_id=who.user.pk)


def _open(who: RpcCaller, request: wire.OpenRun) -> Conversation:
    bound = who.user.bound_organization_id
    organization_id = _uuid(request.organization_id) if request.organization_id else bound
    found = Organization.objects.visible_to(who.user).filter(
        pk=organization_id or who.user.personal_organization.pk
    )
    return services.open_run(
        user=who.user,
        conversation_id=_uuid(request.conversation_id),
        organization=found.get(),
        title=request.title,
        model=request.model,
    )


def _visible(who: RpcCaller, conversation_id: str, permission: str) -> Conversation:
    found = Conversation.objects.visible_to(who.user).get(pk=_uuid(conversation_id))
    require(who.user, found.organization_id, permission)
    return found


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "An id is a UUID.") from error


def _answer(frame: Frame) -> wire.SubscribeResponse | None:
    """Return a frame as gRPC has it; None for deltas, which it does not have."""
    if isinstance(frame, StatusFrame):
        return wire.SubscribeResponse(status_json=dumps(frame.record))
    if isinstance(frame, ResetFrame):
        return wire.SubscribeResponse(reset=wire.Reset(last_seq=frame.reset_to, epoch=frame.epoch))
    if not isinstance(frame, EventFrame):
        return None
    event = frame.event
    answer = wire.SubscribeResponse(
        event=wire.Event(
            seq=event.seq,
            event_id=event.event_id,
            kind=event.kind,
            source=event.source,
            payload=event.payload.encode(),
        )
    )
    answer.event.received_at.FromDatetime(event.received_at)
    return answer
