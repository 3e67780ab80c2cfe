"""The configuration templates of ``deploy/`` in front of real processes, for pages, sockets and streams."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time

import httpx2
import pytest
from django.conf import settings
from websockets.sync.client import connect

from accounts import services as accounts
from conversations import services
from conversations.models import Event
from lib.routes import url_pattern
from openhands_site import asgi, routing
from tests import prepare
from tests.fakes.processes import database_url, wait

FOLDER = settings.BASE_DIR / "deploy"
TEMPLATES = ("nginx.conf", "haproxy.cfg")


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_sends_exactly_the_streaming_routes_to_realtime(name):
    text = (FOLDER / name).read_text()
    streaming = url_pattern(lambda facts: facts.streams or facts.held == "always").pattern
    pattern = re.compile(re.search(r"\^\((/ws/\|\S+)\)", text)[0])
    expected = rf"^(/ws/|/sockets/|/socket\.io|{streaming}$)"

    for path in (*asgi.MOUNTED, "/ws/v1/conversations/1", "/sockets/events/1"):
        assert pattern.match(path), path
    assert pattern.pattern == expected, f"write this into deploy/{name}:\n{expected}"
    for plain in ("/", "/api/v1/conversations", "/api/v1/conversations/1/events", "/static/x.css"):
        assert not pattern.match(plain), plain


def test_templates_send_long_polls_to_realtime():
    nginx, haproxy = ((FOLDER / name).read_text() for name in TEMPLATES)
    waiting = routing.held_with_wait.pattern

    assert f'"~^{waiting} \\S"' in nginx
    assert f"acl is_held path_reg ^{waiting}$\n" in haproxy


def find_free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def run_process(command, log, **environment):
    """Run a command until the block ends. Its output goes to the file ``log``."""
    with log.open("wb") as output:
        child = subprocess.Popen(
            command, cwd=settings.BASE_DIR, env=os.environ | environment, stdout=output, stderr=output,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextlib.contextmanager
def run_balancer(template, folder):
    """Run a balancer with one ``web`` and one ``realtime`` process behind it, and yield its address."""
    front, web, realtime = find_free_port(), find_free_port(), find_free_port()
    text = (FOLDER / template).read_text()
    for template_port, port in ((8080, front), (8000, web), (8001, realtime)):
        text = text.replace(f"127.0.0.1:{template_port}", f"127.0.0.1:{port}")
    # The limit of 10 seconds for a request's headers would make the test slow.
    text, changed_timeouts = re.subn(
        r"(client_header_timeout|timeout http-request)( +)10s", r"\1\2 1s", text
    )
    assert changed_timeouts == 1
    name = template.partition(".")[0]
    if name == "nginx":  # by default it writes to folders of the system
        paths = "".join(
            f"{kind}_temp_path {folder}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        text = f"pid {folder}/nginx.pid;\ndaemon off;\n" + text.replace(
            "http {", f"http {{ {paths}", 1
        )
    path = folder / template
    path.write_text(text)
    binary = prepare.balancer(name)
    command = (
        [binary, "-p", str(folder), "-c", str(path)]
        if name == "nginx"
        else [binary, "-db", "-f", str(path)]
    )
    manage = [sys.executable, "-W", "ignore", "manage.py"]
    url = f"http://127.0.0.1:{front}"
    environment = {
        "DATABASE_URL": database_url(),
        "TRUSTED_PROXIES": "127.0.0.1",
        "PUBLIC_URL": url,
        "LOG_FORMAT": "json",
    }
    with contextlib.ExitStack() as stack:
        for role, port in (("web", web), ("realtime", realtime)):
            call = [*manage, f"run_{role}", "--port", str(port)]
            stack.enter_context(run_process(call, folder / f"{role}.log", **environment))
        for port in (web, realtime):
            wait(f"http://127.0.0.1:{port}")
        stack.enter_context(run_process(command, folder / f"{name}.log"))
        wait(url)
        yield url


@pytest.mark.parametrize(
    "template",
    [
        pytest.param("nginx.conf", marks=pytest.mark.nginx),
        pytest.param("haproxy.cfg", marks=pytest.mark.haproxy),
    ],
)
@pytest.mark.django_db(transaction=True)
def test_balancer_forwards_rest_sockets_and_streams(template, alice, tmp_path):
    conversation = services.create_conversation(user=alice, message="hello")
    _, key = accounts.issue_api_key(user=alice, name="balanced")
    headers = {"Authorization": f"Bearer {key}"}
    path = f"/api/v1/conversations/{conversation.pk}"
    with (
        run_balancer(template, tmp_path) as url,
        httpx2.Client(timeout=60, trust_env=False, headers=headers) as client,
    ):
        detail = client.get(url + path)
        forged = client.get(f"{url}/api/v1/users/me", headers={"X-Forwarded-For": "203.0.113.9"})
        metrics = client.get(f"{url}/metrics")
        with connect(
            f"{url.replace('http', 'ws')}/ws/v1/conversations/{conversation.pk}",
            additional_headers=headers,
        ) as ws:
            message = json.loads(ws.recv(60))
        with client.stream("GET", f"{url}{path}/events/stream") as stream:
            content_type = stream.headers["Content-Type"]
            line = next(line for line in stream.iter_lines() if line.startswith("data:"))
        long_poll = client.get(f"{url}{path}/events?after=1&wait=1")
        slow_client_seconds = send_half_a_head(url)

    assert (detail.status_code, detail.json()["id"]) == (200, str(conversation.pk))
    assert (forged.status_code, metrics.status_code) == (200, 404)
    assert (message["type"], message["seq"]) == ("event", 1)
    assert content_type.startswith("text/event-stream")
    assert json.loads(line.removeprefix("data:"))["seq"] == 1
    assert (long_poll.status_code, long_poll.json()["items"]) == (200, [])
    assert slow_client_seconds < 25
    assert Event.objects.filter(conversation=conversation).count() == 1
    logs = {name: (tmp_path / f"{name}.log").read_text() for name in ("web", "realtime")}
    assert path in logs["web"]
    assert "203.0.113.9" not in logs["web"]


def send_half_a_head(url):
    """Send an incomplete request head; return the seconds until the balancer responds or closes the connection."""
    host, _, port = url.removeprefix("http://").partition(":")
    started = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=60) as client_socket:
        client_socket.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-A")
        client_socket.recv(1000)
    return time.monotonic() - started
