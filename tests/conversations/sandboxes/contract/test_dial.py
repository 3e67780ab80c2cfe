"""Connections to ports inside a sandbox."""

import socket
import threading

import pytest

from tests.conversations.sandboxes.box import end_sandbox
from tests.waiting import wait_until

ECHO = """
import pathlib, socket
server = socket.create_server(("127.0.0.1", 0))
pathlib.Path("port").write_text(str(server.getsockname()[1]))
while True:
    link, data = server.accept()[0], b""
    while part := link.recv(65536):
        data += part
    link.sendall(data)
    link.close()
"""


def start_echo(box) -> int:
    """Start a server inside the sandbox that answers with its input after the input's end. Return its port."""
    box.run_python(ECHO, ending=">/dev/null 2>&1 &")
    port = box.project / "port"
    wait_until(lambda: port.exists() and port.read_text(), "the server to listen")
    return int(port.read_text())


def read_all(link: socket.socket) -> bytes:
    return b"".join(iter(lambda: link.recv(65536), b""))


def test_dialled_socket_is_blocking_and_reaches_the_engine(box):
    box.start()

    with box.provider.dial(box.handle) as link:
        assert link.gettimeout() is None
        link.sendall(b"GET /ready HTTP/1.0\r\n\r\n")
        assert link.makefile("rb").readline().split()[1] == b"200"


def test_another_port_is_dialled_and_carries_much_data_in_both_directions(box):
    box.start()
    data = bytes(range(256)) * 8_000

    with box.provider.dial(box.handle, start_echo(box)) as link:
        link.settimeout(20)
        link.sendall(data)
        link.shutdown(socket.SHUT_WR)
        assert read_all(link) == data


def test_many_connections_are_open_at_a_time(box):
    box.start()

    links = [box.provider.dial(box.handle) for _ in range(40)]

    for link in reversed(links):
        with link:
            link.sendall(b"GET /ready HTTP/1.0\r\n\r\n")
            assert b" 200 " in read_all(link)


def test_closed_port_is_refused(box):
    box.start()
    port = start_echo(box)
    box.run("kill $(ps -eo pid,args | awk '/[p]rogram.py/ {print $1}')", check=False)

    def is_refused() -> bool:
        try:
            box.provider.dial(box.handle, port).close()
        except ConnectionError:
            return True
        return False

    wait_until(is_refused, "the closed port to be refused", seconds=5)


def test_port_of_another_program_of_the_machine_is_not_reached(box):
    box.start()

    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0.2)
        with pytest.raises(ConnectionError):
            box.provider.dial(box.handle, other.getsockname()[1])
        with pytest.raises(TimeoutError):
            other.accept()


@pytest.mark.parametrize("how", ["stop", "destroy", "kill"])
def test_dial_of_an_ended_sandbox_is_refused(box, how):
    box.start()
    box.provider.dial(box.handle).close()

    end_sandbox(how, box)

    with pytest.raises(ConnectionError):
        box.provider.dial(box.handle)


def test_resumed_sandbox_is_dialled(box):
    box.start()
    box.stop()
    box.resume()

    box.provider.dial(box.handle).close()


def test_open_connection_ends_with_the_sandbox(box):
    box.start()
    link = box.provider.dial(box.handle)
    link.settimeout(20)
    answers: list[bytes] = []

    def read() -> None:
        try:
            answers.append(link.recv(1))
        except ConnectionError:
            answers.append(b"")

    reader = threading.Thread(target=read)
    reader.start()
    box.stop(0)
    reader.join(10)

    assert answers == [b""]
    link.close()
