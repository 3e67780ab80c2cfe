"""``/api/options/…``, ``/health``, ``/server_info`` and ``/saas``: information about the installation."""

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
from accounts.permissions import may_operate
from accounts.services import site
from accounts.settings.fields import AGENTS, ANALYZERS
from lib.routes import NOTHING, RouteFacts


class FeatureFlagsSerializer(serializers.Serializer[Any]):
    """Flags that show or hide parts of the web client."""

    ENABLE_BILLING = serializers.BooleanField()
    HIDE_LLM_SETTINGS = serializers.BooleanField()
    ENABLE_JIRA = serializers.BooleanField()
    ENABLE_JIRA_DC = serializers.BooleanField()
    ENABLE_LINEAR = serializers.BooleanField()


class CompatConfigSerializer(serializers.Serializer[Any]):
    """The configuration that the web client reads before a user signs in."""

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
        """Return the web client's configuration, and set the cookie `XSRF-TOKEN`.

        The cookie holds the CSRF token. This is the web client's first request, and its HTTP library sends the token as
        a header with every later request.
        """
        get_token(request._request)  # noqa: SLF001 - Django's own functions refuse DRF's wrapper
        site_config = site.site_config()
        config: dict[str, Any] = {
            "APP_MODE": site_config.app_mode,
            "APP_SLUG": None,
            "GITHUB_CLIENT_ID": "",
            "POSTHOG_CLIENT_KEY": "",  # empty: the web client sends no analytics
            "PROVIDERS_CONFIGURED": site_config.providers,
            # The web client's names have the prefix ENABLE_, except one.
            "FEATURE_FLAGS": {
                name if name == "HIDE_LLM_SETTINGS" else f"ENABLE_{name}": is_on
                for name, is_on in ((n.upper(), is_on) for n, is_on in site_config.features.items())
            },
        }
        # The web client builds Keycloak's URL from this value, always with https://.
        if site_config.auth_url:
            config["AUTH_URL"] = site_config.auth_url
        if site_config.maintenance_at:
            config["MAINTENANCE"] = {"startTime": site_config.maintenance_at.isoformat()}
        return Response(config)


NAMES = {"type": "array", "items": {"type": "string"}}


@RouteFacts(replaced_by="/api/v1/options/agents")
@extend_schema(tags=["compat"])
class CompatAgentsView(GenericAPIView[Any]):
    """The names of agents to choose from."""

    permission = "account.view"
    serializer_class = None

    @extend_schema(operation_id="compat_options_agents", responses={200: NAMES})
    def get(self, request: Request) -> Response:
        """Return the names of the agents."""
        return Response(sorted(AGENTS))


@RouteFacts(replaced_by="/api/v1/options/security-analyzers")
@extend_schema(tags=["compat"])
class CompatAnalyzersView(GenericAPIView[Any]):
    """The names of security analyzers to choose from."""

    permission = "account.view"
    serializer_class = None

    @extend_schema(operation_id="compat_options_analyzers", responses={200: NAMES})
    def get(self, request: Request) -> Response:
        """Return the names of the security analyzers."""
        return Response(sorted(ANALYZERS))


@RouteFacts(replaced_by="/alive", called_by="probe")
@extend_schema(tags=["compat"])
class HealthView(GenericAPIView[Any]):
    """Whether this process responds to requests."""

    permission = PUBLIC
    serializer_class = None

    @extend_schema(operation_id="compat_health", responses={200: {"type": "string"}})
    def get(self, request: Request) -> Response:
        """Return `"OK"`. `/ready` also checks the services that this process depends on."""
        return Response("OK")


@RouteFacts(replaced_by=NOTHING)
@extend_schema(tags=["compat"])
class SaasView(GenericAPIView[Any]):
    """Whether the web client runs in its SaaS mode."""

    permission = PUBLIC
    serializer_class = None

    @extend_schema(
        operation_id="compat_saas",
        responses={200: {"type": "object", "properties": {"saas": {"type": "boolean"}}}},
    )
    def get(self, request: Request) -> Response:
        """Return whether `APP_MODE` is `saas`, the mode with sign-in."""
        return Response({"saas": settings.APP_MODE == "saas"})


@RouteFacts(replaced_by=NOTHING, called_by="probe")
@extend_schema(tags=["compat"])
class ServerInfoView(GenericAPIView[Any]):
    """The uptime and the resource use of this process."""

    permission = PUBLIC
    serializer_class = None

    @extend_schema(
        operation_id="compat_server_info",
        responses={200: {"type": "object", "additionalProperties": {}}},
    )
    def get(self, request: Request) -> Response:
        """Return this process's uptime in seconds and its use of CPU, memory and I/O to staff that may view nodes.

        For all other callers, `uptime` is null and `resources` is empty. `idle_time` is always 0, because the process
        is handling this request. `cpu_percent` is the average since the process started.
        """
        if not may_operate(request.user, "nodes.view"):
            return Response({"uptime": None, "idle_time": 0.0, "resources": {}})
        process = psutil.Process()
        with process.oneshot():
            memory, io = process.memory_info(), _io(process)
            cpu = process.cpu_times()
            uptime = time.time() - process.create_time()
        return Response(
            {
                "uptime": uptime,
                "idle_time": 0.0,
                "resources": {
                    "cpu_percent": round(100 * (cpu.user + cpu.system) / max(uptime, 1), 1),
                    # Nothing about the whole machine: no percentage and no disk.
                    "memory": {"rss": memory.rss, "vms": memory.vms, "percent": 0.0},
                    "disk": {},
                    "io": io,
                },
            }
        )


def _io(process: psutil.Process) -> dict[str, int]:
    counters = getattr(process, "io_counters", None)  # missing on macOS
    if counters is None:
        return {}
    try:
        io = counters()
    except psutil.Error:
        return {}
    return {"read_bytes": io.read_bytes, "write_bytes": io.write_bytes}
