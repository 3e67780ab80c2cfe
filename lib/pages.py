"""Pagination of lists that are ordered by a time and the primary key. A cursor names a position in a list."""

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import Q, QuerySet
from rest_framework import exceptions, serializers
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response


class MalformedCursor(ValueError):
    """A text is not a cursor made by ``Position.cursor``."""


class Position(NamedTuple):
    """The position of a row in a list: its time and its primary key."""

    at: datetime
    pk: UUID

    @property
    def cursor(self) -> str:
        """The position as an opaque text for clients, which ``parse_cursor`` reads."""
        text = f"{self.at.isoformat()}|{self.pk}"
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def parse_cursor(cursor: str) -> Position:
    """Return the position that a cursor names. Raise ``MalformedCursor`` if the text is not a cursor."""
    # ``Position.cursor`` removes the padding that base64 requires.
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        at, _, pk = text.partition("|")
        return Position(datetime.fromisoformat(at).astimezone(UTC), UUID(pk))
    except (ValueError, OverflowError) as error:
        raise MalformedCursor(cursor) from error


def page(
    rows: QuerySet[Any],
    *,
    limit: int,
    after: Position | None = None,
    field: str = "created_at",
    is_descending: bool = True,
) -> tuple[list[Any], str | None]:
    """Return up to ``limit`` rows after a position, and the cursor of the next page (None on the last page).

    Rows are ordered by the time in ``field``, then by primary key.
    """
    comparison, sign = ("lt", "-") if is_descending else ("gt", "")
    if after:
        same_time = Q(**{field: after.at, f"pk__{comparison}": after.pk})
        rows = rows.filter(Q(**{f"{field}__{comparison}": after.at}) | same_time)
    # Read one row more than the page has, to know whether another page follows.
    page_rows = list(rows.order_by(f"{sign}{field}", f"{sign}pk")[: limit + 1])
    return cut_page(page_rows, limit, lambda row: Position(getattr(row, field), row.pk))


def cut_page(
    rows: list[Any], limit: int, position: Callable[[Any], Position]
) -> tuple[list[Any], str | None]:
    """Return the first ``limit`` rows, and the cursor of the next page (None on the last page)."""
    following = position(rows[limit - 1]).cursor if len(rows) > limit else None
    return rows[:limit], following


class CursorPages(BasePagination):
    """DRF pagination with cursors: ``{"items": […], "next": cursor|null}``, newest first.

    Rows are ordered by the view's ``page_field`` (default ``created_at``), then by id. A cursor names the last row of
    a page, so rows that are added or deleted between two requests cause no repeated or missing rows.
    """

    max_limit = 100

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any]:
        limit, after = self.parse_page_query(request)
        field = getattr(view, "page_field", "created_at")
        rows, self.next = page(queryset, limit=limit, after=after, field=field)
        return rows

    def parse_page_query(self, request: Request) -> tuple[int, Position | None]:
        """Return the ``limit`` of a request, and the position of its ``cursor`` or None.

        Raise ``ValidationError`` (400) if a parameter is not valid.
        """
        params = request.query_params
        if "cursor" not in params and (limit := _plain_limit(params)):
            return limit, None
        query = CursorQuery(data=params)
        query.is_valid(raise_exception=True)
        limit, cursor = query.validated_data["limit"], query.validated_data.get("cursor")
        try:
            return limit, parse_cursor(cursor) if cursor else None
        except MalformedCursor as error:
            raise exceptions.ValidationError(
                {"cursor": ["The cursor is not valid. Use `next` of a previous response."]}
            ) from error

    def get_paginated_response(self, data: Any) -> Response:
        return Response({"items": data, "next": self.next})

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        return {
            "type": "object",
            "required": ["items", "next"],
            "properties": {
                "items": schema,
                "next": {"type": "string", "nullable": True},
            },
        }

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        return [
            {"name": "cursor", "in": "query", "required": False, "schema": {"type": "string"}},
            {
                "name": "limit",
                "in": "query",
                "required": False,
                "schema": {"type": "integer", "minimum": 1, "maximum": self.max_limit},
            },
        ]


def _plain_limit(params: Any) -> int:
    """Return the limit of a simple query without running a serializer, or 0 if it needs validation."""
    text = params.get("limit", "20")
    is_plain = text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= 100
    return int(text) if is_plain else 0


class CursorQuery(serializers.Serializer[Any]):
    """The query parameters of a list."""

    cursor = serializers.CharField(required=False, max_length=200)
    limit = serializers.IntegerField(required=False, default=20, min_value=1, max_value=100)
