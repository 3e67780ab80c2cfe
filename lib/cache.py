"""The Redis cache: values as JSON, and django-prometheus' counters.

django-prometheus has a counting backend for Django's ``RedisCache``, but its module imports django-redis, which this
project does not use. So this module increments the counters of django-prometheus itself.
"""

import contextlib
from typing import Any

import orjson
from django.core.cache.backends.redis import RedisCache
from django_prometheus.cache.metrics import (
    django_cache_get_fail_total,
    django_cache_get_total,
    django_cache_hits_total,
    django_cache_misses_total,
)

_MISSING = object()  # not None, which is a valid cached value
BACKEND = "redis"
"""The value of the counters' label ``backend``."""


class JSONSerializer:
    """Cached values as JSON. Django's own serializer uses pickle, which runs code that a value in Redis contains."""

    def dumps(self, value: Any) -> bytes | int:
        """Return the stored form of a JSON value. Integers stay integers, so that Redis can increment them."""
        return value if type(value) is int else orjson.dumps(value)

    def loads(self, data: bytes) -> Any:
        """Return a cached value, or None if another program, or a release before 2026-12, wrote the stored form."""
        with contextlib.suppress(ValueError):
            return int(data)
        with contextlib.suppress(orjson.JSONDecodeError):
            return orjson.loads(data)
        return None


class CountedRedisCache(RedisCache):
    """Django's Redis cache; ``get`` counts hits, misses and failures."""

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        django_cache_get_total.labels(backend=BACKEND).inc()
        try:
            value = super().get(key, default=_MISSING, version=version)
        except Exception:
            django_cache_get_fail_total.labels(backend=BACKEND).inc()
            raise
        if value is _MISSING:
            django_cache_misses_total.labels(backend=BACKEND).inc()
            return default
        django_cache_hits_total.labels(backend=BACKEND).inc()
        return value
