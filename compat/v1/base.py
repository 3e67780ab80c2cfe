"""What the V1 routes share: 422 for bad input, lists by ``page_id``, ids that come as hex or dashed."""

from typing import Any
from uuid import UUID

from rest_framework import exceptions, serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.requests import ApiRequest
from conversations.api.authentication import WITH_CONVERSATION_KEY
from lib import pages
from lib.problems import Problem

MAX_IDS = 100


class Unprocessable(Problem):
    """Something that these routes do not take, told as they tell it."""

    status = 422
    code = "unprocessable"


class V1View(GenericAPIView[Any]):
    """A route of the V1 protocol: a cookie, an API key or a conversation key; bad input is 422."""

    authentication_classes = WITH_CONVERSATION_KEY
    pagination_class = None
    request: ApiRequest

    def handle_exception(self, exc: Exception) -> Response:
        if isinstance(exc, exceptions.ValidationError):
            return super().handle_exception(_unprocessable(exc))
        return super().handle_exception(exc)

    def body(self, kind: type[serializers.Serializer[Any]]) -> dict[str, Any]:
        """The request's body, validated; what the shape does not know is ignored."""
        serializer = kind(data=self.request.data)
        serializer.is_valid(raise_exception=True)
        return dict(serializer.validated_data)

    def query(self, kind: type[serializers.Serializer[Any]]) -> dict[str, Any]:
        """The request's query, validated; unknown parameters are ignored."""
        given = self.request.query_params
        serializer = kind(data={name: given[name] for name in given})
        serializer.is_valid(raise_exception=True)
        return dict(serializer.validated_data)


def _unprocessable(error: exceptions.ValidationError) -> Unprocessable:
    detail: Any = error.detail
    while not isinstance(detail, str):
        if isinstance(detail, dict):
            name, detail = next(iter(detail.items()))
            if isinstance(detail, list) and detail and isinstance(detail[0], str):
                detail = f"{name}: {detail[0]}"
        else:
            detail = detail[0] if detail else "Invalid."
    return Unprocessable(str(detail), errors=error.detail)


def ids_of(request: Request, name: str) -> list[UUID]:
    """The repeated parameter's ids, 1 to 100 of them, in their order. Raises ``Unprocessable``."""
    given = request.query_params.getlist(name)
    if not 0 < len(given) <= MAX_IDS:
        raise Unprocessable(f"{name}: give 1 to {MAX_IDS} of them.")
    return [as_id(text, name) for text in given]


def as_id(text: str, name: str) -> UUID:
    """A UUID with or without its dashes. Raises ``Unprocessable``."""
    try:
        found = UUID(text)
    except ValueError:
        found = None
    if found is None or text.lower() not in (found.hex, str(found)):
        raise Unprocessable(f"{name}: this is not a UUID.")
    return found


class PageQuery(serializers.Serializer[Any]):
    """The part of a query that all lists share."""

    page_id = serializers.CharField(required=False, max_length=200)
    limit = serializers.IntegerField(required=False, default=100, min_value=1, max_value=100)


class TimesQuery(serializers.Serializer[Any]):
    """When rows were made."""

    created_at__gte = serializers.DateTimeField(required=False)
    created_at__lt = serializers.DateTimeField(required=False)
    updated_at__gte = serializers.DateTimeField(required=False)
    updated_at__lt = serializers.DateTimeField(required=False)


def page_of(
    rows: Any, query: dict[str, Any], *, is_descending: bool = True
) -> tuple[list[Any], str | None]:
    """Return the page of ``rows`` that a query's ``page_id`` names, and the id of the next page.

    Raises ``Unprocessable`` for an id that no list gave.
    """
    try:
        after = pages.parse_cursor(query["page_id"]) if query.get("page_id") else None
    except pages.MalformedCursor as error:
        raise Unprocessable("page_id: this list gave no such page.") from error
    return pages.page(rows, limit=query["limit"], after=after, is_descending=is_descending)


def filtered(rows: Any, query: dict[str, Any], *names: str) -> Any:
    """Rows narrowed by those parameters that were given; a parameter is named like the lookup it makes."""
    return rows.filter(**{name: query[name] for name in names if query.get(name) is not None})
