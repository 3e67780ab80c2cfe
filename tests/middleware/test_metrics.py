"""Metrics of requests and of the cache."""

import json
import os
import subprocess
import sys

import pytest
from django.conf import settings as configured
from django.core.cache import cache
from django.test import AsyncClient
from prometheus_client import REGISTRY

OUTERMOST = "openhands_site.middleware.metrics.RequestMetrics"
INNERMOST = "openhands_site.middleware.metrics.ViewMetrics"


@pytest.fixture
def request_metrics(settings):
    settings.MIDDLEWARE = [OUTERMOST, *settings.MIDDLEWARE, INNERMOST]


def read_sample(name, **labels):
    return REGISTRY.get_sample_value(name, labels) or 0


def load_settings(token):
    """Return MIDDLEWARE and the cache backend of a process with a METRICS_TOKEN."""
    environment = os.environ | {"METRICS_TOKEN": token}
    program = (
        "import json; from openhands_site import settings as s;"
        " print(json.dumps([s.MIDDLEWARE, s.CACHES['default']['BACKEND']]))"
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=configured.BASE_DIR, env=environment, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return json.loads(result.stdout)


def test_requests_are_counted_only_with_a_metrics_token():
    with_token, counted_cache = load_settings("m")
    without, plain_cache = load_settings("")

    assert with_token == [OUTERMOST, *without, INNERMOST]
    assert OUTERMOST not in without
    assert counted_cache == "lib.cache.CountedRedisCache"
    assert plain_cache == "django.core.cache.backends.redis.RedisCache"


def test_request_is_counted_under_the_name_of_its_route(client, request_metrics):
    labels = {"view": "alive", "method": "GET"}
    requests = "django_http_responses_total_by_status_view_method_total"
    seconds = "django_http_requests_latency_seconds_by_view_method_count"
    request_count, timing_count = (
        read_sample(requests, status="200", **labels),
        read_sample(seconds, **labels),
    )

    assert client.get("/alive?canary=1").status_code == 200

    assert read_sample(requests, status="200", **labels) == request_count + 1
    assert read_sample(seconds, **labels) == timing_count + 1


def list_labels():
    """Return the values of all labels of all metrics."""
    return {
        label
        for metric in REGISTRY.collect()
        for sample in metric.samples
        for label in sample.labels.values()
    }


def test_unknown_methods_share_one_label(client, db, request_metrics):
    for method in ("CANARYA", "CANARYB"):
        client.generic(method, "/alive")

    labels = list_labels()
    assert "<invalid method>" in labels
    assert not {"CANARYA", "CANARYB"} & labels


def test_unknown_paths_are_not_labels(client, db, request_metrics):
    for path in ("/canary-a", "/canary-b"):
        assert client.get(path).status_code == 404

    assert not [label for label in list_labels() if "canary" in label]


def test_request_with_a_malformed_content_length_is_served(client, request_metrics):
    assert client.get("/alive", CONTENT_LENGTH="many").status_code == 200


async def test_request_on_the_event_loop_is_counted_once(request_metrics):
    requests = "django_http_requests_before_middlewares_total"
    labels = {"status": "200", "view": "alive", "method": "GET"}
    views = "django_http_responses_total_by_status_view_method_total"
    request_count, response_count = read_sample(requests), read_sample(views, **labels)

    assert (await AsyncClient().get("/alive")).status_code == 200

    assert read_sample(requests) == request_count + 1
    assert read_sample(views, **labels) == response_count + 1


def test_cache_counts_hits_and_misses(settings):
    settings.CACHES = {
        "default": settings.CACHES["default"] | {"BACKEND": "lib.cache.CountedRedisCache"}
    }
    hits, misses = "django_cache_get_hits_total", "django_cache_get_misses_total"
    hit_count, miss_count = read_sample(hits, backend="redis"), read_sample(misses, backend="redis")

    cache.set("metrics-test", None)
    assert cache.get("metrics-test", "default") is None
    assert cache.get("metrics-test-absent", "default") == "default"

    assert read_sample(hits, backend="redis") == hit_count + 1
    assert read_sample(misses, backend="redis") == miss_count + 1
