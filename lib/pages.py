"""Pages of a list ordered by a time and the primary key, and the cursors that name positions in it."""

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
    """The text is not a cursor of ``Position.cursor``."""


class Position(NamedTuple):
    """The position of a row in a list: its time and its primary key."""

    at: datetime
    pk: UUID

    @property
    def cursor(self) -> str:
        """An opaque text for clients, which ``position_of`` reads."""
        text = f"{self.at.isoformat()}|{self.pk}"
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def position_of(cursor: str) -> Position:
    """Return the position that a cursor names. Raises ``MalformedCursor``."""
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
    """Return up to ``limit`` rows behind a position, and the cursor of the next page; None after the last page."""
    way, sign = ("lt", "-") if is_descending else ("gt", "")
    if after:
        same_time = Q(**{field: after.at, f"pk__{way}": after.pk})
        rows = rows.filter(Q(**{f"{field}__{way}": after.at}) | same_time)
    found = list(rows.order_by(f"{sign}{field}", f"{sign}pk")[: limit + 1])
    return cut(found, limit, lambda row: Position(getattr(row, field), row.pk))


def cut(
    rows: list[Any], limit: int, position: Callable[[Any], Position]
) -> tuple[list[Any], str | None]:
    """Return the first ``limit`` rows, and the cursor of the last of them if more rows follow."""
    following = position(rows[limit - 1]).cursor if len(rows) > limit else None
    return rows[:limit], following


class CursorPages(BasePagination):
    """``{"items": […], "next": cursor|null}``, newest first by ``(ordering field, id)``.

    The cursor is opaque to clients and names the last row seen, so rows that come or go between two
    requests neither repeat nor hide others. Views may set ``page_field`` (default ``created_at``).
    """

    max_limit = 100

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any]:
        limit, after = self.asked(request)
        field = getattr(view, "page_field", "created_at")
        rows, self.next = page(queryset, limit=limit, after=after, field=field)
        return rows

    def asked(self, request: Request) -> tuple[int, Position | None]:
        """Return how many rows a request asks for, and the position behind which they begin."""
        params = request.query_params
        if "cursor" not in params and (limit := _plain_limit(params)):
            return limit, None
        query = CursorQuery(data=params)
        query.is_valid(raise_exception=True)
        limit, cursor = query.validated_data["limit"], query.validated_data.get("cursor")
        try:
            return limit, position_of(cursor) if cursor else None
        except MalformedCursor as error:
            raise exceptions.ValidationError(
                {"cursor": ["This is not a cursor that this list gave."]}
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
    """Return the limit of a query that needs no serializer to be understood, else 0."""
    text = params.get("limit", "20")
    is_plain = text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= 100
    return int(text) if is_plain else 0


class CursorQuery(serializers.Serializer[Any]):
    """The query of a list."""

    cursor = serializers.CharField(required=False, max_length=200)
    limit = serializers.IntegerField(required=False, default=20, min_value=1, max_value=100)
