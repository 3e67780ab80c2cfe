"""API endpoints for the decisions of sandboxes' proxies: of one conversation, and of a whole organization."""

from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.permissions import require
from accounts.requests import ApiRequest
from conversations.api.v1.mixins import PAGE_PARAMETERS, NestedMixin
from conversations.models import EgressDecision
from conversations.sandboxes.egress.policy import Reason
from lib.api import MomentField, parse_query


class ConversationDecisionQuery(serializers.Serializer[Any]):
    """Filters of network decisions."""

    host = serializers.CharField(required=False, max_length=255, help_text="The exact host.")
    allowed = serializers.BooleanField(required=False)
    since = MomentField(required=False)
    until = MomentField(required=False)


class DecisionQuery(ConversationDecisionQuery):
    """Filters of the network decisions of organizations."""

    organization = serializers.UUIDField(required=False)
    conversation = serializers.UUIDField(required=False)


FILTERS = {
    "organization": "organization",
    "conversation": "conversation",
    "host": "host",
    "allowed": "allowed",
    "since": "at__gte",
    "until": "at__lt",
}
"""The condition on the database rows for each query parameter."""


class EgressDecisionSerializer(serializers.ModelSerializer[EgressDecision]):
    """A decision about a connection to a host, or several equal decisions within one second."""

    conversation = serializers.UUIDField(source="conversation_id")
    reason = serializers.ChoiceField(choices=[reason.value for reason in Reason])
    protocol = serializers.ChoiceField(choices=["connect", "http", "socks"])

    class Meta:
        model = EgressDecision
        fields = (
            "id",
            "conversation",
            "at",
            "host",
            "port",
            "address",
            "allowed",
            "reason",
            "protocol",
            "count",
        )


class _Decisions(viewsets.GenericViewSet[EgressDecision]):
    """A list of decisions, newest first."""

    queryset = EgressDecision.objects.none()
    serializer_class = EgressDecisionSerializer
    page_field = "at"

    def respond(self, rows: QuerySet[EgressDecision], query: dict[str, Any]) -> Response:
        """Return a page of the rows that match the query."""
        rows = rows.filter(**{FILTERS[name]: value for name, value in query.items()})
        page = self.paginate_queryset(rows) or []
        return self.get_paginated_response(self.get_serializer(page, many=True).data)


class ConversationDecisionViewSet(NestedMixin, _Decisions):
    """The network decisions in one conversation."""

    permission = "conversations.view"

    @extend_schema(
        operation_id="conversations_egress_decisions_list",
        parameters=[ConversationDecisionQuery],
        responses=EgressDecisionSerializer(many=True),
    )
    def list(self, request: Request, pk: UUID) -> Response:
        """Return a page of the decisions of the sandbox's proxy, newest first."""
        conversation = self.get_conversation()
        query = parse_query(ConversationDecisionQuery, request, ignoring=PAGE_PARAMETERS)
        return self.respond(EgressDecision.objects.filter(conversation=conversation), query)


@extend_schema(tags=["audit"])
class EgressDecisionViewSet(_Decisions):
    """The network decisions in the organizations whose audit log the caller can read."""

    permission = "audit.view"
    request: ApiRequest

    @extend_schema(
        operation_id="egress_decisions_list",
        parameters=[DecisionQuery],
        responses=EgressDecisionSerializer(many=True),
    )
    def list(self, request: Request) -> Response:
        """Return a page of the decisions of all sandboxes, newest first.

        With `organization`, respond 403 if the caller cannot read the audit log of that organization.
        """
        query = parse_query(DecisionQuery, request, ignoring=PAGE_PARAMETERS)
        bound = self.request.user.bound_organization_id
        if organization_id := query.get("organization") or bound:
            require(self.request.user, organization_id, self.permission)
        return self.respond(EgressDecision.objects.auditable_by(self.request.user), query)
