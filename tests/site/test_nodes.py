"""The fleet: who announces itself is seen, who dies lapses, and Redis may come and go."""

import shutil
import tempfile
import time
from pathlib import Path

import pytest
import redis
from django.conf import settings
from django.contrib.auth.models import Permission
from rest_framework.test import APIClient

from lib import nodes
from openhands_site.operating import embedded
from tests.conftest import key_client
from tests.factories.accounts import UserFactory


@pytest.fixture(autouse=True)
def _empty():
    with nodes.client() as client:
        client.flushdb()


@pytest.fixture
def staff(db):
    user = UserFactory(is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_lease"))
    return user


def until(look, seconds=20):
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return found


def roles():
    return [node.role for node in nodes.list_nodes()]


def test_a_node_is_seen_while_it_is_up():
    with nodes.announce("web", address="here:8000", load=lambda: {"sockets": 3.0}) as own:
        [node] = until(nodes.list_nodes)
        assert (node.id, node.role, node.address) == (own.id, "web", "here:8000")
        assert node.version == settings.VERSION
        assert node.load["sockets"] == 3
        assert node.load["memory_bytes"] > 1_000_000
        assert not node.is_draining

        own.drain()

        assert until(lambda: nodes.list_nodes()[0].is_draining)
        assert nodes.is_draining()
    assert nodes.list_nodes() == []
    assert not nodes.is_draining()


def test_a_node_that_dies_lapses(settings):
    settings.NODE_TTL_SECONDS = 1
    with nodes.announce("manager") as own:
        until(nodes.list_nodes)
        own._ended = True  # as if it were killed: nothing is taken out
        own._wake.set()
        own._thread.join()

        until(lambda: not nodes.list_nodes())


def test_the_list_is_bounded(monkeypatch):
    monkeypatch.setattr(nodes, "MAX_NODES", 3)
    announcements = [nodes.Announcement("worker", load=dict) for _ in range(5)]
    for one in announcements:
        one._send()

    assert len(nodes.list_nodes()) == 3
    with nodes.client() as client:
        assert client.zcard(nodes.INDEX) == 3
    for one in announcements:
        one._client.close()


def test_an_entry_of_another_version_is_left_out():
    with nodes.announce("web"), nodes.client() as client:
        until(nodes.list_nodes)
        client.set(nodes._key("odd"), '{"id": 7}')
        client.zadd(nodes.INDEX, {"odd": time.time()})

        assert roles() == ["web"]


def test_redis_may_die_and_come_back(tmp_path, settings):
    """Its own Redis, killed and started again empty: the list is refused meanwhile and fills by itself."""
    sockets = Path(tempfile.mkdtemp(prefix="oh-"))  # short: a socket's path has 107 bytes
    service = embedded._Redis(tmp_path, sockets)
    service.start()
    settings.REDIS_URL, settings.NODE_TTL_SECONDS = service.url, 1
    try:
        with nodes.announce("web"):
            until(nodes.list_nodes)
            service.stop()
            with pytest.raises(nodes.NodeListUnavailable):
                nodes.list_nodes()
            time.sleep(0.5)

            service.start()

            until(lambda: roles() == ["web"])
    finally:
        service.stop()
        shutil.rmtree(sockets)


def test_a_process_that_is_told_to_end_is_not_ready(client, db):
    assert client.get("/ready").json()["status"] == "ready"
    with nodes.announce("web") as own:
        own.drain()

        answer = client.get("/ready")

    assert (answer.status_code, answer.json()["status"]) == (503, "draining")


class TestApi:
    def test_operators_see_the_fleet(self, staff):
        client = APIClient()
        client.force_login(staff)
        with nodes.announce("realtime", load=lambda: {"sockets": 1.5}):
            until(nodes.list_nodes)
            answer = client.get("/api/v1/nodes")

        assert answer.status_code == 200
        [node] = answer.json()["items"]
        assert node["role"] == "realtime"
        assert node["load"]["sockets"] == 1.5

    def test_a_key_of_an_operator_that_was_not_given_it_is_refused(self, staff):
        assert key_client(staff).get("/api/v1/nodes").status_code == 200
        limited = key_client(staff, scopes=["account.view"])
        assert limited.get("/api/v1/nodes").json()["permission"] == "nodes.view"

    def test_without_redis_it_says_so(self, staff, monkeypatch):
        def away():
            raise redis.ConnectionError

        monkeypatch.setattr(nodes, "client", away)
        answer = key_client(staff).get("/api/v1/nodes")

        assert (answer.status_code, answer.json()["code"]) == (503, "registry-unavailable")


class TestDesk:
    def test_shows_the_fleet(self, client, staff):
        client.force_login(staff)
        with nodes.announce("manager", load=lambda: {"conversations": 12}) as own:
            until(nodes.list_nodes)
            own.drain()
            until(lambda: nodes.list_nodes()[0].is_draining)
            page = client.get("/admin/nodes").content.decode()

        assert "manager" in page
        assert "12 conversations" in page
        assert "draining" in page
        assert "/admin/nodes" in client.get("/admin/").content.decode()

    def test_staff_without_the_permission_is_refused(self, client, db):
        client.force_login(UserFactory(is_staff=True))

        assert client.get("/admin/nodes").status_code == 403


def test_metrics(client, settings):
    settings.METRICS_TOKEN = "m"
    with nodes.announce("web", load=lambda: {"sockets": 7}):
        until(nodes.list_nodes)
        text = client.get("/metrics", headers={"Authorization": "Bearer m"}).content.decode()

    assert "oh_node_registry_up 1.0" in text
    assert 'figure="sockets"' in text
    assert 'oh_nodes{draining="false",role="web"' in text
