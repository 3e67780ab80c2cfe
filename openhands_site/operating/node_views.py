"""The list of nodes (running processes) in the API, on the admin site and in the Prometheus metrics."""

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
    """A running process of this installation."""

    id = serializers.CharField()
    role = serializers.CharField(help_text="`web`, `realtime`, `worker`, `manager` or `grpc`.")
    version = serializers.CharField()
    host = serializers.CharField()
    address = serializers.CharField(
        help_text="The address that the process listens on. Empty if it does not listen."
    )
    pid = serializers.IntegerField()
    started_at = serializers.DateTimeField()
    seen_at = serializers.DateTimeField(
        help_text="The time of the last announcement, by the clock of the process's machine."
    )
    is_draining = serializers.BooleanField(
        help_text="Whether the process is stopping and accepts no new work."
    )
    load = serializers.DictField(
        child=serializers.FloatField(),
        help_text="Load figures by name: `cpu_percent` (100 is one core), `memory_bytes`, and figures of the role, "
        "such as `sockets`.",
    )


class NodesSerializer(serializers.Serializer[Any]):
    """The running processes of this installation."""

    items = NodeSerializer(many=True)


class NodesView(APIView):
    """The running processes of this installation, for staff with the permission to view leases."""

    permission = PERMISSION

    @extend_schema(operation_id="nodes_list", tags=["operation"], responses=NodesSerializer)
    def get(self, request: Request) -> Response:
        """List the running processes by role and host. 503 `registry-unavailable` while Redis is unavailable."""
        return Response(NodesSerializer({"items": nodes.list_nodes()}).data)


def page(request: HttpRequest) -> HttpResponse:
    """Render the list of nodes on the admin site. Raise ``PermissionDenied`` without the permission."""
    if not may_operate(request.user, PERMISSION):
        raise PermissionDenied
    try:
        fleet, problem = nodes.list_nodes(), ""
    except nodes.RegistryUnavailable as error:
        fleet, problem = [], str(error.detail)
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
        for node in fleet
    ]
    versions = sorted({node.version for node in fleet})
    context = admin.site.each_context(request) | {
        "title": "Nodes",
        "rows": rows,
        "problem": problem,
        "versions": versions,
    }
    return TemplateResponse(request, "admin/nodes.html", context)


class FleetCollector(Collector):
    """A Prometheus collector of the list of nodes, including processes that Prometheus cannot scrape."""

    def describe(self) -> list[Any]:
        return []  # called at registration, when Redis must not be needed

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges of all nodes. While Redis is unavailable, yield only ``oh_node_registry_up`` with 0."""
        is_up = GaugeMetricFamily("oh_node_registry_up", "Whether the list of nodes can be read.")
        try:
            fleet = nodes.list_nodes()
        except nodes.RegistryUnavailable:
            is_up.add_metric([], 0)
            yield is_up
            return
        is_up.add_metric([], 1)
        yield is_up
        labels = ["role", "host", "pid"]
        count = GaugeMetricFamily(
            "oh_nodes", "Number of running processes.", labels=["role", "version", "draining"]
        )
        counts: dict[tuple[str, str, str], int] = {}
        load = GaugeMetricFamily(
            "oh_node_load", "Load figures of a process.", labels=[*labels, "figure"]
        )
        for node in fleet:
            key = (node.role, node.version, str(node.is_draining).lower())
            counts[key] = counts.get(key, 0) + 1
            for name, value in node.load.items():
                load.add_metric([node.role, node.host, str(node.pid), name], value)
        for key, number in counts.items():
            count.add_metric(list(key), number)
        yield count
        yield load


REGISTRY.register(FleetCollector())
