"""The network of a sandbox: this server, the policy and the decisions of the proxy."""

import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from conversations.sandboxes.egress.policy import Policy, Profile
from tests.conversations.sandboxes.box import Box, make_spec
from tests.waiting import wait_until

FETCH = """
import sys, urllib.error, urllib.request
try:
    with urllib.request.urlopen({url!r}, timeout=20) as answer:
        print(answer.read().decode(), end="")
except urllib.error.HTTPError as error:
    print("refused", error.code, end="")
"""


@pytest.fixture
def server() -> Iterator[str]:
    """A server of this machine at an address that programs do not except from a proxy; its ``host:port``."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.2", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"127.0.0.2:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def fetch(box: Box, url: str) -> str:
    return box.run_python(FETCH.format(url=url))


def test_sandbox_reaches_this_server_at_the_gateway_url(box, server, settings):
    settings.GATEWAY_URL = f"http://{server}"
    box.spec = make_spec(Policy(Profile.NONE, gateway=settings.GATEWAY_URL))
    box.start()

    assert fetch(box, f"{box.provider.gateway_url()}/path") == "hello"


def test_policy_of_a_running_sandbox_is_replaced(box, server):
    box.spec = make_spec(Policy(Profile.PUBLIC, private=("127.0.0.2",)))
    box.start()
    assert fetch(box, f"http://{server}/") == "hello"

    box.provider.set_policy(box.handle, Policy(Profile.NONE))

    if box.name == "process":  # it does not restrict the network
        assert fetch(box, f"http://{server}/") == "hello"
    else:
        wait_until(
            lambda: fetch(box, f"http://{server}/") == "refused 403", "the policy", seconds=5
        )


def test_decisions_are_read_from_a_position_on(box, server):
    box.spec = make_spec(Policy(Profile.PUBLIC, private=("127.0.0.2",)))
    box.start()
    assert box.provider.read_decisions(box.handle, "") == ([], "")
    fetch(box, f"http://{server}/")

    if box.name == "process":  # it has no proxy
        assert box.provider.read_decisions(box.handle, "") == ([], "")
        return
    host, _, port = server.partition(":")
    [first], position = wait_until(
        lambda: (found := box.provider.read_decisions(box.handle, ""))[0] and found, "a decision"
    )
    assert (first["host"], first["port"]) == (host, int(port))
    assert (first["allowed"], first["reason"]) == (True, "private-named")
    assert box.provider.read_decisions(box.handle, position) == ([], position)
    box.stop()
    box.spec = replace(box.spec, policy=Policy(Profile.NONE))
    box.resume()
    assert fetch(box, f"http://{server}/") == "refused 403"
    [second], _ = wait_until(
        lambda: (found := box.provider.read_decisions(box.handle, position))[0] and found,
        "a decision of the second run",
    )
    assert (second["allowed"], second["reason"]) == (False, "profile-none")
