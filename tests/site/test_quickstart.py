"""`manage.py quickstart` as people run it: a process, its output, and what is left of it."""

import contextlib
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
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from openhands_site.management.commands import quickstart

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "correct horse battery"
pytestmark = pytest.mark.timeout(120)


def bare_environment(**extra: str) -> dict[str, str]:
    """A newcomer's: none of the settings that the tests run with."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
    return {name: os.environ[name] for name in kept if name in os.environ} | extra


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def manage(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "manage.py"), *map(str, arguments)]
    return subprocess.run(
        command,
        env=bare_environment(**environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Run:
    """One quickstart and what it has said so far."""

    def __init__(self, folder: Path, *arguments: object, **environment: str) -> None:
        self.folder, self.port, self.said, self._read_to = folder, free_port(), "", 0
        command = [sys.executable, str(ROOT / "manage.py"), "quickstart", "--no-engine"]
        command += ["--data-dir", str(folder), "--port", str(self.port), *map(str, arguments)]
        self.process = subprocess.Popen(
            command,
            env=bare_environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def wait_for(self, pattern: str, seconds: float = 60) -> re.Match:
        """Read on until what follows the last match holds the pattern."""
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while not (match := re.search(pattern, self.said[self._read_to :], re.MULTILINE)):
                assert time.monotonic() < deadline, f"no {pattern!r} in:\n{self.said}"
                if selector.select(0.5):
                    data = os.read(self.process.stdout.fileno(), 65_536)
                    assert data, f"ended without {pattern!r}:\n{self.said}"
                    self.said += data.decode()
        self._read_to += match.end()
        return match

    def get(self, path: str) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return answer.status

    def role(self, name: str) -> psutil.Process:
        return psutil.Process(json.loads((self.folder / "running.json").read_text())[name][0])

    def stop(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=40)
        self.said += rest.decode()
        return self.process.returncode


@pytest.fixture
def run(tmp_path):
    """Starts quickstarts that do not outlive the test."""
    started = []

    def start(*arguments, folder=tmp_path / "data folder", **environment):
        started.append(Run(folder, *arguments, **environment))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.stop()
            one.process.kill()
            one.process.wait()
        one.process.stdout.close()


def processes_in(folder: Path) -> list[tuple[int, str]]:
    """Whatever has the folder in its command, working directory or environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            told = [*process.cmdline(), process.cwd(), process.environ().get("DATA_DIR", "")]
            is_dead = process.status() == psutil.STATUS_ZOMBIE
            if (
                process.pid != os.getpid()
                and not is_dead
                and any(str(folder) in text for text in told)
            ):
                found.append((process.pid, " ".join(process.cmdline())))
    return found


def wait_until_empty(folder: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while left := processes_in(folder):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_from_nothing_to_a_server_and_back(run):
    grpc_port = free_port()
    first = run("--grpc-port", grpc_port)
    link = first.wait_for(r"http://127\.0\.0\.1:\d+(/setup/\S+)")[1]
    assert first.wait_for(r"^Ready at (\S+)")[1] == f"http://127.0.0.1:{first.port}"
    assert first.get("/ready") == 200
    assert first.get(link) == 200
    assert (first.folder / "server.env").stat().st_mode & 0o777 == 0o600

    second = run()
    second.process.wait(30)
    assert second.process.returncode == 1
    assert (
        f"already running with the data folder {first.folder} (process {first.process.pid})"
        in second.process.stdout.read().decode()
    )

    # Another terminal finds the same database by the data folder alone.
    report = manage("doctor", "--json", DATA_DIR=str(first.folder)).stdout
    told = {check["name"]: check["state"] for check in json.loads(report)["checks"]}
    assert {
        told[name] for name in ("Settings", "Database", "Migrations", "Redis", "Server", "Keys")
    } == {"ok"}
    made = manage(
        "create_user",
        "--email",
        "eve@example.com",
        DATA_DIR=str(first.folder),
        OH_PASSWORD=PASSWORD,
    )
    assert made.returncode == 0, made.stderr

    with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=10
        )
    assert health.status == health_pb2.HealthCheckResponse.SERVING

    first.role("web").kill()
    first.wait_for(r"web +\| was ended by SIGKILL; restarting in 1 s")
    assert first.get("/ready") == 200, "what comes meanwhile waits at the open port"

    assert first.stop() == 0
    assert "Traceback" not in first.said
    assert processes_in(first.folder) == []


def test_data_is_kept_by_a_kill_that_nobody_can_catch(run):
    environment = {"OH_ADMIN_PASSWORD": PASSWORD}
    first = run("--admin-email", "root@example.com", **environment)
    first.wait_for("^Ready ")
    assert "/setup/" not in first.said
    for name in ("web", "worker", "manager"):
        assert "OH_ADMIN_PASSWORD" not in first.role(name).environ()
    keys = (first.folder / "server.env").read_text().split("PUBLIC_URL")[0]

    first.process.kill()
    first.process.wait()
    if sys.platform == "linux":
        wait_until_empty(first.folder, 20)

    again = run("--json")
    ready = json.loads(again.wait_for(r'^\{"event": "ready".*\}$')[0])
    assert ready["url"] == f"http://127.0.0.1:{again.port}"
    assert ready["setup_url"] is None, "there is an administrator"
    assert set(ready["pids"]) == {"web", "worker", "manager"}
    assert (again.folder / "server.env").read_text().split("PUBLIC_URL")[0] == keys
    assert again.stop(signal.SIGTERM) == 0
    assert processes_in(again.folder) == []


class TestRefusals:
    @staticmethod
    def refused(*arguments: object, **environment: str) -> str:
        done = manage("quickstart", "--no-engine", *arguments, **environment)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        return done.stderr.strip()

    def test_taken_port(self, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            number = listener.getsockname()[1]
            told = self.refused("--data-dir", tmp_path, "--port", number)

        assert told.startswith(f"Port {number} is in use by ")
        assert told.endswith(f"choose another port: make run PORT={number + 1}.")
        assert not (tmp_path / "postgresql").exists()

    def test_taken_grpc_port(self, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            number = listener.getsockname()[1]
            told = self.refused(
                "--data-dir", tmp_path, "--port", free_port(), "--grpc-port", number
            )

        assert told.startswith(f"Port {number} is in use by ")
        assert told.endswith("--grpc-port.")

    def test_address_of_another_machine(self, tmp_path):
        told = self.refused("--data-dir", tmp_path, "--port", free_port(), "--host", "192.0.2.1")

        assert told.startswith("Cannot listen on 192.0.2.1")

    def test_unreachable_database(self, tmp_path):
        told = self.refused(
            *("--data-dir", tmp_path, "--port", free_port()),
            DATABASE_URL="postgresql://me@127.0.0.1:1/x",
            REDIS_URL="redis://127.0.0.1:1/0",
        )

        assert "The PostgreSQL server of DATABASE_URL cannot be reached" in told
        assert "unset it to start a PostgreSQL server" in told
        assert processes_in(tmp_path) == []

    def test_unreachable_redis(self, tmp_path):
        told = self.refused(
            "--data-dir", tmp_path, "--port", free_port(), REDIS_URL="redis://127.0.0.1:1/0"
        )

        assert "The Redis server of REDIS_URL cannot be reached" in told
        assert processes_in(tmp_path) == []

    def test_odd_setting(self, tmp_path):
        told = self.refused("--data-dir", tmp_path, "--port", free_port(), LEASE_SECONDS="soon")

        assert told == (
            "The value of LEASE_SECONDS is not valid ('soon'). Set it to a whole number from 2 to 60."
        )

    def test_weak_password(self, tmp_path):
        told = self.refused(
            *("--data-dir", tmp_path, "--port", free_port(), "--admin-email", "a@example.com"),
            OH_ADMIN_PASSWORD="password",
        )

        assert told.startswith("The administrator a@example.com cannot be created: ")
        assert processes_in(tmp_path) == []

    def test_folder_that_is_a_file(self, tmp_path):
        (tmp_path / "data").write_text("")

        assert "File exists" in self.refused("--data-dir", tmp_path / "data", "--port", free_port())

    def test_folder_of_another_user(self, tmp_path):
        if os.geteuid() == 0:
            os.chown(tmp_path, 12345, 12345)
            assert "belongs to user 12345" in self.refused("--data-dir", tmp_path)
        else:
            tmp_path.chmod(0o500)
            assert "is not writable" in self.refused("--data-dir", tmp_path)
            tmp_path.chmod(0o700)

    def test_disk_without_room(self, tmp_path, monkeypatch):
        monkeypatch.setattr(quickstart, "REQUIRED_MEGABYTES", 10**9)
        start = quickstart.Quickstart(
            "127.0.0.1", free_port(), tmp_path, "", is_json=False, wants_engine=False
        )

        with pytest.raises(
            quickstart.CannotStart,
            match=r"has only \d+ MB free, but the server needs 1000000000 MB",
        ):
            start.run()

    @pytest.mark.parametrize("number", ["0", "65536", "http"])
    def test_odd_port(self, number):
        done = manage("quickstart", "--port", number)

        assert done.returncode == 2
        assert "enter a port from 1 to 65535" in done.stderr
