import socket
import subprocess
import sys
from collections.abc import Iterator
from uuid import uuid4

import psutil
import pytest

from conversations.sandboxes import listeners
from conversations.sandboxes.listeners import listens, still_listens

SERVER = """
import socket, sys
listener = socket.create_server((sys.argv[1], 0))
address = listener.getsockname()
print(address[1], flush=True)
for line in sys.stdin:
    if line == "close\\n":
        listener.close()
    else:
        spare = open("/dev/null")  # the new listener gets another file descriptor
        listener = socket.create_server(address)
    print("done", flush=True)
"""


class Server:
    def __init__(self, address: str) -> None:
        self.program = subprocess.Popen(
            [sys.executable, "-c", SERVER, address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = int(self.program.stdout.readline())
        self.process = psutil.Process(self.program.pid)
        self.run = uuid4().hex

    def tell(self, word: str) -> None:
        print(word, file=self.program.stdin, flush=True)
        assert self.program.stdout.readline() == "done\n"

    def still_listens(self) -> bool:
        return still_listens(self.run, self.port, lambda: self.process)


@pytest.fixture
def server(request) -> Iterator[Server]:
    server = Server(getattr(request, "param", "127.0.0.1"))
    yield server
    server.program.kill()
    server.program.communicate()


@pytest.mark.parametrize("server", ["127.0.0.1", "0.0.0.0"], indirect=True)
def test_process_listens_on_its_own_port_only(server):
    assert listens(server.process, server.port)
    assert not listens(psutil.Process(), server.port)
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert not listens(server.process, other.getsockname()[1])


@pytest.mark.parametrize("server", ["127.0.0.2"], indirect=True)
@pytest.mark.skipif(sys.platform != "linux", reason="needs a second loopback address")
def test_listener_on_another_address_does_not_count(server):
    assert not listens(server.process, server.port)


def test_closed_listener_of_a_living_process_is_noticed(server):
    assert server.still_listens()

    server.tell("close")

    assert not server.still_listens()
    with socket.create_server(("127.0.0.1", server.port)):
        assert not server.still_listens()


def test_listener_that_was_opened_again_is_found(server):
    assert server.still_listens()
    server.tell("close")

    server.tell("open")

    assert server.still_listens()
    assert server.still_listens()


def test_ended_process_does_not_listen(server):
    assert server.still_listens()
    server.program.kill()
    server.program.wait()

    assert not server.still_listens()


def test_other_run_on_the_same_port_is_examined_on_its_own(server):
    assert server.still_listens()

    assert not still_listens("another run", server.port, lambda: None)


def test_memory_is_bounded(server, monkeypatch):
    monkeypatch.setattr(listeners, "REMEMBERED_MAX", 2)

    for _ in range(5):
        assert still_listens(uuid4().hex, server.port, lambda: server.process)

    assert len(listeners._remembered) <= 2
