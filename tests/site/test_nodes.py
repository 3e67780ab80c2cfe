"""The list of nodes: announcements, their expiry, and outages of Redis."""

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
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def _empty_redis():
    with nodes.client() as client:
        client.flushdb()


@pytest.fixture
def staff(db):
    user = UserFactory(is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_lease"))
    return user


def wait_for_nodes():
    """Return the list of nodes after at least one node has announced itself."""
    return wait_until(nodes.list_nodes, "a node to announce itself")


def list_roles():
    return [node.role for node in nodes.list_nodes()]


def test_node_is_listed_from_its_start_to_its_end():
    with nodes.announce("web", address="here:8000", load=lambda: {"sockets": 3.0}) as announcement:
        [node] = wait_for_nodes()
        assert (node.id, node.role, node.address) == (announcement.id, "web", "here:8000")
        assert node.version == settings.VERSION
        assert node.load["sockets"] == 3
        assert node.load["memory_bytes"] > 1_000_000
        assert not node.is_draining

        announcement.drain()

        wait_until(lambda: nodes.list_nodes()[0].is_draining, "the node to be listed as draining")
        assert nodes.is_draining()
    assert nodes.list_nodes() == []
    assert not nodes.is_draining()


def test_killed_node_is_listed_until_its_entry_expires(settings):
    settings.NODE_TTL_SECONDS = 1
    with nodes.announce("manager") as announcement:
        wait_for_nodes()
        announcement._ended = True  # like a kill: the entry stays in Redis
        announcement._wake.set()
        announcement._thread.join()

        wait_until(lambda: not nodes.list_nodes(), "the entry of the node to expire")


def test_node_list_is_limited_to_max_nodes(monkeypatch):
    monkeypatch.setattr(nodes, "MAX_NODES", 3)
    announcements = [nodes.Announcement("worker", load=dict) for _ in range(5)]
    for announcement in announcements:
        announcement._send()

    assert len(nodes.list_nodes()) == 3
    with nodes.client() as client:
        assert client.zcard(nodes.INDEX) == 3
    for announcement in announcements:
        announcement._client.close()


def test_entry_with_the_fields_of_another_version_is_skipped():
    with nodes.announce("web"), nodes.client() as client:
        wait_for_nodes()
        client.set(nodes._key("odd"), '{"id": 7}')
        client.zadd(nodes.INDEX, {"odd": time.time()})

        assert list_roles() == ["web"]


def test_list_is_unavailable_without_redis_and_refilled_after_an_empty_restart(tmp_path, settings):
    sockets = Path(tempfile.mkdtemp(prefix="oh-"))  # a socket's path may have at most 107 bytes
    service = embedded.Redis(tmp_path, sockets)
    service.start()
    settings.REDIS_URL, settings.NODE_TTL_SECONDS = service.url, 1
    try:
        with nodes.announce("web"):
            wait_for_nodes()
            service.stop()
            with pytest.raises(nodes.NodeListUnavailable):
                nodes.list_nodes()
            time.sleep(0.5)

            service.start()

            wait_until(lambda: list_roles() == ["web"], "the node to announce itself again")
    finally:
        service.stop()
        shutil.rmtree(sockets)


def test_draining_process_is_not_ready(client, db):
    assert client.get("/ready").json()["status"] == "ready"
    with nodes.announce("web") as announcement:
        announcement.drain()

        response = client.get("/ready")

    assert (response.status_code, response.json()["status"]) == (503, "draining")


class TestApi:
    def test_operator_lists_the_nodes(self, staff):
        client = APIClient()
        client.force_login(staff)
        with nodes.announce("realtime", load=lambda: {"sockets": 1.5}):
            wait_for_nodes()
            response = client.get("/api/v1/nodes")

        assert response.status_code == 200
        [node] = response.json()["items"]
        assert node["role"] == "realtime"
        assert node["load"]["sockets"] == 1.5

    def test_operators_key_without_the_permission_is_refused(self, staff):
        assert key_client(staff).get("/api/v1/nodes").status_code == 200
        limited = key_client(staff, scopes=["account.view"])
        assert limited.get("/api/v1/nodes").json()["permission"] == "nodes.view"

    def test_unreachable_redis_is_a_503_problem(self, staff, monkeypatch):
        def raise_connection_error():
            raise redis.ConnectionError

        monkeypatch.setattr(nodes, "client", raise_connection_error)
        response = key_client(staff).get("/api/v1/nodes")

        assert (response.status_code, response.json()["code"]) == (503, "registry-unavailable")


class TestAdminPage:
    def test_node_is_shown_with_its_load_and_state(self, client, staff):
        client.force_login(staff)
        with nodes.announce("manager", load=lambda: {"conversations": 12}) as announcement:
            wait_for_nodes()
            announcement.drain()
            wait_until(
                lambda: nodes.list_nodes()[0].is_draining, "the node to be listed as draining"
            )
            page = client.get("/admin/nodes").content.decode()

        assert "manager" in page
        assert "12 conversations" in page
        assert "draining" in page
        assert "/admin/nodes" in client.get("/admin/").content.decode()

    def test_staff_without_the_permission_is_refused(self, client, db):
        client.force_login(UserFactory(is_staff=True))

        assert client.get("/admin/nodes").status_code == 403


def test_metrics_include_the_figures_of_nodes(client, settings):
    settings.METRICS_TOKEN = "m"
    with nodes.announce("web", load=lambda: {"sockets": 7}):
        wait_for_nodes()
        text = client.get("/metrics", headers={"Authorization": "Bearer m"}).content.decode()

    assert "oh_node_registry_up 1.0" in text
    assert 'figure="sockets"' in text
    assert 'oh_nodes{draining="false",role="web"' in text
