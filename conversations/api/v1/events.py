"""API endpoints for a conversation's log: pages of events, and a stream of events."""

from uuid import UUID

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import ValidationError
from rest_framework.response import Response

from accounts.requests import ApiRequest
from conversations.api.v1 import serializers
from conversations.api.v1.mixins import FastReadMixin, NestedMixin
from conversations.log import lookups
from conversations.realtime import held
from lib.api import JSONRenderer, conditional_response, parse_query
from lib.routes import RouteFacts

LAST_EVENT_ID = OpenApiParameter(
    "Last-Event-ID",
    str,
    OpenApiParameter.HEADER,
    description="The id of the last event that the client received.",
)


class EventStreamRenderer(JSONRenderer):
    """The renderer of error responses to clients that accept only ``text/event-stream``. Errors are sent as JSON."""

    media_type = "text/event-stream"
    format = "event-stream"


class EventViewSet(FastReadMixin, NestedMixin, viewsets.ViewSet):
    """The events of a conversation."""

    permission = "conversations.view"
    url_names = {  # noqa: RUF012 - read by Router
        "list": "conversation-events",
        "stream": "conversation-stream-events",
    }

    @RouteFacts(held="wait")
    @extend_schema(
        operation_id="conversations_events_retrieve",
        parameters=[serializers.EventQuery],
        responses=serializers.EventPageSerializer,
    )
    def list(self, request: ApiRequest, pk: UUID) -> Response | HttpResponse:
        """Return a page of the log in order: events after seq ``after``, before seq ``before``, or the first ones."""
        last_seq, epoch = self._log_end(pk)
        query = parse_query(serializers.EventQuery, request)
        if query["shown"]:
            part = lookups.part_of_log(
                last_seq,
                after=query.get("after", 0),
                before=query.get("before"),
                limit=query["limit"],
            )
            items, start = lookups.list_shown(pk, part)
            page = {"items": items, "last_seq": last_seq, "epoch": epoch}
            page |= {"from_seq": start, "through_seq": part.stop - 1}
            return conditional_response(request, page)
        # A page has up to 500 events, so they are read without model instances (`python -m bench rest` measures this).
        items = lookups.list_events(
            pk,
            after=query.get("after", 0),
            before=query.get("before"),
            kind=query.get("kind"),
            limit=query["limit"],
        )
        # A process that cannot hold the response returns the empty page immediately.
        if query["wait"] and not items and held.can_hold(request._request):  # noqa: SLF001
            plan = held.Plan(
                conversation=pk,
                user=request.user.pk,
                after=query.get("after", 0),
                wait=query["wait"],
                limit=query["limit"],
            )
            return held.hand_over(request._request, plan)  # noqa: SLF001
        return conditional_response(request, {"items": items, "last_seq": last_seq, "epoch": epoch})

    def _log_end(self, pk: UUID) -> tuple[int, int]:
        if self.can_read_fast():
            return self.read_log_end(pk)
        conversation = self.get_conversation()
        return conversation.last_seq, conversation.epoch

    @RouteFacts(held="always")
    @extend_schema(
        operation_id="conversations_events_stream",
        parameters=[serializers.StreamQuery, LAST_EVENT_ID],
        responses={(200, "text/event-stream"): OpenApiTypes.STR},
    )
    @action(detail=False, methods=["get"], renderer_classes=[JSONRenderer, EventStreamRenderer])
    def stream(self, request: ApiRequest, pk: UUID) -> HttpResponse:
        """Stream the log as server-sent events, with the same frames as the WebSocket.

        The id of an event is ``<epoch>-<seq>``. A client that reconnects with this id in ``Last-Event-ID`` receives
        the events after this one, or ``reset`` if the id is not valid any more. A comment every few seconds keeps the
        connection open.
        """
        conversation = self.get_conversation()
        query = parse_query(serializers.StreamQuery, request)
        after, epoch = query["after"], query.get("epoch")
        if last_id := request.headers.get("Last-Event-ID"):
            cursor = held.parse_event_id(last_id)
            if cursor is None:
                sentence = (
                    "Send an id that this stream sent, or omit the header to begin at `after`."
                )
                raise ValidationError({"Last-Event-ID": [sentence]})
            epoch, after = cursor
        plan = held.Plan(conversation.pk, request.user.pk, after=after, epoch=epoch)
        return held.hand_over(request._request, plan)  # noqa: SLF001
