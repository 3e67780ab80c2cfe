"""The reads of conversations that are asked for most, by ``lookups``; what they answer is what ``views`` would."""

from typing import Any
from uuid import UUID

from django.http import Http404, HttpResponse
from rest_framework.request import Request

from accounts.permissions import MissingPermission, granted_permissions
from conversations.log import lookups
from lib.api import conditional_response
from lib.pages import CursorPages, Position, cut_page

PLACE = frozenset({"cursor", "limit"})
"""Parameters that every list has."""
VIEW = "conversations.view"


class LookingUp:
    """Beside a viewset of conversations; permissions are those that ``get_object`` would ask for."""

    get_object: Any
    paginator: Any

    def newest(self, request: Request) -> HttpResponse:
        """A page of the list when nothing is filtered, which is nearly always."""
        pages: CursorPages = self.paginator
        limit, after = pages.parse_page_query(request)
        found = lookups.list_newest(request.user, limit=limit + 1, after=after)
        items, following = cut_page(
            found, limit, lambda row: Position(row["created_at"], row["id"])
        )
        return conditional_response(request, {"items": items, "next": following})

    def one(self, request: Request, pk: UUID) -> HttpResponse:
        """A record."""
        found = lookups.get_record(request.user, pk)
        if found is None:
            raise Http404
        record, role = found
        _ensure(request, role)
        return conditional_response(request, record)

    def log_end(self, request: Request, pk: UUID) -> tuple[int, int]:
        """``(last_seq, epoch)`` of a conversation whose log may be read."""
        if not lookups.can_look_up(request.user):
            conversation = self.get_object()
            return conversation.last_seq, conversation.epoch
        found = lookups.get_head(request.user, pk)
        if found is None:
            raise Http404
        last_seq, epoch, role = found
        _ensure(request, role)
        return last_seq, epoch


def _ensure(request: Request, role: str) -> None:
    if VIEW not in granted_permissions(role, request.user):
        raise MissingPermission(
            f"This needs the permission {VIEW}, which you do not have here.", permission=VIEW
        )
