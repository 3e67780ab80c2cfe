"""``/api/options/…``, ``/health``, ``/server_info`` and ``/saas``: what clients ask of the installation itself."""

import time
from typing import Any

import psutil
from django.conf import settings
from django.middleware.csrf import get_token
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.permissions import PUBLIC
from accounts.services import site
from accounts.settings.fields import AGENTS, ANALYZERS
from lib.routes import NOTHING, RouteFacts

STARTED = time.monotonic()


class FeatureFlagsSerializer(serializers.Serializer[Any]):
    """What parts of the client have something behind them."""

    ENABLE_BILLING = serializers.BooleanField()
    HIDE_LLM_SETTINGS = serializers.BooleanField()
    ENABLE_JIRA = serializers.BooleanField()
    ENABLE_JIRA_DC = serializers.BooleanField()
    ENABLE_LINEAR = serializers.BooleanField()


class CompatConfigSerializer(serializers.Serializer[Any]):
    """What the web client needs to know before anybody signs in; absent keys do not apply."""

    APP_MODE = serializers.ChoiceField(["saas", "oss"])
    APP_SLUG = serializers.CharField(allow_null=True)
    GITHUB_CLIENT_ID = serializers.CharField(allow_blank=True)
    POSTHOG_CLIENT_KEY = serializers.CharField(allow_blank=True)
    PROVIDERS_CONFIGURED = serializers.ListField(child=serializers.CharField())
    AUTH_URL = serializers.CharField(required=False)
    FEATURE_FLAGS = FeatureFlagsSerializer()
    MAINTENANCE = serializers.DictField(child=serializers.CharField(), required=False)


@RouteFacts(replaced_by="/api/v1/options/config")
@extend_schema(tags=["compat"])
class CompatConfigView(GenericAPIView[Any]):
    """The web client's configuration."""

    permission = PUBLIC
    serializer_class = CompatConfigSerializer

    @extend_schema(operation_id="compat_options_config")
    def get(self, request: Request) -> Response:
        """The first call of the web client; sets the cookie `XSRF-TOKEN`, which it sends back by itself."""
        get_token(request._request)  # noqa: SLF001 - Django's own functions refuse DRF's wrapper
        found = site.site_config()
        told: dict[str, Any] = {
            "APP_MODE": found.app_mode,
            "APP_SLUG": None,
            "GITHUB_CLIENT_ID": "",
            "POSTHOG_CLIENT_KEY": "",
            "PROVIDERS_CONFIGURED": found.providers,
            "FEATURE_FLAGS": {
                name if name == "HIDE_LLM_SETTINGS" else f"ENABLE_{name}": is_on
                for name, is_on in ((n.upper(), is_on) for n, is_on in found.features.items())
            },
        }
        if found.auth_url:
            told["AUTH_URL"] = found.auth_url
        if found.maintenance_at:
            told["MAINTENANCE"] = {"startTime": found.maintenance_at.isoformat()}
        return Response(told)


NAMES = {"type": "array", "items": {"type": "string"}}


@RouteFacts(replaced_by="/api/v1/options/agents")
@extend_schema(tags=["compat"])
class CompatAgentsView(GenericAPIView[Any]):
    """Agents to choose from."""

    permission = "account.view"
    serializer_class = None

    @extend_schema(operation_id="compat_options_agents", responses={200: NAMES})
    def get(self, request: Request) -> Response:
        """Their names."""
        return Response(sorted(AGENTS))


@RouteFacts(replaced_by="/api/v1/options/security-analyzers")
@extend_schema(tags=["compat"])
class CompatAnalyzersView(GenericAPIView[Any]):
    """Security analyzers to choose from."""

    permission = "account.view"
    serializer_class = None

    @extend_schema(operation_id="compat_options_analyzers", responses={200: NAMES})
    def get(self, request: Request) -> Response:
        """Their names."""
        return Response(sorted(ANALYZERS))


@RouteFacts(replaced_by="/alive")
@extend_schema(tags=["compat"])
class HealthView(GenericAPIView[Any]):
    """Whether this process answers."""

    permission = PUBLIC
    serializer_class = None

    @extend_schema(operation_id="compat_health", responses={200: {"type": "string"}})
    def get(self, request: Request) -> Response:
        """Always `"OK"`; `/ready` says whether what it needs answers too."""
        return Response("OK")


@RouteFacts(replaced_by=NOTHING)
@extend_schema(tags=["compat"])
class SaasView(GenericAPIView[Any]):
    """In which mode clients present themselves."""

    permission = PUBLIC
    serializer_class = None

    @extend_schema(
        operation_id="compat_saas",
        responses={200: {"type": "object", "properties": {"saas": {"type": "boolean"}}}},
    )
    def get(self, request: Request) -> Response:
        """Whether people sign in to it as to a service."""
        return Response({"saas": settings.APP_MODE == "saas"})


@RouteFacts(replaced_by=NOTHING)
@extend_schema(tags=["compat"])
class ServerInfoView(GenericAPIView[Any]):
    """What this process takes of its machine."""

    permission = PUBLIC
    serializer_class = None

    @extend_schema(
        operation_id="compat_server_info",
        responses={200: {"type": "object", "additionalProperties": {}}},
    )
    def get(self, request: Request) -> Response:
        """Seconds since its start, and its own share of the machine; it is never idle while it answers this."""
        process = psutil.Process()
        with process.oneshot():
            memory, reads = process.memory_info(), _io(process)
            share = process.memory_percent()
            spent = process.cpu_times()
        uptime = time.monotonic() - STARTED
        return Response(
            {
                "uptime": uptime,
                "idle_time": 0.0,
                "resources": {
                    "cpu_percent": round(100 * (spent.user + spent.system) / max(uptime, 1), 1),
                    "memory": {"rss": memory.rss, "vms": memory.vms, "percent": share},
                    "disk": {},  # the machine's, which are nobody's business out there
                    "io": reads,
                },
            }
        )


def _io(process: psutil.Process) -> dict[str, int]:
    counters = getattr(process, "io_counters", None)  # macOS has none
    if counters is None:
        return {}
    try:
        found = counters()
    except psutil.Error:
        return {}
    return {"read_bytes": found.read_bytes, "write_bytes": found.write_bytes}
