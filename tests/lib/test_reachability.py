"""The checks of PostgreSQL and Redis: their sentences for real servers that fail in different ways, and their limits."""

import logging
import socket
import threading
import time

import pytest
from django.db import OperationalError, ProgrammingError, connection

from lib import reachability
from lib.reachability import Unreachable
from tests.waiting import wait_until

PASSWORD = "sekret-password"


@pytest.fixture
def silent_port():
    """Listen on a port, accept every connection, and never answer."""
    listener = socket.create_server(("127.0.0.1", 0))
    accepted = []

    def accept():
        while True:
            try:
                accepted.append(listener.accept()[0])
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for client in accepted:
        client.close()


@pytest.fixture
def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def database(monkeypatch):
    """Return a function that changes the address of the database for the checks."""

    def change(**values):
        for name, value in (
            {"USER": "eve", "PASSWORD": PASSWORD, "HOST": "127.0.0.1"} | values
        ).items():
            monkeypatch.setitem(connection.settings_dict, name, value)

    return change


def explain(check) -> str:
    with pytest.raises(Unreachable) as caught:
        check(2)
    text = str(caught.value)
    assert PASSWORD not in text
    assert "\n" not in text
    return text


def hang(*_args, **_options):
    time.sleep(60)


class TestDatabase:
    def test_reachable_server_returns_its_version(self):
        assert int(reachability.check_database().split(".")[0]) >= 14

    def test_closed_port_is_named_with_host_and_port(self, database, closed_port):
        database(PORT=str(closed_port))

        text = explain(reachability.check_database)

        assert text.startswith(
            f"PostgreSQL at 127.0.0.1:{closed_port} cannot be reached (Connection refused). Start it"
        )

    def test_server_that_never_answers_is_given_up(self, database, silent_port):
        database(PORT=str(silent_port))
        began = time.monotonic()

        text = explain(reachability.check_database)

        assert f"at 127.0.0.1:{silent_port} does not answer within 2 s" in text
        assert time.monotonic() - began < 6

    def test_name_lookup_that_hangs_is_given_up(self, database, monkeypatch):
        database(HOST="db.example")
        monkeypatch.setattr(socket, "getaddrinfo", hang)

        assert "at db.example:5432 does not answer within 2 s" in explain(
            reachability.check_database
        )

    def test_unknown_name_socket_option_and_database_have_their_reason(self, database):
        database(HOST="db.invalid")
        assert "failed to resolve host 'db.invalid'" in explain(reachability.check_database)
        database(HOST="/nonexistent")
        assert "at the socket in /nonexistent cannot be reached (No such file" in explain(
            reachability.check_database
        )

    def test_missing_database_is_named(self, monkeypatch):
        monkeypatch.setitem(connection.settings_dict, "NAME", "absent")

        assert 'has no such database (FATAL: database "absent" does not exist)' in explain(
            reachability.check_database
        ).replace("FATAL:  ", "FATAL: ")


class TestRedis:
    def test_reachable_server_returns_its_version(self):
        assert reachability.check_redis()

    def test_closed_port_is_named_with_host_and_port(self, settings, closed_port):
        settings.REDIS_URL = f"redis://:{PASSWORD}@127.0.0.1:{closed_port}/0"

        text = explain(reachability.check_redis)

        assert text.startswith(f"Redis at 127.0.0.1:{closed_port} cannot be reached (")

    def test_server_that_never_answers_is_given_up(self, settings, silent_port):
        settings.REDIS_URL = f"redis://:{PASSWORD}@127.0.0.1:{silent_port}/0"
        began = time.monotonic()

        assert "does not answer within 2 s" in explain(reachability.check_redis)
        assert time.monotonic() - began < 6

    def test_name_lookup_that_hangs_is_given_up(self, settings, monkeypatch):
        settings.REDIS_URL = f"redis://:{PASSWORD}@redis.example:6379/0"
        monkeypatch.setattr(socket, "getaddrinfo", hang)

        assert "at redis.example:6379 does not answer" in explain(reachability.check_redis)


def test_failed_command_is_explained_only_by_a_server_that_is_unreachable(
    database, closed_port, db
):
    missing_table = ProgrammingError('relation "accounts_user" does not exist')
    assert "Run `manage.py migrate`" in reachability.explain_failure(missing_table)
    assert reachability.explain_failure(ValueError("x")) is None

    database(PORT=str(closed_port))

    assert f"at 127.0.0.1:{closed_port}" in reachability.explain_failure(OperationalError("x"))


def test_role_logs_what_it_waits_for_once_and_when_it_ends(monkeypatch, caplog):
    answers = [Unreachable("Redis at x cannot be reached.")] * 3

    def check():
        if answers:
            raise answers.pop()
        return "8.0"

    monkeypatch.setattr(reachability, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(reachability, "check_database", lambda: "18")
    monkeypatch.setattr(reachability, "check_redis", check)

    with caplog.at_level(logging.INFO, "lib.reachability"):
        reachability.watch_services("web")
        wait_until(lambda: "now" in caplog.text, "the role to reach Redis")

    assert [record.getMessage() for record in caplog.records] == [
        "The role web keeps trying: Redis at x cannot be reached.",
        "The role web reaches Redis now.",
    ]
