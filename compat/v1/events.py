"""``/api/v1/events…``, and the pages of events that both APIs of V1 clients share."""

import re
from typing import Any
from uuid import UUID

import orjson
from django.db.models import QuerySet
from django.db.models.functions import Coalesce
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from compat.v1 import shapes, translation
from compat.v1.app_conversations import TAGS
from compat.v1.base import MAX_IDS, Unprocessable, V1View
from conversations.models import Event
from lib.routes import RouteFacts

MAX_DIGITS = 18
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def visible(request: Request) -> QuerySet[Event]:
    """The events that a V1 client of this caller is told."""
    return translation.told(Event.objects.visible_to(request.user))


def matching(rows: QuerySet[Event], query: dict[str, Any]) -> QuerySet[Event]:
    """Events narrowed by a query; times are the engine's where it gave one."""
    if wanted := query.get("conversation_id__eq"):
        rows = rows.filter(conversation_id=wanted)
    if kind := query.get("kind__eq"):
        name = kind.rpartition(".")[2]
        rows = rows.filter(kind__in=translation.KINDS_OF.get(name, (name,)))
    if source := query.get("source"):
        rows = rows.filter(source=source)
    if "timestamp__gte" in query or "timestamp__lt" in query:
        rows = rows.annotate(at=Coalesce("engine_time", "received_at"))
        if since := query.get("timestamp__gte"):
            rows = rows.filter(at__gte=since)
        if until := query.get("timestamp__lt"):
            rows = rows.filter(at__lt=until)
    return rows


def page(rows: QuerySet[Event], query: dict[str, Any]) -> dict[str, Any]:
    """``{"items", "next_page_id"}`` in the log's order or its reverse.

    A page's id is the key of the last event before it, so none is skipped or told twice while the log grows.
    """
    descending = query["sort_order"] == "TIMESTAMP_DESC"
    if page_id := query.get("page_id"):
        if not (page_id.isascii() and page_id.isdigit() and len(page_id) <= MAX_DIGITS):
            raise Unprocessable("page_id: this list gave no such page.")
        rows = rows.filter(**{"pk__lt" if descending else "pk__gt": int(page_id)})
    limit = query["limit"]
    found = list(rows.order_by("-pk" if descending else "pk")[: limit + 1])
    items = [orjson.Fragment(translation.text_of(event)) for event in found[:limit]]
    more = str(found[limit - 1].pk) if len(found) > limit else None
    return {"items": items, "next_page_id": more}


def by_ids(rows: QuerySet[Event], ids: list[str]) -> list[Any]:
    """These events in this order, null for what is not there."""
    wanted = {
        spelling: one for one in ids if not _UNSTORABLE.search(one) for spelling in _spellings(one)
    }
    found = {}
    for event in rows.filter(event_id__in=wanted):
        found[wanted[event.event_id]] = orjson.Fragment(translation.text_of(event))
    return [found.get(one) for one in ids]


def _spellings(text: str) -> set[str]:
    try:
        return {text, str(UUID(text)), UUID(text).hex}
    except ValueError:
        return {text}


@RouteFacts(replaced_by="/api/v1/conversations/{}/events")
class EventSearchView(V1View):
    """Events of conversations."""

    permission = "conversations.view"
    serializer_class = shapes.V1EventPageSerializer

    @extend_schema(
        operation_id="v1_events_search",
        tags=TAGS,
        parameters=[shapes.EventPageQuery],
    )
    def get(self, request: Request) -> Response:
        """A page of events, oldest first unless asked otherwise."""
        query = self.query(shapes.EventPageQuery)
        return Response(page(matching(visible(request), query), query))


@RouteFacts(replaced_by="/api/v1/conversations/{}")
class EventCountView(V1View):
    """How many events there are."""

    permission = "conversations.view"

    @extend_schema(
        operation_id="v1_events_count",
        tags=TAGS,
        parameters=[shapes.EventQuery],
        responses=OpenApiTypes.INT,
    )
    def get(self, request: Request) -> Response:
        """How many events a search would find: never more than the socket resends."""
        return Response(matching(visible(request), self.query(shapes.EventQuery)).count())


@RouteFacts(replaced_by="/api/v1/conversations/{}/events")
class EventsView(V1View):
    """Events by id."""

    permission = "conversations.view"

    @extend_schema(
        operation_id="v1_events_list",
        tags=TAGS,
        parameters=[OpenApiParameter("id", str, many=True, required=True)],
        responses=OpenApiTypes.ANY,
    )
    def get(self, request: Request) -> Response:
        """These events in this order, null for what is not there."""
        ids = request.query_params.getlist("id")
        if not 0 < len(ids) <= MAX_IDS:
            raise Unprocessable(f"id: give 1 to {MAX_IDS} of them.")
        return Response(by_ids(visible(request), ids))
