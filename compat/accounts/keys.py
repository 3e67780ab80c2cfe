"""``/api/keys``: API keys as existing clients know them; and the model key, which there is not."""

from typing import Any
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.generics import get_object_or_404
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import services
from accounts.api.v1.settings import InActiveOrganization
from accounts.models import ApiKey
from accounts.requests import ApiRequest
from compat.accounts.views import MESSAGE
from lib.problems import Problem
from lib.routes import NOTHING, RouteFacts


class ExpiresInThePast(Problem):
    """A key that would have ended already."""

    status = 422
    code = "expires-in-the-past"
    sentence = "expires_at lies in the past."


class NoModelKey(Problem):
    """There is no model key that a person could take away: the gateway's are bound to one conversation.

    Clients hide the part of their page that would show it.
    """

    status = 404
    code = "no-model-key"
    sentence = (
        "This server gives no model keys away: its gateway's keys belong to one conversation."
    )


class CompatKeySerializer(serializers.ModelSerializer[ApiKey]):
    """A key without its secret."""

    prefix = serializers.CharField(read_only=True)

    class Meta:
        model = ApiKey
        fields = ("id", "name", "prefix", "created_at", "last_used_at", "expires_at")


class MadeCompatKeySerializer(CompatKeySerializer):
    """A new key with its secret, once."""

    key = serializers.CharField(read_only=True)

    class Meta:
        model = ApiKey
        fields = (*CompatKeySerializer.Meta.fields, "key")


class NewCompatKeySerializer(serializers.Serializer[Any]):
    """A key to make."""

    name = serializers.CharField(max_length=80, required=False, allow_null=True)
    expires_at = serializers.DateTimeField(required=False, allow_null=True)


@RouteFacts(replaced_by="/api/v1/api-keys")
@extend_schema(tags=["compat"])
class CompatKeysView(InActiveOrganization):
    """The caller's usable keys in the organization that the request works in."""

    serializer_class = CompatKeySerializer
    pagination_class = None
    permissions_by_action = {"get": "api_keys.view", "post": "api_keys.edit"}  # noqa: RUF012

    @extend_schema(operation_id="compat_keys_list", responses=CompatKeySerializer(many=True))
    def get(self, request: ApiRequest) -> Response:
        """The keys, newest first."""
        rows = ApiKey.objects.visible_to(request.user).usable()
        rows = rows.filter(organization=self.organization()).order_by("-created_at")
        return Response(self.get_serializer(rows, many=True).data)

    @extend_schema(
        operation_id="compat_keys_create",
        request=NewCompatKeySerializer,
        responses=MadeCompatKeySerializer,
    )
    def post(self, request: ApiRequest) -> Response:
        """Make a key; `key` is shown this once."""
        user = request.user
        organization = self.organization()
        wanted = self.body(NewCompatKeySerializer)
        ends = wanted.get("expires_at")
        if ends is not None and ends <= timezone.now():
            raise ExpiresInThePast
        held = request.auth.expires_at if isinstance(request.auth, ApiKey) else None
        key, plain = services.issue_api_key(
            user=user,
            organization=organization,
            name=wanted.get("name") or "API key",
            not_after=min(filter(None, (ends, held)), default=None),
        )
        return Response({**CompatKeySerializer(key).data, "key": plain})


@RouteFacts(replaced_by="/api/v1/api-keys/{}")
@extend_schema(tags=["compat"])
class CompatKeyView(InActiveOrganization):
    """One of the caller's keys."""

    permission = "api_keys.edit"
    serializer_class = None

    @extend_schema(operation_id="compat_keys_destroy", responses=MESSAGE)
    def delete(self, request: ApiRequest, pk: UUID) -> Response:
        """Revoke it."""
        rows = ApiKey.objects.visible_to(request.user).filter(organization=self.organization())
        services.revoke_api_key(key=get_object_or_404(rows, pk=pk))
        return Response({"message": "API key deleted"})


@RouteFacts(replaced_by=NOTHING)
@extend_schema(tags=["compat"], responses={404: None})
class ModelKeyView(InActiveOrganization):
    """The model key that clients ask for."""

    permission = "api_keys.view"
    serializer_class = None

    @extend_schema(operation_id="compat_model_key_retrieve")
    def get(self, request: Request) -> Response:
        """There is none: always 404."""
        raise NoModelKey


@RouteFacts(replaced_by=NOTHING)
@extend_schema(tags=["compat"], responses={404: None})
class ModelKeyRefreshView(InActiveOrganization):
    """Another model key."""

    permission = "api_keys.edit"
    serializer_class = None

    @extend_schema(operation_id="compat_model_key_refresh", request=None)
    def post(self, request: Request) -> Response:
        """There is none: always 404."""
        raise NoModelKey
