"""A server whose data folder is on a full disk: a small tmpfs, filled and freed again."""

import collections
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx2
import pytest
from django.conf import settings

from lib import disk as disk_module
from lib.disk import FULL_BYTES, Disk, DiskState, data_disk
from tests.waiting import wait_until

MEGABYTE = 1_048_576


@pytest.mark.parametrize(
    ("free", "percent", "state"),
    [
        (100 * MEGABYTE, 5.0, DiskState.OK),
        (100 * MEGABYTE, 4.9, DiskState.LOW),
        (FULL_BYTES, 1.0, DiskState.LOW),
        (FULL_BYTES - 1, 50.0, DiskState.FULL),
        (0, 0.0, DiskState.FULL),
    ],
)
def test_state_of_a_disk(free, percent, state):
    disk = Disk(free, percent)
    assert disk.state is state
    assert bool(disk.sentence()) is (state is not DiskState.OK)


@pytest.mark.parametrize(
    ("more", "state", "word"),
    [
        ({"free_files": 50, "free_files_percent": 0.1}, DiskState.FULL, "inodes"),
        ({"free_files": 0, "free_files_percent": 0.0}, DiskState.FULL, "inodes"),
        ({"free_files": 5_000, "free_files_percent": 4.9}, DiskState.LOW, "inodes"),
        ({"free_files": 5_000, "free_files_percent": 5.0}, DiskState.OK, ""),
        ({"free_files": None}, DiskState.OK, ""),
        ({"is_read_only": True}, DiskState.FULL, "read-only"),
    ],
)
def test_disk_without_inodes_and_read_only_disk_are_named(more, state, word):
    disk = Disk(100 * MEGABYTE, 50.0, **more)

    assert disk.state is state
    assert word in disk.sentence()
    assert bool(disk.sentence()) is (state is not DiskState.OK)


def test_inodes_and_the_read_only_flag_are_measured(tmp_path, settings, monkeypatch):
    settings.DATA_DIR = tmp_path
    monkeypatch.setattr(disk_module._Cached, "at", float("-inf"))
    real = os.statvfs(tmp_path)

    disk = data_disk()

    assert disk.free_files is None if not real.f_files else disk.free_files > 0
    assert disk.is_read_only is False


@pytest.fixture
def small_disk():
    # Not in pytest's folder, which PostgreSQL's own user may not enter.
    folder = Path(tempfile.mkdtemp(prefix="oh-test-disk-"))
    command = ["mount", "-t", "tmpfs", "-o", "size=900m,mode=755", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        folder.rmdir()
        pytest.skip("this user may not mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


@contextlib.contextmanager
def quickstart(folder, log):
    """Run ``quickstart`` with its data in ``folder``; yield a client that is signed in as an administrator."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    names = ("DATABASE_URL", "REDIS_URL", "ENGINE_DIR", "DATA_DIR", "PUBLIC_URL", "ALLOWED_HOSTS")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    password = "correct horse battery"
    command = [sys.executable, "-W", "ignore", "manage.py", "quickstart", "--no-engine"]
    command += ["--data-dir", str(folder), "--port", str(port), "--admin-email", "a@example.com"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=settings.BASE_DIR,
            env=environment | {"OH_ADMIN_PASSWORD": password, "RATE_LIMITS": "off"},
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx2.Client(base_url=url, trust_env=False, timeout=30) as client:

            def is_up():
                assert process.poll() is None, log.read_text()
                with contextlib.suppress(httpx2.TransportError):
                    return client.get("/alive").status_code == 200

            wait_until(is_up, "quickstart to serve", seconds=120, pause=0.3)
            client.get("/sign-in")
            client.headers["Origin"] = url
            form = {"email": "a@example.com", "password": password}
            token = client.cookies["XSRF-TOKEN"]
            client.post("/sign-in", data=form | {"csrfmiddlewaretoken": token})
            client.headers["X-XSRF-TOKEN"] = client.cookies["XSRF-TOKEN"]
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.kill()
        process.wait(10)


def create(client):
    """Create a conversation with a message that does not fit into the pages that the database has already."""
    body = {"title": "x", "message": os.urandom(60_000).hex()}
    return client.post("/api/v1/conversations", json=body)


def fill(folder, *, leave):
    """Write a file until ``leave`` bytes are free; return its path."""
    path = folder / f"fill-{leave}"
    state = os.statvfs(folder)
    left = max(0, state.f_bavail * state.f_frsize - leave)
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        for _ in range(left // MEGABYTE + 2 * (leave == 0)):
            file.write(bytes(MEGABYTE))
    return path


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_full_disk_is_announced_reported_by_its_cause_and_recovered_from(small_disk, tmp_path):
    log = tmp_path / "quickstart.log"
    with quickstart(small_disk, log) as client:
        assert client.get("/ready").json()["status"] == "ready"
        assert create(client).status_code == 201

        fills = [fill(small_disk, leave=30 * MEGABYTE)]
        time.sleep(1.5)
        ready = client.get("/ready")
        assert ready.status_code == 200
        assert "Free some space" in ready.json()["checks"]["disk"]["warning"]

        def desk():
            return "The disk of the data folder has only" in client.get("/admin/").text

        wait_until(desk, "the first page of the admin site to warn", seconds=30)
        assert "Free some space" in client.get("/admin/nodes").text

        fills.append(fill(small_disk, leave=0))
        time.sleep(1.5)
        responses = [create(client) for _ in range(40)]
        codes = collections.Counter(response.status_code for response in responses)
        assert set(codes) <= {201, 507}
        assert codes[507] >= 20
        problem = responses[-1].json()
        assert (problem["code"], problem["status"]) == ("disk-full", 507)
        assert "disk is full" in problem["detail"]
        assert responses[-1].headers["Content-Type"] == "application/problem+json"
        assert client.get("/api/v1/conversations").status_code == 200
        ready = client.get("/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "not ready")
        assert "is full" in ready.json()["checks"]["disk"]["detail"]

        for path in fills:
            path.unlink()
        freed = time.monotonic()
        wait_until(lambda: create(client).status_code == 201, "writes to work again", pause=0.1)
        wait_until(lambda: client.get("/ready").status_code == 200, "the server to be ready")
        print(f"\nfull disk: {dict(codes)}, recovered after {time.monotonic() - freed:.1f} s")
    text = log.read_text()
    assert "Traceback" not in text
    about = [line for line in text.splitlines() if line.startswith("web ") and "disk" in line]
    assert 1 <= len([line for line in about if "disk-full" in line]) <= 3
    assert not [line for line in text.splitlines() if "E django.request" in line]
