"""The accounts API: who am I, my API keys, signing in and out."""

from typing import Any

from django.contrib import auth
from django.db.models import QuerySet
from django.http import HttpResponse
from django.middleware.csrf import get_token
from django.utils.decorators import method_decorator
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.debug import sensitive_variables
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, status, viewsets
from rest_framework.decorators import action
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import limits, services
from accounts.active import active_organization
from accounts.api.permissions import PUBLIC
from accounts.api.v1 import serializers
from accounts.models import ApiKey, Organization, User
from accounts.permissions import require
from accounts.requests import ApiRequest
from accounts.sign_in import second_step
from lib.api import conditional_response
from lib.problems import Problem
from lib.routes import RouteFacts


class WrongCredentials(Problem):
    """No such pair of e-mail address and password, or a user who may not sign in."""

    status = 401
    code = "wrong-credentials"
    sentence = "This e-mail address and password do not go together."


def described(user: Any) -> dict[str, Any]:
    """A user as ``MeSerializer`` wants it; the organizations are those the caller reaches."""
    memberships = user.memberships.select_related("organization").order_by("created_at", "pk")
    if user.bound_organization_id:
        memberships = memberships.filter(organization_id=user.bound_organization_id)
    return {
        "id": user.pk,
        "email": user.email,
        "name": user.name,
        "is_staff": user.is_staff,
        "organizations": memberships,
    }


class MeView(GenericAPIView[Any]):
    """The caller and the organizations the caller reaches."""

    permission = "account.view"
    serializer_class = serializers.MeSerializer
    pagination_class = None

    @extend_schema(operation_id="users_me_retrieve", tags=["users"])
    def get(self, request: ApiRequest) -> HttpResponse:
        user = request.user
        told = {name: getattr(user, name) for name in ("id", "email", "name", "is_staff")}
        return conditional_response(
            request, told | {"organizations": services.reachable_organizations(user)}
        )


@extend_schema(tags=["api-keys"])
class ApiKeyViewSet(
    mixins.ListModelMixin,
    mixins.RetrieveModelMixin,
    mixins.DestroyModelMixin,
    viewsets.GenericViewSet[ApiKey],
):
    """The caller's API keys, revoked ones included."""

    queryset = ApiKey.objects.none()
    serializer_class = serializers.ApiKeySerializer
    lookup_value_converter = "uuid"
    permissions_by_action = {  # noqa: RUF012 - a view's table, like DRF's own
        "list": "api_keys.view",
        "retrieve": "api_keys.view",
        "create": "api_keys.edit",
        "destroy": "api_keys.edit",
        "rotate": "api_keys.edit",
    }

    def get_queryset(self) -> QuerySet[ApiKey]:
        return ApiKey.objects.visible_to(self.request.user)

    @RouteFacts(cost="keys")
    @extend_schema(
        request=serializers.NewApiKeySerializer,
        responses={201: serializers.IssuedApiKeySerializer},
    )
    def create(self, request: ApiRequest) -> Response:
        """Make a key. Its secret is in this answer and in no other."""
        wanted = serializers.NewApiKeySerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        fields = dict(wanted.validated_data)
        organization = self._organization(fields.pop("organization", None))
        require(request.user, organization.pk, "api_keys.edit")
        key, secret = services.issue_api_key(
            user=request.user,
            organization=organization,
            not_after=getattr(request.auth, "expires_at", None),
            **fields,
        )
        answer = serializers.ApiKeySerializer(key).data | {"key": secret}
        return Response(answer, status=status.HTTP_201_CREATED)

    def _organization(self, wanted: Any) -> Organization:
        return active_organization(self.request._request, wanted)  # noqa: SLF001

    @extend_schema(
        request=serializers.RotationSerializer,
        responses={201: serializers.IssuedApiKeySerializer},
    )
    @action(detail=True, methods=["post"])
    def rotate(self, request: ApiRequest, *args: Any, **kwargs: Any) -> Response:
        """Make the key's successor: same name, scopes and networks. The old one works on for a while."""
        key = self.get_object()
        wanted = serializers.RotationSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        new, secret = services.rotate_api_key(
            key=key,
            by=request.user,
            not_after=getattr(request.auth, "expires_at", None),
            **wanted.validated_data,
        )
        answer = serializers.ApiKeySerializer(new).data | {"key": secret}
        return Response(answer, status=status.HTTP_201_CREATED)

    @extend_schema(description="Revoke a key now. It stays in the list. Safe to repeat.")
    def destroy(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        services.revoke_api_key(key=self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)


@RouteFacts(open_in_maintenance=True)
class CsrfView(GenericAPIView[Any]):
    """The token for forms and for unsafe requests with a session cookie."""

    permission = PUBLIC
    serializer_class = serializers.CsrfSerializer

    @extend_schema(operation_id="auth_csrf_retrieve", tags=["auth"])
    def get(self, request: Request) -> Response:
        """Set the cookie `XSRF-TOKEN` and give its token, to be sent as the header `X-XSRF-TOKEN`."""
        return Response(self.get_serializer(get_token(request)).data)


@RouteFacts(open_in_maintenance=True)
@method_decorator(csrf_protect, name="dispatch")
class SignInView(GenericAPIView[Any]):
    """A session for a front end of the same origin."""

    permission = PUBLIC
    authentication_classes = ()
    serializer_class = serializers.SignInSerializer

    @extend_schema(
        operation_id="auth_sign_in",
        tags=["auth"],
        responses={200: serializers.MeSerializer},
    )
    @method_decorator(sensitive_variables("wanted"))
    def post(self, request: Request) -> Response:
        """Sign in by e-mail address and password. Needs the CSRF token; attempts are limited.

        With a second factor, the answer without `code` is 401 `second-factor-needed`.
        """
        wanted = self.get_serializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        limits.check_sign_in(request, wanted.validated_data["email"])
        user = auth.authenticate(
            request._request,  # noqa: SLF001 - Django's own functions refuse DRF's wrapper
            username=wanted.validated_data["email"],
            password=wanted.validated_data["password"],
        )
        if not isinstance(user, User):
            raise WrongCredentials
        code = wanted.validated_data.get("code", "")
        second_step.sign_in(request._request, user, code=code)  # noqa: SLF001
        request.user = user
        context = self.get_serializer_context()
        return Response(serializers.MeSerializer(described(user), context=context).data)


@RouteFacts(open_in_maintenance=True)
class SignOutView(GenericAPIView[Any]):
    """The end of a session."""

    permission = PUBLIC
    serializer_class = None

    @extend_schema(operation_id="auth_sign_out", tags=["auth"], request=None, responses={204: None})
    def post(self, request: Request) -> Response:
        """End the session of the cookie. Safe to repeat; API keys are not touched."""
        if request.auth is None:
            auth.logout(request._request)  # noqa: SLF001
        return Response(status=status.HTTP_204_NO_CONTENT)
