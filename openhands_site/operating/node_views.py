"""The fleet for operators: the API, the page of the admin desk, and the figures of Prometheus."""

from collections.abc import Iterator
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.permissions import may_operate
from lib import nodes

PERMISSION = "nodes.view"


class NodeSerializer(serializers.Serializer[Any]):
    """One process."""

    id = serializers.CharField()
    role = serializers.CharField(help_text="web, realtime, worker, manager or grpc.")
    version = serializers.CharField()
    host = serializers.CharField()
    address = serializers.CharField(help_text="Where it listens; empty where it does not.")
    pid = serializers.IntegerField()
    started_at = serializers.DateTimeField()
    seen_at = serializers.DateTimeField(help_text="Its last announcement, by its own clock.")
    is_draining = serializers.BooleanField(help_text="It was told to end and takes nothing new.")
    load = serializers.DictField(
        child=serializers.FloatField(),
        help_text="Figures by name: cpu_percent (100 is one core), memory_bytes, and the role's own.",
    )


class NodesSerializer(serializers.Serializer[Any]):
    """The fleet."""

    items = NodeSerializer(many=True)


class NodesView(APIView):
    """The processes of this installation that are up now. For staff who may see leases."""

    permission = PERMISSION

    @extend_schema(operation_id="nodes_list", tags=["operation"], responses=NodesSerializer)
    def get(self, request: Request) -> Response:
        """Who is there, by role and host; 503 `registry-unavailable` while Redis is away."""
        return Response(NodesSerializer({"items": nodes.fleet()}).data)


def page(request: HttpRequest) -> HttpResponse:
    """The fleet at the admin desk."""
    if not may_operate(request.user, PERMISSION):
        raise PermissionDenied
    try:
        found, problem = nodes.fleet(), ""
    except nodes.RegistryUnavailable as error:
        found, problem = [], str(error.detail)
    now = timezone.now()
    rows = [
        {
            "node": node,
            "silent_seconds": max(0, round((now - node.seen_at).total_seconds())),
            "memory_megabytes": round(node.load.get("memory_bytes", 0) / 1_000_000),
            "cpu_percent": round(node.load.get("cpu_percent", 0)),
            "figures": {
                name.replace("_", " "): round(value)
                for name, value in sorted(node.load.items())
                if name not in ("cpu_percent", "memory_bytes")
            },
        }
        for node in found
    ]
    versions = sorted({node.version for node in found})
    context = admin.site.each_context(request) | {
        "title": "Nodes",
        "rows": rows,
        "problem": problem,
        "versions": versions,
    }
    return TemplateResponse(request, "admin/nodes.html", context)


class FleetCollector(Collector):
    """The registry as Prometheus reads it: also of processes that no scrape reaches."""

    def describe(self) -> list[Any]:
        return []  # asked without Redis, when it is registered

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Gauges of the fleet; ``oh_node_registry_up`` alone says so while Redis is away."""
        is_up = GaugeMetricFamily("oh_node_registry_up", "Whether the list of nodes can be read.")
        try:
            found = nodes.fleet()
        except nodes.RegistryUnavailable:
            is_up.add_metric([], 0)
            yield is_up
            return
        is_up.add_metric([], 1)
        yield is_up
        labels = ["role", "host", "pid"]
        count = GaugeMetricFamily(
            "oh_nodes", "Processes that are up.", labels=["role", "version", "draining"]
        )
        counts: dict[tuple[str, str, str], int] = {}
        load = GaugeMetricFamily(
            "oh_node_load", "What a process has to do.", labels=[*labels, "figure"]
        )
        for node in found:
            key = (node.role, node.version, str(node.is_draining).lower())
            counts[key] = counts.get(key, 0) + 1
            for name, value in node.load.items():
                load.add_metric([node.role, node.host, str(node.pid), name], value)
        for key, number in counts.items():
            count.add_metric(list(key), number)
        yield count
        yield load


REGISTRY.register(FleetCollector())
