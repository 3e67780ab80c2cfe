"""The embedded PostgreSQL and Redis of a data folder: start, restart, recovery and stop."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import psutil
import psycopg
import pytest
import redis

from lib import processes
from openhands_site.operating import embedded

ROOT = Path(__file__).resolve().parents[2]
OWNER = """
import pathlib, sys, time
sys.path.insert(0, {root!r})
from openhands_site.operating import embedded
services = embedded.start(pathlib.Path({folder!r}), durable=False)
print(services.database_url, flush=True)
time.sleep(60)
"""


@pytest.fixture
def run():
    """Return a function that starts services. They are stopped after the test."""
    started = []

    def start(folder, **options):
        started.append(embedded.start(folder, **{"durable": False, **options}))
        return started[-1]

    yield start
    for services in started:
        services.stop()


def fetch_value(services, statement):
    host = parse_qs(urlsplit(services.database_url).query)["host"][0]
    with psycopg.connect(
        host=host, user="postgres", dbname="postgres", autocommit=True
    ) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchone()[0] if cursor.description else None


def list_programs(*folders) -> list[str]:
    """Return the names of the programs that have one of the folders in their command line."""
    names = set()
    for process in processes.all_processes():
        with contextlib.suppress(psutil.Error):
            command = " ".join(process.cmdline())
            if any(str(folder) in command for folder in folders):
                names.add(process.name())
    return sorted(names)


@pytest.mark.parametrize("name", ["plain", "with space, 'quote' and comma", "l" * 120])
def test_services_start_in_any_folder_and_leave_no_process(run, tmp_path, name):
    folder = tmp_path / name

    services = run(folder)
    assert fetch_value(services, "SELECT 1") == 1
    with redis.Redis.from_url(services.redis_url) as client:
        assert client.ping()
    services.stop()
    services.stop()

    assert list_programs(folder) == []


def test_data_survives_a_restart(run, tmp_path):
    first = run(tmp_path)
    fetch_value(first, "CREATE TABLE answers AS SELECT 42 AS answer")
    first.stop()

    assert fetch_value(run(tmp_path), "SELECT answer FROM answers") == 42


def test_durable_database_writes_every_commit_to_disk(run, tmp_path):
    services = run(tmp_path, durable=True)

    assert {
        name: fetch_value(services, f"SHOW {name}")
        for name in ("fsync", "synchronous_commit", "full_page_writes")
    } == {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
    }
    assert fetch_value(services, "SHOW max_connections") == "200"
    assert fetch_value(services, "SHOW listen_addresses") == ""


def test_socket_folder_is_closed_to_other_users(run, tmp_path):
    services = run(tmp_path)

    sockets = Path(parse_qs(urlsplit(services.database_url).query)["host"][0])

    assert sockets.stat().st_mode & 0o077 == 0


def test_second_start_in_the_same_folder_raises_already_running(run, tmp_path):
    run(tmp_path)

    with pytest.raises(embedded.AlreadyRunning, match=f"already running in {tmp_path}"):
        embedded.start(tmp_path)


@pytest.mark.skipif(
    sys.platform != "linux", reason="on other systems the next start ends the processes"
)
def test_services_end_when_their_owner_is_killed_and_can_start_again(run, tmp_path):
    code = OWNER.format(root=str(ROOT), folder=str(tmp_path))
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert owner.stdout.readline().startswith("postgresql://")

    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()

    services = run(tmp_path)
    assert fetch_value(services, "SELECT 1") == 1
    # A folder with a long path has its sockets elsewhere.
    sockets = Path(unquote(urlsplit(services.redis_url).path)).parent
    assert list_programs(tmp_path, sockets) == ["postgres", "valkey-server"]


def test_killed_services_are_restarted_with_their_data(run, tmp_path):
    services = run(tmp_path, durable=True)
    fetch_value(services, "CREATE TABLE answers AS SELECT 42 AS answer")
    for service in services._services:
        service.process.kill()
        service.process.wait()

    assert services.restart_stopped() == ["PostgreSQL", "Redis"]
    assert fetch_value(services, "SELECT answer FROM answers") == 42
    assert services.restart_stopped() == []


def test_stale_pid_file_with_the_id_of_another_process_is_ignored(run, tmp_path):
    first = run(tmp_path)
    pid_file = tmp_path / "postgresql" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    first.stop()
    other = subprocess.Popen(["sleep", "60"])
    try:
        pid_file.write_text("\n".join([str(other.pid), *lines[1:]]))

        assert fetch_value(run(tmp_path), "SELECT 1") == 1
        assert other.poll() is None, "the other process was ended"
    finally:
        other.kill()
        other.wait()


class TestRole:
    """The server's role is no superuser, and owns everything, also in a data folder of an earlier version."""

    OBJECTS = """
        CREATE TABLE answers (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, answer int);
        INSERT INTO answers (answer) VALUES (42);
        CREATE TABLE questions (id serial);
        CREATE SEQUENCE numbers;
        CREATE VIEW all_answers AS SELECT * FROM answers;
        CREATE TYPE mood AS ENUM ('good', 'bad');
        CREATE TYPE pair AS (a int, b int);
        CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql AS 'SELECT 2 * n';
        CREATE PROCEDURE nothing() LANGUAGE sql AS 'SELECT 1';
        CREATE SCHEMA "other Schema";
        CREATE TABLE "other Schema"."a Table" (id int);
    """

    def ask(self, services, statement):
        with psycopg.connect(services.database_url, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchone()[0] if cursor.description else None

    def test_role_of_the_server_cannot_run_programs_or_read_files(self, run, tmp_path):
        services = run(tmp_path)

        assert (
            self.ask(
                services,
                "SELECT current_user || rolsuper FROM pg_roles WHERE rolname = current_user",
            )
            == "openhandsfalse"
        )
        for statement in (
            "COPY (SELECT 1) TO PROGRAM 'true'",
            "SELECT pg_read_file('/etc/passwd')",
            "SET SESSION AUTHORIZATION postgres",
            "CREATE ROLE eve SUPERUSER",
            "ALTER SYSTEM SET fsync = off",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                self.ask(services, statement)
        self.ask(services, "CREATE TABLE own (id int); DROP TABLE own")

    def test_objects_of_an_earlier_version_change_their_owner_at_the_start(self, run, tmp_path):
        first = run(tmp_path)
        fetch_value(first, "REASSIGN OWNED BY openhands TO postgres; DROP OWNED BY openhands")
        fetch_value(first, "DROP ROLE openhands")
        fetch_value(first, self.OBJECTS)
        first.stop()

        again = run(tmp_path)

        assert self.ask(again, "SELECT answer FROM all_answers") == 42
        assert self.ask(again, "SELECT twice(nextval('numbers')::int)") == 2
        for statement in (
            "ALTER TABLE answers ADD COLUMN more mood",
            "INSERT INTO answers (answer) VALUES (43)",
            "INSERT INTO questions DEFAULT VALUES",
            "ALTER TYPE mood ADD VALUE 'odd'",
            "DROP FUNCTION twice(int)",
            "DROP PROCEDURE nothing()",
            "DROP VIEW all_answers",
            "DROP TYPE pair",
            'DROP TABLE "other Schema"."a Table"',
            'DROP SCHEMA "other Schema"',
            "CREATE TABLE fresh (id int)",
        ):
            self.ask(again, statement)


class TestRefusals:
    def test_folder_of_another_user_raises_cannot_start(self, tmp_path, monkeypatch):
        if os.geteuid() == 0:
            os.chown(tmp_path, 12345, 12345)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: 12345)

        with pytest.raises(
            embedded.CannotStart, match=r"belongs to .+, not to .+ make run DATA_DIR="
        ):
            embedded.start(tmp_path)

    def test_folder_that_cannot_be_created_raises_cannot_start(self, tmp_path):
        (tmp_path / "file").write_text("")

        with pytest.raises(embedded.CannotStart, match="Not a directory"):
            embedded.start(tmp_path / "file" / "data")

    def test_data_of_another_postgresql_version_raises_cannot_start(self, tmp_path):
        (tmp_path / "postgresql").mkdir()
        (tmp_path / "postgresql" / "PG_VERSION").write_text("12\n")

        with pytest.raises(
            embedded.CannotStart,
            match="created by PostgreSQL 12, but this server includes version 18",
        ):
            embedded.start(tmp_path)

    @pytest.mark.parametrize(
        ("output", "expected"),
        [
            # The output of initdb 18 and postgres 18 on a full tmpfs.
            (
                'initdb: error: could not write to file "pg_wal/xlogtemp": No space left on device',
                "is full. Free",
            ),
            ("FATAL:  could not write lock file: Disk quota exceeded", "is full. Free"),
            (
                'initdb: error: could not create directory "/x": Permission denied',
                "is not writable",
            ),
            ("Read-only file system: /x/services.lock", "is not writable"),
            ("Not a directory: /etc/passwd/x", "or is not a folder (Not a directory"),
            ("File exists: /etc/passwd", "Choose another folder: make run DATA_DIR="),
            ("LOG:  a\nFATAL:  something new\nLOG:  b", "FATAL:  something new"),
        ],
    )
    def test_program_output_is_explained_in_a_sentence(self, tmp_path, output, expected):
        assert expected in embedded.explain_error(output, tmp_path)
