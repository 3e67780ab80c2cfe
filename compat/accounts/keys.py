"""``/api/keys``: the routes of existing clients for API keys and for model keys.

A model key lets a user call models. This server issues no such keys, so the routes for them respond with 404.
"""

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
from lib.api import MomentField
from lib.problems import Problem
from lib.routes import NOTHING, RouteFacts


class ExpiresInThePast(Problem):
    """The requested expiry of a key is in the past."""

    status = 422
    code = "expires-in-the-past"
    sentence = "`expires_at` is in the past. Choose a later time."


class NoModelKey(Problem):
    """This server issues no keys for models to users: each key of its model gateway belongs to one conversation.

    When the web client receives this error, it hides the section of its page for this key.
    """

    status = 404
    code = "no-model-key"
    sentence = "This server does not issue model keys to users."


class CompatKeySerializer(serializers.ModelSerializer[ApiKey]):
    """An API key without its secret."""

    # The web client shows the prefix. OpenHands' own server returns none.
    prefix = serializers.CharField(read_only=True)

    class Meta:
        model = ApiKey
        fields = ("id", "name", "prefix", "created_at", "last_used_at", "expires_at")


class CreatedCompatKeySerializer(CompatKeySerializer):
    """A new API key with its secret, which is returned only once."""

    key = serializers.CharField(read_only=True)

    class Meta:
        model = ApiKey
        fields = (*CompatKeySerializer.Meta.fields, "key")


class NewCompatKeySerializer(serializers.Serializer[Any]):
    """The name and the expiry of a new API key."""

    name = serializers.CharField(max_length=80, required=False, allow_null=True)
    expires_at = MomentField(required=False, allow_null=True)


@RouteFacts(replaced_by="/api/v1/api-keys")
@extend_schema(tags=["compat"])
class CompatKeysView(InActiveOrganization):
    """The routes that list the caller's usable API keys in the active organization, and create a key."""

    serializer_class = CompatKeySerializer
    pagination_class = None
    permissions_by_action = {"get": "api_keys.view", "post": "api_keys.edit"}  # noqa: RUF012

    @extend_schema(operation_id="compat_keys_list", responses=CompatKeySerializer(many=True))
    def get(self, request: ApiRequest) -> Response:
        """Return the usable API keys, newest first."""
        rows = ApiKey.objects.visible_to(request.user).usable()
        rows = rows.filter(organization=self.organization()).order_by("-created_at")
        return Response(self.get_serializer(rows, many=True).data)

    @extend_schema(
        operation_id="compat_keys_create",
        request=NewCompatKeySerializer,
        responses=CreatedCompatKeySerializer,
    )
    def post(self, request: ApiRequest) -> Response:
        """Create a key. `key` is returned only in this response.

        The new key does not outlive the API key or the access token of the request.
        """
        user = request.user
        organization = self.organization()
        body = self.body(NewCompatKeySerializer)
        expires_at = body.get("expires_at")
        if expires_at is not None and expires_at <= timezone.now():
            raise ExpiresInThePast
        key, plain = services.issue_api_key(
            user=user,
            organization=organization,
            name=body.get("name") or "API key",
            not_after=expires_at,
        )
        return Response({**CompatKeySerializer(key).data, "key": plain})


@RouteFacts(replaced_by="/api/v1/api-keys/{}")
@extend_schema(tags=["compat"])
class CompatKeyView(InActiveOrganization):
    """The route that revokes an API key."""

    permission = "api_keys.edit"
    serializer_class = None

    @extend_schema(operation_id="compat_keys_destroy", responses=MESSAGE)
    def delete(self, request: ApiRequest, pk: UUID) -> Response:
        """Revoke the key. The message names the keys that were created with it and still work."""
        rows = ApiKey.objects.visible_to(request.user).filter(organization=self.organization())
        left = services.revoke_api_key(key=get_object_or_404(rows, pk=pk))
        message = "API key deleted"
        if left:
            names = ", ".join(key.prefix for key in left)
            message += f". These keys were created with it and still work: {names}"
        return Response({"message": message})


@RouteFacts(replaced_by=NOTHING)
@extend_schema(tags=["compat"], responses={404: None})
class ModelKeyView(InActiveOrganization):
    """The route for a user's model key. This server issues no such keys."""

    permission = "api_keys.view"
    serializer_class = None

    @extend_schema(operation_id="compat_model_key_retrieve")
    def get(self, request: Request) -> Response:
        """Respond with 404: this server issues no keys for models to users."""
        raise NoModelKey


@RouteFacts(replaced_by=NOTHING)
@extend_schema(tags=["compat"], responses={404: None})
class ModelKeyRefreshView(InActiveOrganization):
    """The route that replaces a user's model key. This server issues no such keys."""

    permission = "api_keys.edit"
    serializer_class = None

    @extend_schema(operation_id="compat_model_key_refresh", request=None)
    def post(self, request: Request) -> Response:
        """Respond with 404: this server issues no keys for models to users."""
        raise NoModelKey
