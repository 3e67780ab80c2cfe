"""API endpoints of device sign-in (RFC 8628): a program requests codes, then polls for its API key.

There are no viewsets here: the RFC defines the request and response bodies, and no URL contains the id of a grant.
"""

import ipaddress
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.urls import reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.views.decorators.debug import sensitive_variables
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import limits
from accounts.api.permissions import PUBLIC
from accounts.services import devices
from lib.routes import RouteFacts


class NewDeviceSerializer(serializers.Serializer[Any]):
    """The name of a program, and the permissions that the program requests."""

    client_name = serializers.RegexField(
        r"^[^\x00-\x1f\x7f]+$",
        max_length=80,
        default="Command line",
        help_text="The name of the program, for the approval page and for the API key.",
    )
    scope = serializers.CharField(
        required=False,
        allow_blank=True,
        max_length=2_000,
        help_text="Names of the requested permissions, separated by spaces. Empty: all permissions of the "
        "user who approves the request.",
    )

    def validate_client_name(self, name: str) -> str:
        if not name.isprintable():
            raise serializers.ValidationError("Use only printable characters in the name.")
        return name


class DeviceCodesSerializer(serializers.Serializer[Any]):
    """The device code, the user code, the page on which a person enters the user code, and the times for polling."""

    device_code = serializers.CharField()
    user_code = serializers.CharField(
        help_text="A code such as BCDF-GHJK, which a person enters on the page."
    )
    verification_uri = serializers.URLField()
    verification_uri_complete = serializers.URLField()
    expires_in = serializers.IntegerField(help_text="The lifetime of both codes in seconds.")
    interval = serializers.IntegerField(help_text="The minimum time between two polls in seconds.")


class DeviceCodeSerializer(serializers.Serializer[Any]):
    """The device code with which a program polls."""

    device_code = serializers.CharField(max_length=200)


class DeviceTokenSerializer(serializers.Serializer[Any]):
    """The API key. Only this response contains it."""

    access_token = serializers.CharField()
    token_type = serializers.CharField()
    expires_in = serializers.IntegerField(help_text="The lifetime of the API key in seconds.")
    scope = serializers.CharField(help_text="Permission names separated by spaces.")


class DevicePollRefusalSerializer(serializers.Serializer[Any]):
    """The problem details of a poll that returns no key. ``error`` is an error code of RFC 8628 or RFC 6749."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    code = serializers.CharField()
    error = serializers.CharField(
        help_text="`authorization_pending`, `slow_down`, `access_denied`, `expired_token` or `invalid_grant`."
    )
    interval = serializers.IntegerField(
        required=False, help_text="The minimum time between two polls in seconds."
    )


@RouteFacts(open_in_maintenance=True)
class DeviceView(GenericAPIView[Any]):
    """The endpoint with which a program starts a device sign-in."""

    permission = PUBLIC
    authentication_classes = ()
    serializer_class = NewDeviceSerializer

    @extend_schema(
        operation_id="auth_device", tags=["auth"], responses={200: DeviceCodesSerializer}
    )
    def post(self, request: Request) -> Response:
        """Request an API key. Show the user code and the page's URL to a person, then poll.

        Requests are rate limited by client address.
        """
        body = self.get_serializer(data=request.data)
        body.is_valid(raise_exception=True)
        limits.check_device_start(request)
        codes = devices.start_device_sign_in(
            client_name=body.validated_data["client_name"],
            scopes=body.validated_data.get("scope", "").split(),
            address=_address(request),
        )
        page = settings.PUBLIC_URL + reverse("device")
        response = {
            "device_code": codes.device_code,
            "user_code": codes.user_code,
            "verification_uri": page,
            "verification_uri_complete": f"{page}?{urlencode({'user_code': codes.user_code})}",
            "expires_in": int(devices.LIFETIME.total_seconds()),
            "interval": codes.grant.interval,
        }
        return Response(DeviceCodesSerializer(response).data)


@RouteFacts(open_in_maintenance=True)
class DeviceTokenView(GenericAPIView[Any]):
    """The endpoint that a program polls until it gets its API key."""

    permission = PUBLIC
    authentication_classes = ()
    serializer_class = DeviceCodeSerializer

    @extend_schema(
        operation_id="auth_device_token",
        tags=["auth"],
        responses={200: DeviceTokenSerializer, 400: DevicePollRefusalSerializer},
    )
    @method_decorator(sensitive_variables("body", "issued", "response"))
    def post(self, request: Request) -> Response:
        """Poll for the API key. After the approval, the first poll returns the key; later polls are refused."""
        body = self.get_serializer(data=request.data)
        body.is_valid(raise_exception=True)
        issued = devices.fetch_device_key(device_code=body.validated_data["device_code"])
        assert issued.key.expires_at is not None  # for mypy: the service sets a lifetime
        response = {
            "access_token": issued.plain,
            "token_type": "Bearer",
            "expires_in": round((issued.key.expires_at - timezone.now()).total_seconds()),
            "scope": " ".join(issued.scopes),
        }
        return Response(DeviceTokenSerializer(response).data)


def _address(request: Request) -> str | None:
    try:
        return str(ipaddress.ip_address(limits.client_address(request)))
    except ValueError:
        return None  # A Unix socket without a proxy's header has no client address.
