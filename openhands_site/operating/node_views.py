"""The list of nodes in the API, on the admin site and in the Prometheus metrics.

A node is a running process of this installation. ``lib.nodes`` keeps the list in Redis.
"""

from collections import Counter
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
SHOWN_APART = (
    "cpu_percent",
    "memory_bytes",
    "open_files",
    "open_files_limit",
    "disk_free_percent",
    "disk_free_bytes",
)
"""The load figures with a column of their own."""


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
        help_text="The time of the process's last announcement, by the clock of its machine."
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
    """The list of running processes, for staff with the permission `nodes.view`."""

    permission = PERMISSION

    @extend_schema(operation_id="nodes_list", tags=["operation"], responses=NodesSerializer)
    def get(self, request: Request) -> Response:
        """Return the running processes, sorted by role and host.

        Respond with 503 and the code `registry-unavailable` while Redis is unavailable.
        """
        return Response(NodesSerializer({"items": nodes.list_nodes()}).data)


def page(request: HttpRequest) -> HttpResponse:
    """Render the list of nodes on the admin site. Raise ``PermissionDenied`` if the user may not see the list."""
    if not may_operate(request.user, PERMISSION):
        raise PermissionDenied
    try:
        running_nodes, problem = nodes.list_nodes(), ""
    except nodes.NodeListUnavailable as error:
        running_nodes, problem = [], str(error.detail)
    now = timezone.now()
    rows = [
        {
            "node": node,
            "silent_seconds": max(0, round((now - node.seen_at).total_seconds())),
            "memory_megabytes": round(node.load.get("memory_bytes", 0) / 1_000_000),
            "cpu_percent": round(node.load.get("cpu_percent", 0)),
            "open_files": round(node.load.get("open_files", 0)),
            "open_files_limit": round(node.load.get("open_files_limit", 0)),
            "disk_free_percent": node.load.get("disk_free_percent"),
            "warnings": node.warnings,
            "figures": {
                name.replace("_", " "): round(value)
                for name, value in sorted(node.load.items())
                if name not in SHOWN_APART
            },
        }
        for node in running_nodes
    ]
    versions = sorted({node.version for node in running_nodes})
    context = admin.site.each_context(request) | {
        "title": "Nodes",
        "rows": rows,
        "problem": problem,
        "versions": versions,
    }
    return TemplateResponse(request, "admin/nodes.html", context)


class NodeListCollector(Collector):
    """A Prometheus collector for the list of nodes, including processes that Prometheus cannot scrape.

    Every process reports all nodes, so aggregate these metrics over processes with ``max``, not ``sum``.
    """

    def describe(self) -> list[Any]:
        # Called when the collector is registered. Without it, ``collect`` would call Redis at import.
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges of all nodes. While Redis is unavailable, yield only ``oh_node_registry_up`` with 0."""
        up_gauge = GaugeMetricFamily(
            "oh_node_registry_up", "Whether the list of nodes can be read."
        )
        try:
            running_nodes = nodes.list_nodes()
        except nodes.NodeListUnavailable:
            up_gauge.add_metric([], 0)
            yield up_gauge
            return
        up_gauge.add_metric([], 1)
        yield up_gauge
        count_gauge = GaugeMetricFamily(
            "oh_nodes", "Number of running processes.", labels=["role", "version", "draining"]
        )
        counts = Counter(
            (node.role, node.version, str(node.is_draining).lower()) for node in running_nodes
        )
        for labels, number in counts.items():
            count_gauge.add_metric(list(labels), number)
        yield count_gauge
        load_gauge = GaugeMetricFamily(
            "oh_node_load", "Load figures of a process.", labels=["role", "host", "pid", "figure"]
        )
        for node in running_nodes:
            for name, value in node.load.items():
                load_gauge.add_metric([node.role, node.host, str(node.pid), name], value)
        yield load_gauge


REGISTRY.register(NodeListCollector())
