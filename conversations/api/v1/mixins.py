"""Mixins for the conversation viewsets: they validate bodies, get the parent conversation, and read fast."""

from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404
from rest_framework import serializers

from accounts.permissions import MissingPermission, granted_permissions
from conversations.log import lookups
from conversations.models import Conversation
from lib.api import conditional_response, parse_body
from lib.pages import CursorPages, Position, cut_page

PAGE_PARAMETERS = frozenset({"cursor", "limit"})
"""The query parameters of every paginated list."""
VIEW = "conversations.view"


class BodyMixin:
    """Validation of request bodies."""

    request: Any

    def validate_body(self, kind: type[serializers.Serializer[Any]]) -> dict[str, Any]:
        """Return the validated body. Raise ``ValidationError`` (400) if a field is invalid or unknown."""
        return parse_body(kind, self.request.data)


class NestedMixin(BodyMixin):
    """Access to the parent conversation, for viewsets below ``conversations/<uuid:pk>``."""

    kwargs: dict[str, Any]
    check_object_permissions: Any

    def get_conversations(self) -> QuerySet[Conversation]:
        """Return the conversations that the caller may see."""
        return Conversation.objects.visible_to(self.request.user)

    def get_conversation(self) -> Conversation:
        """Return the parent conversation.

        Raise ``Http404`` if the user may not see the conversation, and ``MissingPermission`` if the user lacks the
        action's permission in the conversation's organization.
        """
        conversation = get_object_or_404(self.get_conversations(), pk=self.kwargs["pk"])
        self.check_object_permissions(self.request, conversation)
        return conversation


class FastReadMixin:
    """Fast reads for three routes: the list, a record, and the end of a log. Each read is one prepared statement.

    Clients request these routes most often. With the ORM a request takes four to six times as much CPU time (for
    the list, 12 ms instead of 2.3 ms; ``python -m bench rest`` measures it). The access checks are those of
    ``get_object``: the statements contain ``visible_to``, and this mixin checks the role that they return.
    """

    request: Any
    paginator: Any

    def can_read_fast(self) -> bool:
        """Return whether the other methods support this caller. They do not support callers with a conversation key."""
        return lookups.can_look_up(self.request.user)

    def read_newest(self) -> HttpResponse:
        """Return a response with a page of the caller's list of conversations. The query must contain no filters."""
        pages: CursorPages = self.paginator
        limit, after = pages.parse_page_query(self.request)
        # One more record than the page needs shows whether there is a next page.
        records = lookups.list_newest(self.request.user, limit=limit + 1, after=after)
        items, cursor = cut_page(records, limit, lambda row: Position(row["created_at"], row["id"]))
        return conditional_response(self.request, {"items": items, "next": cursor})

    def read_record(self, pk: UUID) -> HttpResponse:
        """Return a response with a conversation's record. Raise ``Http404`` or ``MissingPermission``."""
        row = lookups.get_record(self.request.user, pk)
        if row is None:
            raise Http404
        record, role = row
        require_view(self.request.user, role)
        return conditional_response(self.request, record)

    def read_log_end(self, pk: UUID) -> tuple[int, int]:
        """Return ``(last_seq, epoch)`` of a conversation. Raise ``Http404`` or ``MissingPermission``."""
        row = lookups.get_head(self.request.user, pk)
        if row is None:
            raise Http404
        last_seq, epoch, role = row
        require_view(self.request.user, role)
        return last_seq, epoch


def require_view(user: Any, role: str) -> None:
    """Raise ``MissingPermission`` if a user with this role in an organization may not read its conversations."""
    if VIEW not in granted_permissions(role, user):
        raise MissingPermission(
            f"This action needs the permission {VIEW}, which you do not have in this organization.",
            permission=VIEW,
        )
