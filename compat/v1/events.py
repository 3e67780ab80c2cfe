"""The routes ``/api/v1/events…``, and the pages of events that these routes and the engine's API return."""

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

from compat.v1 import serializers, translation
from compat.v1.app_conversations import TAGS
from compat.v1.base import MAX_IDS, Unprocessable, V1View
from conversations.models import Event
from lib.routes import RouteFacts

MAX_DIGITS = 18
"""The maximum number of digits of a ``page_id``. Longer numbers may not fit PostgreSQL's ``bigint``."""
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
"""Characters that PostgreSQL rejects in the parameters of a query."""


def visible_events(request: Request) -> QuerySet[Event]:
    """Return the events that V1 clients receive, limited to those that the caller may see."""
    return translation.filter_for_v1(Event.objects.visible_to(request.user))


def filter_events(rows: QuerySet[Event], query: dict[str, Any]) -> QuerySet[Event]:
    """Filter events by a validated query. If the engine sent no time for an event, its time of receipt counts."""
    if conversation_id := query.get("conversation_id__eq"):
        rows = rows.filter(conversation_id=conversation_id)
    if kind := query.get("kind__eq"):
        # The engine's clients send the class name with its module path.
        name = kind.rpartition(".")[2]
        rows = rows.filter(kind__in=translation.STORED_KINDS.get(name, (name,)))
    if source := query.get("source"):
        rows = rows.filter(source=source)
    if "timestamp__gte" in query or "timestamp__lt" in query:
        rows = rows.annotate(at=Coalesce("engine_time", "received_at"))
        if since := query.get("timestamp__gte"):
            rows = rows.filter(at__gte=since)
        if until := query.get("timestamp__lt"):
            rows = rows.filter(at__lt=until)
    return rows


def fetch_page(rows: QuerySet[Event], query: dict[str, Any]) -> dict[str, Any]:
    """Return a page of events as ``{"items": […], "next_page_id": text or None}``.

    ``query["sort_order"]`` selects the order of the log or the reverse order. ``next_page_id`` is the primary key of
    the page's last event, so no event is skipped or repeated while the log grows.
    """
    descending = query["sort_order"] == "TIMESTAMP_DESC"
    if page_id := query.get("page_id"):
        if not (page_id.isascii() and page_id.isdigit() and len(page_id) <= MAX_DIGITS):
            raise Unprocessable("page_id: Send the `next_page_id` of an earlier page.")
        rows = rows.filter(**{"pk__lt" if descending else "pk__gt": int(page_id)})
    limit = query["limit"]
    page = list(rows.order_by("-pk" if descending else "pk")[: limit + 1])
    items = [orjson.Fragment(translation.encode_event(event)) for event in page[:limit]]
    next_page_id = str(page[limit - 1].pk) if len(page) > limit else None
    return {"items": items, "next_page_id": next_page_id}


def fetch_by_ids(rows: QuerySet[Event], ids: list[str]) -> list[Any]:
    """Return the events with these ids, in order, None for each id without an event.

    A UUID matches with and without dashes, because the log contains both forms.
    """
    spellings = [set() if _UNSTORABLE.search(text) else _spellings(text) for text in ids]
    events = {
        event.event_id: orjson.Fragment(translation.encode_event(event))
        for event in rows.filter(event_id__in=set().union(*spellings))
    }
    # The same event may be requested in both spellings, and then appears twice.
    return [next((events[s] for s in names if s in events), None) for names in spellings]


def _spellings(text: str) -> set[str]:
    try:
        return {text, str(UUID(text)), UUID(text).hex}
    except ValueError:
        return {text}


@RouteFacts(replaced_by="/api/v1/conversations/{}/events")
class EventSearchView(V1View):
    """Events of the caller's conversations."""

    permission = "conversations.view"
    serializer_class = serializers.V1EventPageSerializer

    @extend_schema(
        operation_id="v1_events_search",
        tags=TAGS,
        parameters=[serializers.EventPageQuery],
    )
    def get(self, request: Request) -> Response:
        """Return a page of events, oldest first by default."""
        query = self.query(serializers.EventPageQuery)
        return Response(fetch_page(filter_events(visible_events(request), query), query))


@RouteFacts(replaced_by="/api/v1/conversations/{}")
class EventCountView(V1View):
    """The route that counts events."""

    permission = "conversations.view"

    @extend_schema(
        operation_id="v1_events_count",
        tags=TAGS,
        parameters=[serializers.EventQuery],
        responses=OpenApiTypes.INT,
    )
    def get(self, request: Request) -> Response:
        """Return the number of events that a search would return.

        Only events that the socket sends are counted. The web client hides all messages until it has received this
        number of frames, so a larger number would hide the messages permanently.
        """
        return Response(
            filter_events(visible_events(request), self.query(serializers.EventQuery)).count()
        )


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
        """Return the events in the order of the requested ids, with null for each id without an event."""
        ids = request.query_params.getlist("id")
        if not 0 < len(ids) <= MAX_IDS:
            raise Unprocessable(f"id: Send 1 to {MAX_IDS} ids.")
        return Response(fetch_by_ids(visible_events(request), ids))
