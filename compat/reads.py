"""The common parts of fast reads: one statement for each read, and the response's bytes without DRF's renderer."""

from typing import Any
from uuid import UUID

from django.http import Http404, HttpResponse

from accounts.models import User
from accounts.requests import ApiRequest
from conversations.api.v1.mixins import require_view
from conversations.log import lookups
from conversations.log.summaries import Summary, find_summaries
from lib import pages
from lib.api import dumps


def json_response(data: Any) -> HttpResponse:
    """Return data as a JSON response, with the bytes that the API's renderer writes."""
    return HttpResponse(dumps(data), content_type="application/json")


def get_summary(request: ApiRequest, pk: UUID) -> Summary:
    """Return a conversation. Raise ``Http404`` or ``MissingPermission`` if the caller may not see it.

    Runs one database query.
    """
    summary = find_summaries(request.user, [pk]).get(pk)
    if summary is None:
        raise Http404
    require_view(request.user, summary.role)
    return summary


def require_log(request: ApiRequest, pk: UUID) -> None:
    """Raise ``Http404`` or ``MissingPermission`` if the caller may not read the log of a conversation.

    Runs one database query. ``lookups.can_look_up`` must be true for the caller.
    """
    head = lookups.get_head(request.user, pk)
    if head is None:
        raise Http404
    require_view(request.user, head[2])


def page_summaries(
    user: User, rows: Any, *, limit: int, after: pages.Position | None = None
) -> tuple[list[Summary], str | None]:
    """Return a page of a queryset of conversations, newest first, and the cursor of the next page.

    The queryset decides which conversations the user may see. Runs two database queries.
    """
    page, cursor = pages.page(rows.only("created_at"), limit=limit, after=after)
    found = find_summaries(user, [row.pk for row in page])
    # A conversation that was deleted between the two queries is left out.
    return [found[row.pk] for row in page if row.pk in found], cursor
