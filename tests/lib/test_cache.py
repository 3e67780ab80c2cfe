"""The cache: its values are JSON, and nothing that stands in Redis runs as code."""

import pickle
from pathlib import Path

import pytest
import redis
from django.conf import settings
from django.core.cache import cache

from lib.cache import JSONSerializer


class Bomb:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickled_value_in_redis_is_not_run(tmp_path, protocol):
    path = tmp_path / "proof"
    bomb = pickle.dumps(Bomb(path), protocol=protocol)
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        client.set(cache.make_key("bomb"), bomb)

    assert cache.get("bomb") is None
    assert cache.get_many(["bomb"]) == {"bomb": None}
    assert not path.exists()
    pickle.loads(bomb)  # the bomb works
    assert path.exists()


@pytest.mark.parametrize(
    "value", [0, 1, -5, 2**53, True, False, None, "text", "12", 1.5, [1, "a"], {"a": [None]}]
)
def test_value_is_read_as_it_was_written(value):
    cache.set("value", value)

    assert cache.get("value") == value
    assert type(cache.get("value")) is type(value)


def test_counter_is_incremented():
    cache.set("counter", 1)

    assert cache.incr("counter") == 2
    assert cache.get("counter") == 2


@pytest.mark.parametrize(
    "data", [b"", b"\x80\x04.", b"\xff\xfe", b"{", b"nan", b"I1\n.", b"\x00" * 1000]
)
def test_foreign_bytes_count_as_no_value(data):
    assert JSONSerializer().loads(data) is None
