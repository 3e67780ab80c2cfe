"""`manage.py quickstart` as a real process: its output, its data folder and its child processes."""

import contextlib
import io
import json
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import grpc
import psutil
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lib import env
from lib.processes import all_processes
from openhands_site.operating import supervisor
from openhands_site.operating.embedded import CannotStart
from openhands_site.operating.quickstart import data_folder, environment
from openhands_site.operating.quickstart.run import Quickstart
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "correct horse battery"
COMMANDS = {"web": "run_web", "worker": "run_worker", "manager": "run_conversation_manager"}
pytestmark = pytest.mark.timeout(120)


def build_environment(**extra: str) -> dict[str, str]:
    """Return an environment without the settings of the test run."""
    names = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
    return {name: os.environ[name] for name in names if name in os.environ} | extra


def find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def run_manage(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "manage.py"), *map(str, arguments)]
    return subprocess.run(
        command,
        env=build_environment(**environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Run:
    """A running quickstart and its output so far."""

    def __init__(self, folder: Path, *arguments: object, **environment: str) -> None:
        self.folder, self.port, self.output, self._read_to = folder, find_free_port(), "", 0
        command = [sys.executable, str(ROOT / "manage.py"), "quickstart", "--no-engine"]
        command += ["--data-dir", str(folder), "--port", str(self.port), *map(str, arguments)]
        self.process = subprocess.Popen(
            command,
            env=build_environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def read_until(self, pattern: str, seconds: float = 60) -> re.Match:
        """Read the output until the pattern occurs after the last match, and return the new match."""
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while not (match := re.search(pattern, self.output[self._read_to :], re.MULTILINE)):
                assert time.monotonic() < deadline, f"no {pattern!r} in:\n{self.output}"
                if selector.select(0.5):
                    data = os.read(self.process.stdout.fileno(), 65_536)
                    assert data, f"ended without {pattern!r}:\n{self.output}"
                    self.output += data.decode()
        self._read_to += match.end()
        return match

    def get(self, path: str) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as response:
            return response.status

    def find_process(self, name: str) -> psutil.Process:
        return psutil.Process(json.loads((self.folder / "running.json").read_text())[name][0])

    def stop(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=40)
        self.output += rest.decode()
        return self.process.returncode


@pytest.fixture
def run(tmp_path):
    """Return a function that starts a quickstart. All of them end after the test."""
    started = []

    def start(*arguments, folder=tmp_path / "data folder", **environment):
        started.append(Run(folder, *arguments, **environment))
        return started[-1]

    yield start
    for quickstart_run in started:
        if quickstart_run.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                quickstart_run.stop()
            quickstart_run.process.kill()
            quickstart_run.process.wait()
        quickstart_run.process.stdout.close()


def list_processes(folder: Path) -> list[tuple[int, str]]:
    """Return (id, command) of each process with the folder in its command, working directory or ``DATA_DIR``."""
    processes = []
    for process in all_processes():
        with contextlib.suppress(psutil.Error):
            texts = [*process.cmdline(), process.cwd(), process.environ().get("DATA_DIR", "")]
            is_dead = process.status() == psutil.STATUS_ZOMBIE
            if (
                process.pid != os.getpid()
                and not is_dead
                and any(str(folder) in text for text in texts)
            ):
                processes.append((process.pid, " ".join(process.cmdline())))
    return processes


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process runs. A zombie does not, although nobody has collected its status."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def wait_replaced(running: Run, name: str, before: psutil.Process) -> psutil.Process:
    """Wait until another process of a role runs and uses the database. Return the process."""

    def find() -> psutil.Process | None:
        # The file may be incomplete for a moment, and does not list the role between two processes.
        with contextlib.suppress(ValueError, KeyError, psutil.Error):
            process = running.find_process(name)
            return process if process.pid != before.pid and is_connected(process) else None
        return None

    def is_connected(process: psutil.Process) -> bool:
        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s "
            "AND backend_start >= to_timestamp(%s)"
        )
        url = environment.read_file(running.folder / "server.env")["DATABASE_URL"]
        with psycopg.connect(url) as connection:
            values = [name, process.create_time()]
            return connection.execute(query, values).fetchone()[0] > 0

    return wait_until(find, f"another {name}")


def assert_forked(running: Run, name: str) -> None:
    """Assert that a role is a fork, which lets go of the locks and of the environment of the first process."""
    process = running.find_process(name)
    wait_until(lambda: COMMANDS[name] in process.cmdline()[0], "the title")
    assert process.environ() == {}
    assert not [file for file in process.open_files() if file.path.endswith(".lock")]


def test_quickstart_starts_from_nothing_restarts_a_killed_process_and_stops_cleanly(run, tmp_path):
    grpc_port = find_free_port()
    engine = tmp_path / "engine of the environment"
    first = run("--grpc-port", grpc_port, ENGINE_DIR=str(engine))
    link = first.read_until(r"http://127\.0\.0\.1:\d+(/setup/\S+)")[1]
    assert first.read_until(r"^Ready at (\S+)")[1] == f"http://127.0.0.1:{first.port}"
    first.read_until("^Next: open the link above, then connect a model")
    first.read_until(f"^Other commands: DATA_DIR='{first.folder}' .venv/bin/python manage.py help")
    assert first.get("/ready") == 200
    assert first.get(link) == 200
    assert (first.folder / "server.env").stat().st_mode & 0o777 == 0o600

    if sys.platform == "linux":
        for name in COMMANDS:
            assert_forked(first, name)

    second = run()
    second.process.wait(30)
    assert second.process.returncode == 1
    assert (
        f"already running with the data folder {first.folder} (process {first.process.pid})"
        in second.process.stdout.read().decode()
    )

    # Commands in another terminal need only the data folder to use the same database.
    report = run_manage("doctor", "--json", DATA_DIR=str(first.folder)).stdout
    states = {check["name"]: check["state"] for check in json.loads(report)["checks"]}
    assert f"is not installed in {engine}" in report
    assert {
        states[name] for name in ("Settings", "Database", "Migrations", "Redis", "Server", "Keys")
    } == {"ok"}
    creation = run_manage(
        "create_user",
        "--email",
        "eve@example.com",
        DATA_DIR=str(first.folder),
        OH_PASSWORD=PASSWORD,
    )
    assert creation.returncode == 0, creation.stderr

    with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=10
        )
    assert health.status == health_pb2.HealthCheckResponse.SERVING

    first.find_process("web").kill()
    first.read_until(r"web +\| was ended by SIGKILL; restarting in 1 s")
    assert first.get("/ready") == 200, "a request during the restart waits at the open port"

    children = psutil.Process(first.process.pid).children(recursive=True)
    assert first.stop() == 0
    assert "was killed" not in first.output
    assert not [*filter(is_alive, children)]
    assert "Traceback" not in first.output
    assert list_processes(first.folder) == []


@pytest.mark.skipif(sys.platform != "linux", reason="forks are used on Linux only")
def test_restarted_role_is_a_fork_unless_a_file_that_it_reads_was_changed(run):
    first = run()
    first.read_until("^Ready ")

    for name in ("web", "manager"):
        before = first.find_process(name)
        before.kill()
        first.read_until(rf"{name} +\| was ended by SIGKILL; restarting in 1 s")
        # `web` connects when it is asked whether it is ready.
        assert first.get("/ready") == 200
        wait_replaced(first, name, before)
        assert_forked(first, name)

    with (first.folder / "server.env").open("a") as file:
        file.write("# changed\n")
    before = first.find_process("worker")
    before.terminate()
    first.read_until(r"worker +\| exited with status 0; restarting in 1 s")
    restarted = wait_replaced(first, "worker", before)
    assert restarted.cmdline()[2] == "run_worker"
    assert restarted.environ()["OH_ROLE"] == "worker"

    children = psutil.Process(first.process.pid).children(recursive=True)
    assert {first.find_process(name) for name in COMMANDS} < {*children}
    first.process.kill()
    first.process.wait()
    wait_until(lambda: not [*filter(is_alive, children)], "the child processes to end", seconds=20)


def test_data_survives_sigkill(run):
    environment = {"OH_ADMIN_PASSWORD": PASSWORD}
    first = run("--admin-email", "root@example.com", **environment)
    first.read_until("^Ready ")
    first.read_until(rf"^Next: sign in at http://127.0.0.1:{first.port}/sign-in")
    assert "/setup/" not in first.output
    for name in ("web", "worker", "manager"):
        assert "OH_ADMIN_PASSWORD" not in first.find_process(name).environ()
    keys = (first.folder / "server.env").read_text().split("PUBLIC_URL")[0]

    first.process.kill()
    first.process.wait()
    if sys.platform == "linux":
        wait_until(
            lambda: not list_processes(first.folder), "the child processes to end", seconds=20
        )

    again = run("--json")
    ready = json.loads(again.read_until(r'^\{"event": "ready".*\}$')[0])
    assert ready["url"] == f"http://127.0.0.1:{again.port}"
    assert ready["setup_url"] is None, "there is an administrator"
    assert set(ready["pids"]) == {"web", "worker", "manager"}
    assert (again.folder / "server.env").read_text().split("PUBLIC_URL")[0] == keys
    assert again.stop(signal.SIGTERM) == 0
    assert list_processes(again.folder) == []


@pytest.mark.slow
def test_permission_of_an_earlier_quickstart_is_removed_and_agents_are_isolated(run, tmp_path):
    folder = tmp_path / "data folder"
    folder.mkdir()
    (folder / "server.env").write_text(
        "ALLOW_PROCESS_SANDBOX='true'\nSECRET_KEY='%s'\n" % ("s" * 50)
    )
    started = run()

    step = started.read_until(r"^ *Sandboxes +(.*)$")[1]
    started.read_until("^Ready ")

    assert step == "isolated by bubblewrap" or step.startswith("agents cannot start. ")
    stored = (folder / "server.env").read_text()
    assert "ALLOW_PROCESS_SANDBOX" not in stored
    assert f"SECRET_KEY='{'s' * 50}'" in stored
    assert started.stop() == 0


def test_server_starts_although_agents_cannot(run):
    # The provider of macOS is refused on Linux, as bubblewrap is on a kernel without namespaces.
    started = run(SANDBOX_PROVIDER="bubblewrap" if sys.platform == "darwin" else "seatbelt")

    step = started.read_until(r"^ *Sandboxes +(.*)$")[1]
    started.read_until("^Ready ")

    assert step.startswith("agents cannot start. ")
    assert started.get("/ready") == 200
    assert started.stop() == 0


@pytest.mark.slow
def test_allowed_process_sandboxes_are_not_the_default(run):
    started = run(ALLOW_PROCESS_SANDBOX="true")

    assert "not isolated" not in started.read_until(r"^ *Sandboxes +(.*)$")[1]
    started.read_until("^Ready ")
    assert started.stop() == 0


class TestSavedEnvironment:
    """The settings that `make run` takes from the environment are in server.env, so that later commands find them."""

    @pytest.fixture
    def start(self, tmp_path, monkeypatch):
        """Return a function that writes server.env as a start with an environment does, and returns its values."""

        def write(**given):
            monkeypatch.setattr(os, "environ", {"PATH": os.environ["PATH"]} | given)
            monkeypatch.setattr(env, "load_file", lambda path: None)
            one = environment.Environment(tmp_path)
            one.prepare("127.0.0.1", 8123, supervisor.Console(io.StringIO()))
            one.write()
            one.save_given()
            return environment.read_file(tmp_path / "server.env")

        return write

    def test_engine_and_sandboxes_are_found_by_commands_and_by_later_starts(self, start):
        given = {"ENGINE_DIR": "/srv/engine", "SANDBOX_DIR": "/srv/boxes"}

        assert start(**given).items() >= given.items()
        assert start().items() >= given.items()
        assert start(ENGINE_DIR="/other")["ENGINE_DIR"] == "/other"
        assert start()["ENGINE_DIR"] == "/other"

    def test_other_settings_are_found_by_commands_until_the_next_start(self, start):
        given = {
            "DATABASE_URL": "postgresql://me:it's@db/x",
            "REDIS_URL_FILE": "/run/secrets/redis",
            "PUBLIC_URL": "https://agents.example",
            "SANDBOX_PROVIDER": "process",
            "ALLOW_PROCESS_SANDBOX": "true",
        }

        assert start(**given).items() >= given.items()
        assert not start().keys() & {"DATABASE_URL", "REDIS_URL_FILE", "SANDBOX_PROVIDER"}

    def test_secrets_and_foreign_variables_are_not_written(self, start, tmp_path):
        saved = start(
            SECRET_KEY="of the environment",
            EMAIL_HOST_PASSWORD="of the environment",
            METRICS_TOKEN="of the environment",
            HOME="/root",
            OH_ADMIN_PASSWORD="of the environment",
        )

        assert "of the environment" not in saved.values()
        assert "HOME" not in saved
        assert (tmp_path / "server.env").stat().st_mode & 0o777 == 0o600


class TestRefusals:
    @staticmethod
    def fail_to_start(*arguments: object, **environment: str) -> str:
        """Run a quickstart that must exit with 1 without a traceback; return its error output."""
        result = run_manage("quickstart", "--no-engine", *arguments, **environment)
        assert result.returncode == 1, result.stdout + result.stderr
        assert "Traceback" not in result.stdout + result.stderr
        return result.stderr.strip()

    def test_port_in_use_is_refused_with_the_next_port(self, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            number = listener.getsockname()[1]
            error = self.fail_to_start("--data-dir", tmp_path, "--port", number)

        assert error.startswith(f"Port {number} is in use by ")
        assert error.endswith(f"choose another port: make run PORT={number + 1}.")
        assert not (tmp_path / "postgresql").exists()

    def test_grpc_port_in_use_is_refused(self, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            number = listener.getsockname()[1]
            error = self.fail_to_start(
                "--data-dir", tmp_path, "--port", find_free_port(), "--grpc-port", number
            )

        assert error.startswith(f"Port {number} is in use by ")
        assert error.endswith("--grpc-port.")

    def test_address_of_another_machine_is_refused(self, tmp_path):
        error = self.fail_to_start(
            "--data-dir", tmp_path, "--port", find_free_port(), "--host", "192.0.2.1"
        )

        assert error.startswith("Cannot listen on 192.0.2.1")

    def test_unreachable_database_is_reported(self, tmp_path):
        error = self.fail_to_start(
            *("--data-dir", tmp_path, "--port", find_free_port()),
            DATABASE_URL="postgresql://me@127.0.0.1:1/x",
            REDIS_URL="redis://127.0.0.1:1/0",
        )

        assert "The PostgreSQL server of DATABASE_URL cannot be reached" in error
        assert "unset it to start a PostgreSQL server" in error
        assert list_processes(tmp_path) == []

    def test_unreachable_redis_is_reported(self, tmp_path):
        error = self.fail_to_start(
            "--data-dir", tmp_path, "--port", find_free_port(), REDIS_URL="redis://127.0.0.1:1/0"
        )

        assert "The Redis server of REDIS_URL cannot be reached" in error
        assert list_processes(tmp_path) == []

    def test_invalid_setting_is_reported(self, tmp_path):
        error = self.fail_to_start(
            "--data-dir", tmp_path, "--port", find_free_port(), LEASE_SECONDS="soon"
        )

        assert error == (
            "The value of LEASE_SECONDS is not valid ('soon'). Set it to a whole number from 2 to 60."
        )

    @pytest.mark.slow
    def test_tables_that_cannot_be_upgraded_are_refused_with_the_way_out(self, run, tmp_path):
        first = run()
        first.read_until("^Ready ")
        url = environment.read_file(first.folder / "server.env")["DATABASE_URL"]
        with psycopg.connect(url.replace("openhands@", "postgres@", 1)) as connection:
            connection.execute(
                "DELETE FROM django_migrations WHERE name LIKE '%_squashed_%' OR name = '0009_newest'"
            )
        first.stop()

        error = self.fail_to_start("--data-dir", first.folder, "--port", first.port)

        assert error.startswith(
            "The tables in the database come from a commit before version 0.1.0"
        )
        assert list_processes(first.folder) == []

    def test_weak_administrator_password_is_refused(self, tmp_path):
        error = self.fail_to_start(
            *("--data-dir", tmp_path, "--port", find_free_port(), "--admin-email", "a@example.com"),
            OH_ADMIN_PASSWORD="password",
        )

        assert error.startswith("The administrator a@example.com cannot be created: ")
        assert list_processes(tmp_path) == []

    def test_data_folder_that_is_a_file_is_refused(self, tmp_path):
        (tmp_path / "data").write_text("")

        assert "File exists" in self.fail_to_start(
            "--data-dir", tmp_path / "data", "--port", find_free_port()
        )

    def test_data_folder_of_another_user_is_refused(self, tmp_path):
        if os.geteuid() == 0:
            os.chown(tmp_path, 12345, 12345)
            assert "belongs to user 12345" in self.fail_to_start("--data-dir", tmp_path)
        else:
            tmp_path.chmod(0o500)
            assert "is not writable" in self.fail_to_start("--data-dir", tmp_path)
            tmp_path.chmod(0o700)

    def test_full_disk_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.setattr(data_folder, "REQUIRED_MEGABYTES", 10**9)
        monkeypatch.setattr(os, "environ", dict(os.environ))
        start = Quickstart(
            "127.0.0.1", find_free_port(), tmp_path, "", is_json=False, wants_engine=False
        )

        with pytest.raises(
            CannotStart, match=r"has only \d+ MB free, but the server needs 1000000000 MB"
        ):
            start.run()

    @pytest.mark.parametrize("number", ["0", "65536", "http"])
    def test_invalid_port_is_a_usage_error(self, number):
        result = run_manage("quickstart", "--port", number)

        assert result.returncode == 2
        assert "enter a port from 1 to 65535" in result.stderr
