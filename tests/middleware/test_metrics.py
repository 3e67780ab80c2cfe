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
def metered(settings):
    settings.MIDDLEWARE = [OUTERMOST, *settings.MIDDLEWARE, INNERMOST]


def sample(name, **labels):
    return REGISTRY.get_sample_value(name, labels) or 0


def settings_with(token):
    environment = os.environ | {"METRICS_TOKEN": token}
    program = (
        "import json; from openhands_site import settings as s;"
        " print(json.dumps([s.MIDDLEWARE, s.CACHES['default']['BACKEND']]))"
    )
    printed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=configured.BASE_DIR, env=environment, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return json.loads(printed.stdout)


def test_requests_are_counted_only_with_a_metrics_token():
    with_token, counted_cache = settings_with("m")
    without, plain_cache = settings_with("")

    assert with_token == [OUTERMOST, *without, INNERMOST]
    assert OUTERMOST not in without
    assert counted_cache == "lib.cache.CountedRedisCache"
    assert plain_cache == "django.core.cache.backends.redis.RedisCache"


def test_request_is_counted_under_the_name_of_its_route(client, metered):
    labels = {"view": "alive", "method": "GET"}
    requests = "django_http_responses_total_by_status_view_method_total"
    seconds = "django_http_requests_latency_seconds_by_view_method_count"
    counted, timed = sample(requests, status="200", **labels), sample(seconds, **labels)

    assert client.get("/alive?canary=1").status_code == 200

    assert sample(requests, status="200", **labels) == counted + 1
    assert sample(seconds, **labels) == timed + 1


def test_invented_methods_share_one_label(client, db, metered):
    for method in ("CANARYA", "CANARYB"):
        client.generic(method, "/alive")

    labels = {
        label
        for metric in REGISTRY.collect()
        for s in metric.samples
        for label in s.labels.values()
    }
    assert "<invalid method>" in labels
    assert not {"CANARYA", "CANARYB"} & labels


def test_invented_paths_share_one_label(client, db, metered):
    for path in ("/canary-a", "/canary-b"):
        assert client.get(path).status_code == 404

    labels = {
        label
        for metric in REGISTRY.collect()
        for s in metric.samples
        for label in s.labels.values()
    }
    assert not [label for label in labels if "canary" in label]


def test_content_length_that_is_no_number_is_no_fault(client, metered):
    assert client.get("/alive", CONTENT_LENGTH="many").status_code == 200


async def test_request_on_the_event_loop_is_counted_once(metered):
    requests = "django_http_requests_before_middlewares_total"
    labels = {"status": "200", "view": "alive", "method": "GET"}
    views = "django_http_responses_total_by_status_view_method_total"
    arrived, answered = sample(requests), sample(views, **labels)

    assert (await AsyncClient().get("/alive")).status_code == 200

    assert sample(requests) == arrived + 1
    assert sample(views, **labels) == answered + 1


def test_cache_counts_hits_and_misses(settings):
    settings.CACHES = {
        "default": settings.CACHES["default"] | {"BACKEND": "lib.cache.CountedRedisCache"}
    }
    hits, misses = "django_cache_get_hits_total", "django_cache_get_misses_total"
    hit, missed = sample(hits, backend="redis"), sample(misses, backend="redis")

    cache.set("metrics-test", None)
    assert cache.get("metrics-test", "default") is None
    assert cache.get("metrics-test-absent", "default") == "default"

    assert sample(hits, backend="redis") == hit + 1
    assert sample(misses, backend="redis") == missed + 1
