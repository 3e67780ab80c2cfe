"""API endpoints for the caller, for the explanation of permissions, and for signing in and out with a session."""

from dataclasses import asdict
from typing import Any

from django.contrib import auth
from django.http import HttpResponse
from django.middleware.csrf import get_token
from django.utils.decorators import method_decorator
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.debug import sensitive_variables
from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.exceptions import ValidationError
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import services
from accounts.active import active_organization
from accounts.api.permissions import PUBLIC
from accounts.api.v1 import serializers
from accounts.models import User
from accounts.permissions import explain
from accounts.requests import ApiRequest
from accounts.roles import PERMISSIONS
from accounts.sign_in import second_step
from accounts.sign_in.authentication import count_sign_in
from lib.api import conditional_response
from lib.problems import Problem
from lib.routes import RouteFacts


class WrongCredentials(Problem):
    """The e-mail address or the password is wrong, or the account is suspended."""

    status = 401
    code = "wrong-credentials"
    sentence = "The e-mail address or the password is wrong. Check both and try again."


def serialize_user(user: Any) -> dict[str, Any]:
    """Return a user and the user's memberships as the input of ``MeSerializer``.

    For a request with an API key, return only the membership in the key's organization.
    """
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
    """The caller and the caller's organizations.

    No viewset: the URL has no collection, and ``bench rest`` measures this route, which skips DRF's
    serializer and renderer.
    """

    permission = "account.view"
    serializer_class = serializers.MeSerializer
    pagination_class = None

    @extend_schema(operation_id="users_me_retrieve", tags=["users"])
    def get(self, request: ApiRequest) -> HttpResponse:
        """Return the caller and the organizations that the caller can work in."""
        user = request.user
        fields = {name: getattr(user, name) for name in ("id", "email", "name", "is_staff")}
        return conditional_response(
            request, fields | {"organizations": services.reachable_organizations(user)}
        )


@extend_schema(tags=["users"])
class ExplainView(GenericAPIView[Any]):
    """The reason why the caller has a permission or lacks it.

    No viewset: the response is computed from the query string, not read from a database row.
    """

    permission = "account.view"
    serializer_class = serializers.ExplanationSerializer
    pagination_class = None

    @extend_schema(operation_id="permissions_explain", parameters=[serializers.ExplainQuery])
    def get(self, request: ApiRequest) -> Response:
        """Return whether the caller has a permission in an organization, the reason, and how to get the permission."""
        query = serializers.ExplainQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        permission = query.validated_data["permission"]
        if permission not in PERMISSIONS:
            raise ValidationError({"permission": ["There is no permission with this name."]})
        organization_id = query.validated_data.get("organization")
        if organization_id is None:
            organization_id = active_organization(request).pk
        explanation = explain(request.user, organization_id, permission)
        return Response(self.get_serializer(asdict(explanation)).data)


@RouteFacts(open_in_maintenance=True)
class CsrfView(GenericAPIView[Any]):
    """The CSRF token for forms and for unsafe requests with a session cookie.

    No viewset: the token is not stored; it belongs to the cookie that the response sets.
    """

    permission = PUBLIC
    serializer_class = serializers.CsrfSerializer

    @extend_schema(operation_id="auth_csrf_retrieve", tags=["auth"])
    def get(self, request: Request) -> Response:
        """Set the cookie `XSRF-TOKEN`, and return a token that clients send in the header `X-XSRF-TOKEN`."""
        return Response(self.get_serializer(get_token(request)).data)


@RouteFacts(open_in_maintenance=True)
@method_decorator(csrf_protect, name="dispatch")
class SignInView(GenericAPIView[Any]):
    """The endpoint that starts a session, for a front end on the same origin.

    No viewset: the URL names no session. ``SessionViewSet`` lists and ends sessions.
    """

    permission = PUBLIC
    authentication_classes = ()
    serializer_class = serializers.SignInSerializer

    @extend_schema(
        operation_id="auth_sign_in",
        tags=["auth"],
        responses={200: serializers.MeSerializer},
    )
    @method_decorator(sensitive_variables("body"))
    def post(self, request: Request) -> Response:
        """Sign in with an e-mail address and a password. The request needs a CSRF token. Attempts are rate limited.

        If the user has a second factor and the field `code` is absent, respond 401 with the problem code
        `second-factor-needed`.
        """
        body = self.get_serializer(data=request.data)
        body.is_valid(raise_exception=True)
        count_sign_in(request._request, body.validated_data["email"])  # noqa: SLF001
        user = auth.authenticate(
            request._request,  # noqa: SLF001 - Django's own functions refuse DRF's wrapper
            username=body.validated_data["email"],
            password=body.validated_data["password"],
        )
        if not isinstance(user, User):
            raise WrongCredentials
        code = body.validated_data.get("code", "")
        second_step.sign_in(request._request, user, code=code)  # noqa: SLF001
        request.user = user
        context = self.get_serializer_context()
        return Response(serializers.MeSerializer(serialize_user(user), context=context).data)


@RouteFacts(open_in_maintenance=True)
class SignOutView(GenericAPIView[Any]):
    """The endpoint that ends the session of the request's cookie.

    No viewset: the URL names no session, and the operation also works without a session.
    """

    permission = PUBLIC
    serializer_class = None

    @extend_schema(operation_id="auth_sign_out", tags=["auth"], request=None, responses={204: None})
    def post(self, request: Request) -> Response:
        """End the session of the cookie. API keys stay valid. Safe to repeat."""
        # ``request.auth`` is an API key or access token. A request with either of them has no session to end.
        if request.auth is None:
            auth.logout(request._request)  # noqa: SLF001
        return Response(status=status.HTTP_204_NO_CONTENT)
