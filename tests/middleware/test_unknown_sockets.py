"""Handshakes of sockets at URLs that have none: they are refused without a traceback."""

import logging

import pytest
from asgiref.testing import ApplicationCommunicator

from openhands_site.asgi import application

PATHS = [
    "/",
    "/ws",
    "/ws/v1/conversations/no-uuid",
    "/ws/v2/x",
    "/setup/a-token",
    "/\ud800",
    "/%00",
]


def build_scope(path, **extra):
    return {
        "type": "websocket",
        "path": path,
        "raw_path": path.encode(errors="replace"),
        "root_path": "",
        "query_string": b"",
        "subprotocols": [],
        "client": ("127.0.0.1", 1),
        "headers": [(b"host", b"testserver"), (b"x-api-key", b"oh_0.x")],
    } | extra


@pytest.mark.parametrize("path", PATHS)
async def test_unknown_path_is_404_without_a_traceback(path, caplog):
    scope = build_scope(path, extensions={"websocket.http.response": {}})
    socket = ApplicationCommunicator(application, scope)
    await socket.send_input({"type": "websocket.connect"})

    with caplog.at_level(logging.WARNING):
        response = await socket.receive_output(5)
        await socket.receive_output(5)
        await socket.wait()

    assert (response["type"], response["status"]) == ("websocket.http.response.start", 404)
    assert not caplog.records


async def test_server_without_the_extension_closes_the_socket():
    socket = ApplicationCommunicator(application, build_scope("/ws"))
    await socket.send_input({"type": "websocket.connect"})

    assert await socket.receive_output(5) == {"type": "websocket.close", "code": 4404}
    await socket.wait()
