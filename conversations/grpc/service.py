"""The implementation of ``openhands.v1.EventService``. Methods parse requests, call services and build responses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from uuid import UUID

import grpc

from accounts import services as accounts
from accounts.models import Organization
from accounts.permissions import MissingPermission, require_on
from conversations import services
from conversations.grpc.interceptors import Refused, RpcCaller, current_caller, in_thread
from conversations.grpc.v1 import events_pb2 as wire
from conversations.grpc.v1.events_pb2_grpc import EventServiceServicer
from conversations.models import Conversation
from conversations.realtime.access import Refusal, Watcher
from conversations.realtime.frames import EventFrame, Frame, ResetFrame, StatusFrame
from conversations.realtime.hub import get_hub
from conversations.realtime.watching import UnpingedStream, watching
from conversations.services.publications import BATCH_MAX
from lib.api import dumps

BATCHES_WAITING = 64
"""The number of batches that are read ahead of the database. When it is reached, gRPC makes the sender wait."""
PERMISSIONS = {
    "Append": "events.publish",
    "Subscribe": "conversations.view",
    "GetLastSeq": "conversations.view",
}
"""The permission that each method requires in the conversation's organization."""


class EventService(EventServiceServicer):
    """The service with which programs publish and follow the events of conversations."""

    async def GetLastSeq(  # noqa: N802 - the name on the wire
        self, request: wire.GetLastSeqRequest, context: grpc.aio.ServicerContext
    ) -> wire.GetLastSeqResponse:
        rpc_caller = current_caller.get()
        permission = PERMISSIONS["GetLastSeq"]
        conversation = await in_thread(
            _get_visible, rpc_caller, request.conversation_id, permission
        )
        newest = await in_thread(services.last_published_id, conversation_id=conversation.pk)
        return wire.GetLastSeqResponse(
            last_seq=conversation.last_seq, epoch=conversation.epoch, last_event_id=newest
        )

    async def Subscribe(  # noqa: N802
        self, request: wire.SubscribeRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[wire.SubscribeResponse]:
        rpc_caller = current_caller.get()
        permission = PERMISSIONS["Subscribe"]
        conversation = await in_thread(
            _get_visible, rpc_caller, request.conversation_id, permission
        )
        watcher = _watcher(rpc_caller, conversation.pk, permission)
        async with (
            get_hub().subscribe(
                conversation.pk, after=request.after_seq, epoch=request.epoch or None
            ) as subscription,
            watching(watcher, UnpingedStream(subscription.revoke)),
        ):
            async for frame in subscription.frames():
                if (response := _encode(frame)) is not None:
                    yield response
            # The frames ended: access was lost, the conversation was deleted, or the client read too slowly.
            _raise_refusal(watcher)
            if subscription.feed.is_gone:
                raise Conversation.DoesNotExist
        raise Refused(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "The client read too slowly. Subscribe again from the last seq that you received.",
        )

    async def Append(  # noqa: N802
        self, messages: AsyncIterator[wire.AppendRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[wire.AppendResponse]:
        rpc_caller = current_caller.get()
        first = await anext(messages, None)
        if first is None or first.WhichOneof("message") != "open":
            raise Refused(
                grpc.StatusCode.INVALID_ARGUMENT, "The first message must be an `OpenRun`."
            )
        run = await in_thread(_open, rpc_caller, first.open)
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
            watcher = _watcher(rpc_caller, run.pk, PERMISSIONS["Append"])
            async with watching(watcher, UnpingedStream(reader.cancel)):
                while batches := await _next_batches(waiting):
                    _raise_refusal(watcher)
                    stored = await in_thread(
                        services.publish_events,
                        conversation_id=run.pk,
                        batches=[[event.json for event in batch.events] for batch in batches],
                    )
                    for batch, result in zip(batches, stored, strict=True):
                        yield wire.AppendResponse(
                            appended=wire.Appended(
                                number=batch.number,
                                last_seq=result.last_seq,
                                stored=result.stored,
                                known=result.known,
                            )
                        )
                _raise_refusal(watcher)
            await reader  # raises the exception if the client sent a wrong message
        finally:
            reader.cancel()
            # Shielded, because the run must be closed even if this method is cancelled when the client disconnects.
            await asyncio.shield(in_thread(services.close_run, conversation_id=run.pk))


async def _read_ahead(
    messages: AsyncIterator[wire.AppendRequest], waiting: "asyncio.Queue[wire.Batch | None]"
) -> None:
    try:
        async for message in messages:
            if message.WhichOneof("message") != "batch":
                raise Refused(
                    grpc.StatusCode.INVALID_ARGUMENT,
                    "The run is already open. Send only `Batch` messages after the first message.",
                )
            await waiting.put(message.batch)
    finally:
        # None marks the end of the stream for `_next_batches`.
        with suppress(asyncio.CancelledError):
            await waiting.put(None)


async def _next_batches(waiting: "asyncio.Queue[wire.Batch | None]") -> list[wire.Batch]:
    """Wait for a batch and return all waiting batches, which are stored in one transaction.

    Stop when the batches contain ``BATCH_MAX`` events or more. Return an empty list at the end of the stream.
    """
    batches: list[wire.Batch] = []
    batch = await waiting.get()
    while batch is not None:
        batches.append(batch)
        if waiting.empty() or sum(len(b.events) for b in batches) >= BATCH_MAX:
            return batches
        batch = waiting.get_nowait()
    waiting.put_nowait(None)  # put the end marker back for the next call
    return batches


def _raise_refusal(watcher: Watcher) -> None:
    """If the caller has lost access, raise the exception for the reason."""
    match watcher.refusal:
        case Refusal.UNAUTHENTICATED:
            raise Refused(grpc.StatusCode.UNAUTHENTICATED, accounts.InvalidKey.sentence)
        case Refusal.NOT_PERMITTED:
            sentence = (
                f"This action needs the permission {watcher.permission}, "
                "which you do not have in this organization."
            )
            raise MissingPermission(sentence, permission=watcher.permission)
        case Refusal.NOT_VISIBLE:
            raise Conversation.DoesNotExist


def _watcher(rpc_caller: RpcCaller, conversation_id: UUID, permission: str) -> Watcher:
    return Watcher(rpc_caller.credentials, conversation_id, permission, user_id=rpc_caller.user.pk)


def _open(rpc_caller: RpcCaller, request: wire.OpenRun) -> Conversation:
    bound = rpc_caller.user.bound_organization_id
    organization_id = _parse_uuid(request.organization_id) if request.organization_id else bound
    organizations = Organization.objects.visible_to(rpc_caller.user).filter(
        pk=organization_id or rpc_caller.user.personal_organization.pk
    )
    return services.open_run(
        user=rpc_caller.user,
        conversation_id=_parse_uuid(request.conversation_id),
        organization=organizations.get(),
        title=request.title,
        model=request.model,
    )


def _get_visible(rpc_caller: RpcCaller, conversation_id: str, permission: str) -> Conversation:
    conversation = Conversation.objects.visible_to(rpc_caller.user).get(
        pk=_parse_uuid(conversation_id)
    )
    require_on(rpc_caller.user, conversation, permission)
    return conversation


def _parse_uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "The id is not a valid UUID.") from error


def _encode(frame: Frame) -> wire.SubscribeResponse | None:
    """Return a frame as a gRPC message, or None for deltas and pings, which this API does not send."""
    if isinstance(frame, StatusFrame):
        return wire.SubscribeResponse(status_json=dumps(frame.record))
    if isinstance(frame, ResetFrame):
        return wire.SubscribeResponse(reset=wire.Reset(last_seq=frame.reset_to, epoch=frame.epoch))
    if not isinstance(frame, EventFrame):
        return None
    event = frame.event
    response = wire.SubscribeResponse(
        event=wire.Event(
            seq=event.seq,
            event_id=event.event_id,
            kind=event.kind,
            source=event.source,
            payload=event.payload.encode(),
        )
    )
    response.event.received_at.FromDatetime(event.received_at)
    return response
