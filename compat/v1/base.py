"""The common parts of V1 routes: the base view, paging by ``page_id``, and ids with or without dashes.

V1 is OpenHands' newer protocol, with routes below ``/api/v1``.
"""

from typing import Any
from uuid import UUID

from rest_framework import exceptions, serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.requests import ApiRequest
from conversations.api.authentication import WITH_CONVERSATION_KEY
from lib import pages
from lib.api import MomentField, fields_of
from lib.problems import Problem

MAX_IDS = 100


class Unprocessable(Problem):
    """The request is not valid for this route. OpenHands' own server responds with 422 too."""

    status = 422
    code = "unprocessable"


class V1View(GenericAPIView[Any]):
    """The base class of V1 routes, which accept the session cookie, API keys and conversation keys.

    Invalid input causes a 422 response.
    """

    authentication_classes = WITH_CONVERSATION_KEY
    pagination_class = None
    request: ApiRequest

    def handle_exception(self, exc: Exception) -> Response:
        if isinstance(exc, exceptions.ValidationError):
            return super().handle_exception(_unprocessable(exc))
        return super().handle_exception(exc)

    def body(self, kind: type[serializers.Serializer[Any]]) -> dict[str, Any]:
        """Return the validated body. Fields that the serializer does not know are ignored."""
        serializer = kind(data=self.request.data)
        serializer.is_valid(raise_exception=True)
        return dict(serializer.validated_data)

    def query(self, kind: type[serializers.Serializer[Any]]) -> dict[str, Any]:
        """Return the validated query string. Parameters that the serializer does not know are ignored."""
        params = self.request.query_params
        serializer = kind(data={name: params[name] for name in params})
        # A serializer of a query string is flat: its instances share the fields, which store no values.
        serializer.__dict__["fields"] = fields_of(kind)
        serializer.is_valid(raise_exception=True)
        return dict(serializer.validated_data)


def _unprocessable(error: exceptions.ValidationError) -> Unprocessable:
    # The web client shows one sentence, so find the first one in the nested errors.
    detail: Any = error.detail
    path: list[str] = []
    while not isinstance(detail, str):
        if isinstance(detail, dict):
            name, detail = next(iter(detail.items()))
            path.append(str(name))
        else:
            # The errors of a list's items are empty for the items without an error.
            detail = next((part for part in detail if part), "Invalid.")
    path = [name for name in path if name != "non_field_errors"]
    sentence = f"{'.'.join(path)}: {detail}" if path else str(detail)
    return Unprocessable(sentence, errors=error.detail)


def parse_ids(request: Request, name: str) -> list[UUID]:
    """Return the ids in a repeated parameter, in order. Raise ``Unprocessable`` for none or more than 100."""
    texts = request.query_params.getlist(name)
    if not 0 < len(texts) <= MAX_IDS:
        raise Unprocessable(f"{name}: Send 1 to {MAX_IDS} ids.")
    return [parse_id(text, name) for text in texts]


def parse_id(text: str, name: str) -> UUID:
    """Return the UUID in a text, with or without dashes. Raise ``Unprocessable`` for any other text."""
    try:
        value = UUID(text)
    except ValueError:
        value = None
    # ``UUID`` also accepts braces and "urn:uuid:", which no client sends.
    if value is None or text.lower() not in (value.hex, str(value)):
        raise Unprocessable(f"{name}: This is not a UUID.")
    return value


class PageQuery(serializers.Serializer[Any]):
    """Query parameters of every list: the page and its size."""

    page_id = serializers.CharField(required=False, max_length=200)
    limit = serializers.IntegerField(required=False, default=100, min_value=1, max_value=100)


class TimesQuery(serializers.Serializer[Any]):
    """Filters for the times at which objects were created and updated."""

    created_at__gte = MomentField(required=False)
    created_at__lt = MomentField(required=False)
    updated_at__gte = MomentField(required=False)
    updated_at__lt = MomentField(required=False)


def fetch_page(
    rows: Any, query: dict[str, Any], *, is_descending: bool = True
) -> tuple[list[Any], str | None]:
    """Return the page of ``rows`` that ``page_id`` names, and the ``page_id`` of the next page (None on the last page).

    Raise ``Unprocessable`` if ``page_id`` is malformed.
    """
    after = parse_page_id(query)
    return pages.page(rows, limit=query["limit"], after=after, is_descending=is_descending)


def parse_page_id(query: dict[str, Any]) -> pages.Position | None:
    """Return the position that a query's ``page_id`` names, or None. Raise ``Unprocessable`` if it is malformed."""
    try:
        return pages.parse_cursor(query["page_id"]) if query.get("page_id") else None
    except pages.MalformedCursor as error:
        raise Unprocessable("page_id: Send the `next_page_id` of an earlier page.") from error


def filter_by(rows: Any, query: dict[str, Any], *names: str) -> Any:
    """Filter rows by the parameters of ``query`` that ``names`` lists. Each name is also a Django lookup."""
    return rows.filter(**{name: query[name] for name in names if query.get(name) is not None})
