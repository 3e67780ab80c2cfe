"""A gRPC server process and its clients."""

import contextlib
import os
import re
import subprocess
import sys

import grpc
import pytest
from django.conf import settings

from conversations.grpc.v1.events_pb2_grpc import EventServiceStub
from tests.fakes.processes import database_url
from tests.waiting import wait_until


@contextlib.contextmanager
def run_server(log, *arguments, **environment):
    """Run a process of the ``grpc`` role; yield the process and its port."""
    command = [sys.executable, "-W", "ignore", "manage.py", "run_grpc", "--port", "0", *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=settings.BASE_DIR,
            env=os.environ | {"DATABASE_URL": database_url()} | environment,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
        )

    def find_port():
        assert process.poll() is None, log.read_text()
        return re.search(r"port (\d+)", log.read_text())

    try:
        match = wait_until(find_port, "the gRPC server to log its port", seconds=60)
        yield process, int(match[1])
    finally:
        process.kill()
        process.wait(10)


class Client:
    """A client of one server that authenticates with one key."""

    def __init__(self, channel, key=""):
        self.stub = EventServiceStub(channel)
        self.metadata = [("authorization", f"Bearer {key}")] if key else []

    def call(self, method, message, timeout=30):
        return getattr(self.stub, method)(message, timeout=timeout, metadata=self.metadata)


@pytest.fixture(scope="module")
def server(django_db_setup, django_db_blocker, tmp_path_factory):
    """Run one server for all tests of a module. Every test begins with empty tables."""
    log = tmp_path_factory.mktemp("grpc") / "server.log"
    with django_db_blocker.unblock(), run_server(log) as (process, port):
        process.port, process.log = port, log
        yield process


@pytest.fixture
def channel(server, transactional_db):
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel
