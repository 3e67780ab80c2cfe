"""The routes ``/api/v1/events…``, and the pages of events that these routes and the engine's API return."""

import re
from typing import Any
from uuid import UUID

import orjson
from django.db.models import QuerySet
from django.db.models.functions import Coalesce
from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from compat.reads import json_response
from compat.v1 import serializers, translation
from compat.v1.app_conversations import TAGS
from compat.v1.base import MAX_IDS, Unprocessable, V1View
from conversations.log import lookups
from conversations.models import Event, LoggedEvent
from conversations.models.event import COLUMNS
from lib.compiled import Compiled
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


def parse_page_id(query: dict[str, Any]) -> int | None:
    """Return the primary key that a query's ``page_id`` names, or None. Raise ``Unprocessable`` if it is malformed."""
    page_id = query.get("page_id")
    if not page_id:
        return None
    if not (page_id.isascii() and page_id.isdigit() and len(page_id) <= MAX_DIGITS):
        raise Unprocessable("page_id: Send the `next_page_id` of an earlier page.")
    return int(page_id)


def fetch_page(rows: QuerySet[Event], query: dict[str, Any]) -> dict[str, Any]:
    """Return a page of events as ``{"items": […], "next_page_id": text or None}``.

    ``query["sort_order"]`` selects the order of the log or the reverse order. ``next_page_id`` is the primary key of
    the page's last event, so no event is skipped or repeated while the log grows.
    """
    descending = query["sort_order"] == "TIMESTAMP_DESC"
    if (page_id := parse_page_id(query)) is not None:
        rows = rows.filter(**{"pk__lt" if descending else "pk__gt": page_id})
    limit = query["limit"]
    page = list(rows.order_by("-pk" if descending else "pk")[: limit + 1])
    items = [orjson.Fragment(translation.encode_event(event)) for event in page[:limit]]
    next_page_id = str(page[limit - 1].pk) if len(page) > limit else None
    return {"items": items, "next_page_id": next_page_id}


def fetch_log_page(conversation_id: UUID, query: dict[str, Any]) -> dict[str, Any]:
    """Return a page of one conversation's events like ``fetch_page``. Runs one database query.

    The query must contain no filters (see ``is_plain``). This function does not check access.
    """
    descending, limit = query["sort_order"] == "TIMESTAMP_DESC", query["limit"]
    page_id = parse_page_id(query)
    statement = _PAGES[descending, page_id is not None]
    rows = statement.rows(pk=conversation_id, page=page_id, limit=limit + 1)
    items = [
        orjson.Fragment(translation.encode_event(LoggedEvent(*row[1:]))) for row in rows[:limit]
    ]
    return {"items": items, "next_page_id": str(rows[limit - 1][0]) if len(rows) > limit else None}


def is_plain(query: dict[str, Any]) -> bool:
    """Return whether a validated query selects events only by their conversation and their place in the log."""
    return not any(query.get(name) for name in ("kind__eq", "source", *TIMES))


TIMES = ("timestamp__gte", "timestamp__lt")


def _compile_page(*, descending: bool, is_following: bool) -> Compiled:
    order, sign = ("DESC", "<") if descending else ("", ">")
    # In one log, the order of the primary keys is that of ``seq``, for which there is an index. A copied log (a fork)
    # may have another order of keys, so a page starts after the ``seq`` of the event that ``page_id`` names. If that
    # event is not in the log any more, the key itself decides.
    start, after = "", ""
    if is_following:
        edge = "9223372036854775807" if descending else "0"
        start = (
            f"WITH start AS MATERIALIZED (SELECT seq FROM {Event._meta.db_table} "  # noqa: S608, SLF001 - our own names
            "WHERE id = %(page)s AND conversation_id = %(pk)s) "
        )
        after = (
            f"WHERE e.seq {sign} COALESCE((SELECT seq FROM start), {edge}) "  # noqa: S608 - constants
            f"AND (EXISTS (SELECT 1 FROM start) OR e.id {sign} %(page)s)"
        )
    return Compiled(
        lambda pk: translation.filter_for_v1(Event.objects.filter(conversation_id=pk)).values_list(
            "id", *COLUMNS
        ),
        f"{start}SELECT * FROM ({{}}) e {after} ORDER BY e.seq {order} LIMIT %(limit)s",  # noqa: S608
        pk=UUID(int=1),
    )


_PAGES = {
    (descending, is_following): _compile_page(descending=descending, is_following=is_following)
    for descending in (False, True)
    for is_following in (False, True)
}


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
    def get(self, request: Request) -> HttpResponse:
        """Return a page of events, oldest first by default."""
        query = self.query(serializers.EventPageQuery)
        pk = query.get("conversation_id__eq")
        if pk is None or not is_plain(query) or not lookups.can_look_up(request.user):
            page = fetch_page(filter_events(visible_events(request), query), query)
        # A role without the permission to read conversations sees none.
        elif lookups.get_head(request.user, pk) is None:
            parse_page_id(query)
            page = {"items": [], "next_page_id": None}
        else:
            page = fetch_log_page(pk, query)
        return json_response(page)


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
