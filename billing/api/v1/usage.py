"""API endpoints for usage: sums of model calls per conversation, and totals of a period per day, model or user."""

from datetime import UTC, datetime
from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import mixins, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.requests import ApiRequest
from billing import services
from billing.api.v1 import serializers
from billing.api.v1.places import usage_scope
from billing.models import ConversationUsage, ModelCall
from lib.api import parse_query
from lib.pages import CursorPages, CursorQuery, Position, cut_page

NO_TIME = datetime.fromtimestamp(0, UTC)
"""The time in cursors of ``ConversationPages``, where only the id counts."""


class ConversationPages(CursorPages):
    """A pagination that orders rows only by their conversation id, highest first.

    The rows have no time. Ids of conversations are UUIDs of version 7, which begin with the time of creation, so the
    newest conversation comes first.
    """

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any]:
        limit, after = self.parse_page_query(request)
        if after:
            queryset = queryset.filter(pk__lt=after.pk)
        rows = list(queryset.order_by("-pk")[: limit + 1])
        page, self.next = cut_page(rows, limit, lambda row: Position(NO_TIME, row.pk))
        return page


@extend_schema(tags=["usage"])
@extend_schema_view(retrieve=extend_schema(description="Return the usage of one conversation."))
class UsageViewSet(mixins.RetrieveModelMixin, viewsets.GenericViewSet[ConversationUsage]):
    """The number of model calls, and their tokens and cost, for each conversation or for a period."""

    request: ApiRequest
    queryset = ConversationUsage.objects.none()
    serializer_class = serializers.ConversationUsageSerializer
    pagination_class = ConversationPages
    lookup_url_kwarg = "conversation_id"
    lookup_value_converter = "uuid"
    permissions_by_action = {  # noqa: RUF012 - a view's table, like DRF's own
        "list": "usage.view",
        "retrieve": "usage.view",
        "totals": "usage.view",
    }

    def get_queryset(self) -> QuerySet[ConversationUsage]:
        return ConversationUsage.objects.visible_to(self.request.user)

    @extend_schema(
        parameters=[serializers.UsageQuery, CursorQuery], responses=serializers.UsagePageSerializer
    )
    def list(self, request: ApiRequest) -> Response:
        """Return the usage of an organization's conversations, newest conversation first.

        Members see the conversations in which they made calls. With the permission `usage.view_all`, they see all
        conversations. The first page also contains the totals of all these conversations.
        """
        query = parse_query(serializers.UsageQuery, request, ignoring={"cursor", "limit"})
        scope = usage_scope(request, query.get("organization"))
        rows = ConversationUsage.objects.visible_to(request.user)
        rows = rows.filter(organization=scope.organization)
        page = self.paginate_queryset(rows)
        response = self.get_paginated_response(self.get_serializer(page, many=True).data)
        response.data["totals"] = None if "cursor" in request.query_params else rows.totals()
        return response

    @extend_schema(
        parameters=[serializers.TotalsQuery], responses=serializers.PeriodTotalsSerializer
    )
    @action(detail=False, serializer_class=serializers.PeriodTotalsSerializer)
    def totals(self, request: ApiRequest) -> Response:
        """Return the totals of an organization's model calls in a period: overall, and for each day, model or user.

        Days are in UTC, oldest first. Models and users are ordered by cost, highest first, and `items` contains at most
        100 of them. Members get the totals of their own calls. With the permission `usage.view_all`, they get the
        totals of all members.
        """
        query = parse_query(serializers.TotalsQuery, request)
        scope = usage_scope(request, query.pop("organization", None))
        calls = ModelCall.objects.visible_to(request.user).filter(
            organization=scope.organization,
            created_at__gte=query["since"],
            created_at__lt=query["until"],
        )
        if not scope.sees_all:
            calls = calls.filter(user_id=request.user.pk)
        sums = services.totals_of_calls(calls=calls, by=query["by"])
        response = query | {
            "organization": scope.organization.pk,
            "totals": sums.totals,
            "items": sums.items,
            "is_complete": sums.is_complete,
        }
        return Response(self.get_serializer(response).data)
