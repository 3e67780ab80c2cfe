"""API endpoints for the network rules of one conversation."""

from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.permissions import permissions_on
from accounts.requests import ApiRequest
from conversations import services
from conversations.api.v1.mixins import NestedMixin
from conversations.models import Conversation
from conversations.sandboxes.egress.policy import Profile
from lib.api import parse_query

PROFILES = [profile.value for profile in Profile]


class DeciderSerializer(serializers.Serializer[Any]):
    """The user who decided."""

    id = serializers.UUIDField()
    name = serializers.CharField(source="get_full_name")


class NewHostRuleSerializer(serializers.Serializer[Any]):
    """A rule for the sandbox of one conversation."""

    host = serializers.CharField(
        max_length=1_000,
        help_text="A host name, a pattern such as `*.example.com` (all names below example.com), or an IP address.",
    )
    allowed = serializers.BooleanField()


class HostRuleSerializer(serializers.Serializer[Any]):
    """A rule of one conversation, with the user who decided, or null if that user was deleted."""

    host = serializers.CharField()
    allowed = serializers.BooleanField()
    decided_by = DeciderSerializer(allow_null=True)
    decided_at = serializers.DateTimeField()


class RefusedHostSerializer(serializers.Serializer[Any]):
    """A refused host about which nobody has decided."""

    host = serializers.CharField()
    port = serializers.IntegerField(help_text="One of the ports that were refused.")
    last_at = serializers.DateTimeField(help_text="When the host was last refused.")
    count = serializers.IntegerField(help_text="The number of refused connections.")


class EgressSerializer(serializers.Serializer[Any]):
    """The network rules in force for a conversation."""

    profile = serializers.ChoiceField(choices=PROFILES)
    set_by = serializers.ChoiceField(
        choices=["site", "organization"], help_text="Whose choice the profile is."
    )
    site_profile = serializers.ChoiceField(choices=PROFILES)
    is_enforced = serializers.BooleanField(
        help_text="Whether the sandbox follows the rules. Sandboxes of the provider `process` do not."
    )
    may_decide = serializers.SerializerMethodField(
        help_text="Whether the caller may allow and refuse hosts for this conversation."
    )
    hosts = serializers.ListField(
        child=serializers.CharField(),
        help_text="The hosts that the site and the organization list, without the rules of the conversation.",
    )
    rules = HostRuleSerializer(many=True)
    undecided = RefusedHostSerializer(many=True)

    def get_may_decide(self, _state: services.EgressState) -> bool:
        return bool(self.context["may_decide"])


class NoQuery(serializers.Serializer[Any]):
    """The query string of a route that has no query parameters."""


class EgressViewSet(NestedMixin, viewsets.ViewSet):
    """The network rules of a conversation."""

    permission = "conversations.view"

    def get_conversations(self) -> QuerySet[Conversation]:
        return super().get_conversations().select_related("sandbox")

    @extend_schema(operation_id="conversations_egress_retrieve", responses=EgressSerializer)
    def retrieve(self, request: ApiRequest, pk: UUID) -> Response:
        """Return the network profile of the conversation's sandbox, its rules, and the hosts to decide about."""
        conversation = self.get_conversation()
        parse_query(NoQuery, request)
        state = services.describe_egress(conversation=conversation)
        granted = permissions_on(request.user, conversation)
        may_decide = "egress.edit" in granted and not conversation.is_external
        return Response(EgressSerializer(state, context={"may_decide": may_decide}).data)


class HostRuleViewSet(NestedMixin, viewsets.ViewSet):
    """The rules of a conversation for single hosts."""

    permission = "egress.edit"
    lookup_url_kwarg = "host"
    lookup_value_converter = "str"

    @extend_schema(
        operation_id="conversations_egress_rules_create",
        request=NewHostRuleSerializer,
        responses={201: HostRuleSerializer},
    )
    def create(self, request: ApiRequest, pk: UUID) -> Response:
        """Allow or refuse a host for the sandbox of this conversation. A running sandbox follows the rule at once.

        Repeating the request is safe. A rule for the same host is replaced.
        """
        conversation = self.get_conversation()
        body = self.validate_body(NewHostRuleSerializer)
        rule = services.decide_host(conversation_id=conversation.pk, by=request.user, **body)
        return Response(HostRuleSerializer(rule).data, status=201)

    @extend_schema(
        operation_id="conversations_egress_rules_destroy", request=None, responses={204: None}
    )
    def destroy(self, request: Request, pk: UUID, host: str) -> Response:
        """Remove the rule for a host. Then the network profile decides about the host again."""
        services.remove_host_rule(conversation_id=self.get_conversation().pk, host=host)
        return Response(status=204)
