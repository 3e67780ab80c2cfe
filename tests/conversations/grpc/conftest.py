"""A gRPC server of its own, and clients of it."""

import contextlib
import os
import re
import subprocess
import sys
import time

import grpc
import pytest
from django.conf import settings

from conversations.grpc.v1.events_pb2_grpc import EventServiceStub
from tests.fakes.processes import database_url


@contextlib.contextmanager
def serving(log, *arguments, **environment):
    """The process of the ``grpc`` role and the port that it serves on."""
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
    try:
        deadline = time.monotonic() + 60
        while not (found := re.search(r"port (\d+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield process, int(found[1])
    finally:
        process.kill()
        process.wait(10)


class Client:
    """The stub of one server, calling with one key."""

    def __init__(self, channel, key=""):
        self.stub = EventServiceStub(channel)
        self.metadata = [("authorization", f"Bearer {key}")] if key else []

    def call(self, method, message, timeout=30):
        return getattr(self.stub, method)(message, timeout=timeout, metadata=self.metadata)


@pytest.fixture(scope="module")
def server(django_db_setup, django_db_blocker, tmp_path_factory):
    """One for all tests of a module; each finds the tables empty."""
    log = tmp_path_factory.mktemp("grpc") / "server.log"
    with django_db_blocker.unblock(), serving(log) as (process, port):
        process.port, process.log = port, log
        yield process


@pytest.fixture
def channel(server, transactional_db):
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel
