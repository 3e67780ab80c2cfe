"""Device sign-in over the API: a program asks for codes, then polls for its key (RFC 8628)."""

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
    """What a program says about itself, and what it asks for."""

    client_name = serializers.RegexField(
        r"^[^\x00-\x1f\x7f]+$",
        max_length=80,
        default="Command line",
        help_text="Shown to whoever approves, and the name of the key.",
    )
    scope = serializers.CharField(
        required=False,
        allow_blank=True,
        max_length=2_000,
        help_text="Permission names with spaces between; empty asks for all of the approver's.",
    )

    def validate_client_name(self, name: str) -> str:
        if not name.isprintable():
            raise serializers.ValidationError("A name has characters that can be printed.")
        return name


class DeviceCodesSerializer(serializers.Serializer[Any]):
    """The codes, where to enter the short one, and how to poll with the long one."""

    device_code = serializers.CharField()
    user_code = serializers.CharField(help_text="XXXX-XXXX, for a person to enter or compare.")
    verification_uri = serializers.URLField()
    verification_uri_complete = serializers.URLField()
    expires_in = serializers.IntegerField(help_text="Seconds.")
    interval = serializers.IntegerField(help_text="Seconds between two polls.")


class DeviceCodeSerializer(serializers.Serializer[Any]):
    """The long code."""

    device_code = serializers.CharField(max_length=200)


class DeviceTokenSerializer(serializers.Serializer[Any]):
    """The key. It is in this answer and in no other."""

    access_token = serializers.CharField()
    token_type = serializers.CharField()
    expires_in = serializers.IntegerField(help_text="Seconds.")
    scope = serializers.CharField(help_text="Permission names with spaces between.")


class DevicePollRefusalSerializer(serializers.Serializer[Any]):
    """Problem details whose ``error`` is a word of RFC 8628 or RFC 6749."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    code = serializers.CharField()
    error = serializers.CharField(
        help_text="authorization_pending, slow_down, access_denied, expired_token, invalid_grant."
    )
    interval = serializers.IntegerField(required=False, help_text="Seconds between two polls.")


@RouteFacts(open_in_maintenance=True)
class DeviceView(GenericAPIView[Any]):
    """The beginning of a device sign-in."""

    permission = PUBLIC
    authentication_classes = ()
    serializer_class = NewDeviceSerializer

    @extend_schema(
        operation_id="auth_device", tags=["auth"], responses={200: DeviceCodesSerializer}
    )
    def post(self, request: Request) -> Response:
        """Ask for a key. Show the user code and the address to a person, then poll. Limited by address."""
        wanted = self.get_serializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        limits.check_device_start(request)
        codes = devices.start_device_sign_in(
            client_name=wanted.validated_data["client_name"],
            scopes=wanted.validated_data.get("scope", "").split(),
            address=_address(request),
        )
        page = settings.PUBLIC_URL + reverse("device")
        answer = {
            "device_code": codes.device_code,
            "user_code": codes.user_code,
            "verification_uri": page,
            "verification_uri_complete": f"{page}?{urlencode({'user_code': codes.user_code})}",
            "expires_in": int(devices.LIFETIME.total_seconds()),
            "interval": codes.grant.interval,
        }
        return Response(DeviceCodesSerializer(answer).data)


@RouteFacts(open_in_maintenance=True)
class DeviceTokenView(GenericAPIView[Any]):
    """The end of a device sign-in."""

    permission = PUBLIC
    authentication_classes = ()
    serializer_class = DeviceCodeSerializer

    @extend_schema(
        operation_id="auth_device_token",
        tags=["auth"],
        responses={200: DeviceTokenSerializer, 400: DevicePollRefusalSerializer},
    )
    @method_decorator(sensitive_variables("wanted", "made", "answer"))
    def post(self, request: Request) -> Response:
        """Poll for the key of a device code; an approved code gives one key, once."""
        wanted = self.get_serializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        made = devices.fetch_device_key(device_code=wanted.validated_data["device_code"])
        assert made.key.expires_at is not None
        answer = {
            "access_token": made.plain,
            "token_type": "Bearer",
            "expires_in": round((made.key.expires_at - timezone.now()).total_seconds()),
            "scope": " ".join(made.scopes),
        }
        return Response(DeviceTokenSerializer(answer).data)


def _address(request: Request) -> str | None:
    try:
        return str(ipaddress.ip_address(limits.client_address(request)))
    except ValueError:
        return None  # a Unix socket without a proxy's header
