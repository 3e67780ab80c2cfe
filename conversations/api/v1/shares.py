"""API endpoints for a conversation's public links, for members of the conversation's organization."""

from typing import Any
from uuid import UUID

from django.conf import settings
from drf_spectacular.utils import extend_schema, extend_schema_serializer
from rest_framework import serializers, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.requests import ApiRequest
from conversations import services
from conversations.api.v1.mixins import NestedMixin
from lib.api import MomentField


class NewShareSerializer(serializers.Serializer[Any]):
    """A new public link. Until ``expires_at``, the link shows the log up to the seq ``through_seq``."""

    expires_at = MomentField(help_text="A time in the future, at most one year from now.")
    through_seq = serializers.IntegerField(
        required=False,
        allow_null=True,
        min_value=1,
        max_value=2**62,
        help_text="The seq of the last event that the link shows; by default the newest event.",
    )


class ShareSerializer(serializers.Serializer[Any]):
    """A public link. Its URL is shown only when the link is created."""

    id = serializers.UUIDField()
    through_seq = serializers.IntegerField()
    view_count = serializers.IntegerField()
    expires_at = serializers.DateTimeField()
    revoked_at = serializers.DateTimeField(allow_null=True)
    created_at = serializers.DateTimeField()
    created_by = serializers.UUIDField(source="created_by_id")


class MadeShareSerializer(ShareSerializer):
    """A new public link with its token and URL, which are shown only once."""

    token = serializers.CharField()
    url = serializers.CharField()


@extend_schema_serializer(many=False)
class ShareListSerializer(serializers.Serializer[Any]):
    items = ShareSerializer(many=True)


class ShareViewSerializer(serializers.Serializer[Any]):
    viewed_at = serializers.DateTimeField()
    network = serializers.CharField(
        allow_blank=True,
        help_text="The viewer's network (/24 for IPv4, /48 for IPv6). The full IP address is not stored.",
    )


class ShareViewsSerializer(serializers.Serializer[Any]):
    items = ShareViewSerializer(many=True)


class ShareViewSet(NestedMixin, viewsets.ViewSet):
    """The public links of a conversation."""

    permission = "conversations.share"
    permissions_by_action = {"list": "conversations.view"}  # noqa: RUF012 - read by HasPermission
    lookup_url_kwarg = "share_id"
    lookup_value_converter = "uuid"
    url_names = {"destroy": "share"}  # noqa: RUF012 - read by Router

    @extend_schema(operation_id="conversations_shares_list", responses=ShareListSerializer)
    def list(self, request: Request, pk: UUID) -> Response:
        """List the conversation's public links, newest first. The list includes expired and revoked links."""
        rows = services.list_shares(conversation=self.get_conversation())
        return Response({"items": ShareSerializer(rows, many=True).data})

    @extend_schema(
        operation_id="conversations_shares_create",
        request=NewShareSerializer,
        responses={201: MadeShareSerializer},
    )
    def create(self, request: ApiRequest, pk: UUID) -> Response:
        """Create a public link. Only this response contains the token. The link shows the log without secrets."""
        conversation = self.get_conversation()
        body = self.validate_body(NewShareSerializer)
        share, token = services.create_share(user=request.user, conversation=conversation, **body)
        url = f"{settings.PUBLIC_URL}/shared/{token}"
        return Response(ShareSerializer(share).data | {"token": token, "url": url}, status=201)

    @extend_schema(
        operation_id="conversations_shares_revoke", request=None, responses=ShareSerializer
    )
    def destroy(self, request: Request, pk: UUID, share_id: UUID) -> Response:
        """Revoke a public link. The link and its views can still be listed."""
        conversation = self.get_conversation()
        share = services.revoke_share(conversation=conversation, share_id=share_id)
        return Response(ShareSerializer(share).data)

    @extend_schema(operation_id="conversations_shares_views", responses=ShareViewsSerializer)
    @action(detail=True, methods=["get"])
    def views(self, request: Request, pk: UUID, share_id: UUID) -> Response:
        """List the newest hundred views of a public link, each with its time and network."""
        rows = services.list_share_views(conversation=self.get_conversation(), share_id=share_id)
        return Response({"items": ShareViewSerializer(rows, many=True).data})
