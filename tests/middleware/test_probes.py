"""Probes and metrics respond to every ``Host``, under ASGI and WSGI; all other routes do not."""

import contextlib
import socket
import threading
import wsgiref.simple_server

import pytest
from django.db import connections
from django.test import Client

from openhands_site.serving.probes import probe_paths, public_host

HOSTS = [
    b"Host: 10.42.0.17",
    b"Host: 10.42.0.17:8000",
    b"Host: [fd00::17]:8000",
    b"Host: fd00::17",
    b"Host: web-7c9f.default.svc.cluster.local",
    b"Host: a b",
    b"Host: ",
    b"Host: \xff\xfe",
    b"Host: evil.example, 10.42.0.17",
    b"Host: 10.42.0.17\r\nX-Forwarded-Host: elsewhere.example",
    b"X-No-Host: 1",
]
PROBES = ["/alive", "/ready", "/health", "/server_info"]


def request(port, path, header, version=b"1.1"):
    """Send a request byte for byte; return the status."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as link:
        link.sendall(b"GET %s HTTP/%s\r\n%s\r\nConnection: close\r\n\r\n" % (path, version, header))
        response = b""
        while piece := link.recv(65_536):
            response += piece
    return int(response.split()[1])


@pytest.fixture(autouse=True)
def _close():
    yield
    from openhands_site import asgi

    asgi.in_threads._pool.submit(connections.close_all).result()


class _Quiet(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def wsgi_port(db, wsgi_application):
    server = wsgiref.simple_server.make_server(
        "127.0.0.1", 0, wsgi_application, handler_class=_Quiet
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    with contextlib.closing(server.socket):
        yield server.server_port
        server.shutdown()
        thread.join()


def test_every_route_that_orchestrators_call_is_a_probe():
    assert all(probe_paths().fullmatch(path) for path in [*PROBES, "/metrics"])
    assert not probe_paths().fullmatch("/api/v1/nodes")


@pytest.mark.django_db
@pytest.mark.parametrize("path", [*PROBES, "/metrics"])
@pytest.mark.parametrize("host", ["10.0.0.1", "10.0.0.1:8000", "[::1]:80", "a b", "", "x.example"])
@pytest.mark.asyncio
async def test_asgi_probe_of_any_host_responds(path, host, settings):
    from asgiref.testing import ApplicationCommunicator

    from openhands_site import asgi

    settings.METRICS_TOKEN = "t" * 20
    scope = {
        "type": "http",
        "method": "GET",
        "http_version": "1.0",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": ([(b"authorization", b"Bearer " + b"t" * 20)] if path == "/metrics" else [])
        + ([(b"host", host.encode())] if host else []),
        "client": ("10.0.0.9", 1),
        "server": ("10.0.0.1", 8000),
    }
    communicator = ApplicationCommunicator(asgi.application, scope)
    await communicator.send_input({"type": "http.request", "body": b""})
    start = await communicator.receive_output(timeout=30)
    assert start["status"] == 200


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("header", HOSTS)
def test_wsgi_probe_of_any_host_responds(wsgi_port, header, version):
    for path in (b"/alive", b"/health", b"/server_info"):
        assert request(wsgi_port, path, header, version) == 200


@pytest.mark.parametrize("path", [b"/sign-in", b"/api/v1/nodes", b"/alive/x", b"/aliven"])
@pytest.mark.django_db(transaction=True)
def test_other_routes_refuse_a_foreign_host(wsgi_port, path):
    assert request(wsgi_port, path, b"Host: evil.example") == 400


@pytest.mark.parametrize(
    ("public", "allowed", "expected"),
    [
        ("https://agents.example:8443", ["agents.example"], "agents.example:8443"),
        ("https://agents.example", ["*"], "agents.example"),
        ("http://127.0.0.1:8000", ["agents.example", "127.0.0.2"], "agents.example"),
        ("http://127.0.0.1:8000", [".example"], "127.0.0.1:8000"),
    ],
)
def test_host_of_probes_is_one_that_is_allowed(settings, public, allowed, expected):
    settings.PUBLIC_URL, settings.ALLOWED_HOSTS = public, allowed
    assert public_host() == expected


@pytest.mark.django_db
@pytest.mark.parametrize("accept", ["text/html", "text/plain", "application/xml", "x"])
@pytest.mark.parametrize("path", PROBES)
def test_probe_responds_whatever_it_accepts(client, path, accept):
    assert client.get(path, headers={"Accept": accept}).status_code == 200


@pytest.mark.django_db
@pytest.mark.parametrize("method", ["post", "put", "delete"])
@pytest.mark.parametrize("path", [*PROBES, "/metrics"])
def test_other_methods_of_probes_are_405(path, method):
    response = getattr(Client(enforce_csrf_checks=True), method)(path)

    assert response.status_code == 405
    assert "GET" in response.headers["Allow"]
