"""Open files: every role raises the limit of its shell, and a process at its limit still serves requests."""

import asyncio
import contextlib
import json
import logging
import os
import re
import resource
import subprocess
import sys
import time

import httpx2
import psutil
import pytest
import websockets
from django.conf import settings as django_settings

from accounts import services as accounts
from lib import nodes, open_files
from lib.open_files import Room
from openhands_site.doctor import machine
from tests.factories.conversations import ConversationFactory
from tests.fakes.processes import RUN_WEB, webs

SHELL = ("sh", "-c", 'ulimit {limit}; exec "$0" "$@"')


def in_shell(limit, *command):
    """Return a command that runs in a shell after ``ulimit``."""
    return (SHELL[0], SHELL[1], SHELL[2].replace("{limit}", limit), *command)


@contextlib.contextmanager
def limited(soft):
    """Lower the soft limit of this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextlib.contextmanager
def opened(number):
    """Keep ``number`` more files open."""
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(number)]
    try:
        yield
    finally:
        for file in files:
            os.close(file)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [("-Sn 1024; ulimit -Hn 4096", 4096), ("-Sn 512; ulimit -Hn 12000", 12000)],
    ids=["low", "high"],
)
def test_soft_limit_of_a_shell_is_raised_to_the_hard_limit(limits, expected):
    code = "from lib import open_files; print(open_files.raise_limit(), open_files.limit())"
    command = in_shell(limits, sys.executable, "-c", code)
    done = subprocess.run(
        command, cwd=django_settings.BASE_DIR, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(expected)] * 2


@pytest.mark.parametrize("module", ["openhands_site.asgi", "openhands_site.wsgi"])
def test_servers_that_only_import_the_application_raise_the_limit(module):
    code = f"import {module}; from lib import open_files; print(open_files.limit())"
    command = in_shell("-Sn 512; ulimit -Hn 4096", sys.executable, "-W", "ignore", "-c", code)
    done = subprocess.run(
        command, cwd=django_settings.BASE_DIR, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-1] == "4096"


def test_child_keeps_the_limit_that_this_process_inherited(monkeypatch):
    monkeypatch.setattr(open_files, "_inherited", (300, 4_000))
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        open_files.limit_child(child.pid)
        assert psutil.Process(child.pid).rlimit(psutil.RLIMIT_NOFILE) == (300, 4_000)
    finally:
        child.communicate(b"\n", timeout=20)


def test_room_shrinks_with_the_number_of_open_files():
    used = open_files.used()
    limit = max(used + 300, 512)
    reserve = min(open_files.RESERVE, limit // 4)
    with limited(limit):
        assert open_files.room() is Room.PLENTY
        # A connection in the reserve may not stay open, although a lower number is free now.
        assert open_files.room(open_files.limit() - 1) is Room.SCARCE
        with opened(limit - reserve - open_files.used() + 2):
            assert open_files.room() is Room.SCARCE
        with opened(limit - open_files.used() - 3):
            assert open_files.room() is Room.NONE
        assert open_files.room() is Room.PLENTY


def test_full_process_logs_one_line_a_minute_that_says_what_to_do(caplog):
    from lib import logs

    logs._last_lines.clear()
    with limited(open_files.used() + 20), contextlib.ExitStack() as files:
        while True:
            try:
                files.callback(os.close, os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        for _ in range(5):
            assert open_files.room() is Room.NONE
    lines = [r.getMessage() for r in caplog.records if r.name == "lib.open_files"]
    assert len(lines) == 1
    assert "new connections are not accepted" in lines[0]
    assert "ulimit -Hn" in lines[0]


def test_accept_error_of_asyncio_becomes_one_line_without_traceback(caplog):
    from lib import logs

    logs._last_lines.clear()
    error = OSError(24, "Too many open files")
    for _ in range(3):
        record = logging.makeLogRecord(
            {
                "name": "asyncio",
                "msg": "socket.accept() out of system resource",
                "exc_info": (OSError, error, None),
            }
        )
        assert not open_files.AcceptErrors().filter(record)
    lines = [r for r in caplog.records if r.name == "lib.open_files"]
    assert len(lines) == 1
    assert lines[0].exc_info is None


def test_low_limit_is_a_warning_of_doctor_and_of_the_list_of_nodes(caplog):
    with limited(max(1_024, open_files.used() + 100)) as _:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        load = nodes.Announcement("web", load=dict).node().load
    assert load["open_files"] > 0
    assert 1_024 <= load["open_files_limit"] < hard
    node = nodes.Announcement("web", load=dict).node()
    low = nodes.msgspec.structs.replace(node, load=load | {"open_files_limit": 1_024})
    assert any("may have only 1,024 files open" in text for text in low.warnings)
    code = (
        "import os; os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'openhands_site.settings');"
        "from openhands_site.doctor import machine; print(machine.open_files())"
    )
    command = in_shell("-Sn 1024; ulimit -Hn 1024", sys.executable, "-c", code)
    done = subprocess.run(
        command, cwd=django_settings.BASE_DIR, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(
        "Finding(state='warning', sentence='A process may have only 1,024 files open"
    )
    assert machine.open_files().state in ("ok", "warning")


# --- A real server ----------------------------------------------------------------


@pytest.fixture
def key(alice):
    return accounts.issue_api_key(user=alice, name="sockets")[1]


@pytest.fixture
def _many_files():
    open_files.raise_limit()
    if open_files.limit() < 6_000:
        pytest.skip("this shell's hard limit of open files is below 6,000")


async def open_sockets(url, key, conversation, number):
    """Open sockets one after another in groups; return the open ones, and how the others ended."""
    address = f"{url.replace('http', 'ws', 1)}/ws/v1/conversations/{conversation.pk}?after=0"
    live, ends = [], []

    async def connect():
        try:
            client = await websockets.connect(
                address,
                additional_headers={"Authorization": f"Bearer {key}"},
                ping_interval=None,
                compression=None,
                open_timeout=60,
                proxy=None,
            )
            try:
                async with asyncio.timeout(60):
                    await client.recv()  # the record of the conversation: the socket is live
                live.append(client)
            except websockets.ConnectionClosed as closed:
                ends.append((closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else "reset")
        except websockets.InvalidStatus as refused:
            body = json.loads(refused.response.body)
            ends.append((refused.response.status_code, body["detail"]))
        except (OSError, EOFError, websockets.InvalidMessage):
            ends.append("reset")

    for _ in range(number // 50):
        await asyncio.gather(*(connect() for _ in range(50)))
    return live, ends


def probe(url, key, times=40):
    """Send health checks and API requests on new connections; return the statuses and the slowest time."""
    statuses, slowest = [], 0.0
    for n in range(times):
        began = time.monotonic()
        path = ("/alive", "/ready", "/api/v1/conversations")[n % 3]
        headers = {"Authorization": f"Bearer {key}"} if "api" in path else {}
        statuses.append(
            httpx2.get(f"{url}{path}", headers=headers, timeout=30, trust_env=False).status_code
        )
        slowest = max(slowest, time.monotonic() - began)
    return statuses, slowest


async def refused_stream(url, key, conversation):
    """Open event streams until one is refused; return its status and code."""
    path = f"{url}/api/v1/conversations/{conversation.pk}/events/stream"
    async with (
        contextlib.AsyncExitStack() as streams,
        httpx2.AsyncClient(trust_env=False, timeout=20) as client,
    ):
        for _ in range(60):
            response = await streams.enter_async_context(
                client.stream("GET", path, headers={"Authorization": f"Bearer {key}"})
            )
            if response.status_code != 200:
                await response.aread()
                return response.status_code, response.json()["code"]
    return 200, ""


def server_process(url):
    port = int(url.rpartition(":")[2])
    return next(
        process
        for process in psutil.Process().children(recursive=True)
        if any(word == "run_web" for word in process.cmdline())
        and any(c.laddr.port == port for c in process.net_connections("tcp") if c.laddr)
    )


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("_many_files")
def test_server_of_a_shell_with_1024_files_keeps_1500_sockets_and_serves(alice, key, tmp_path):
    conversation = ConversationFactory(created_by=alice)
    command = in_shell("-Sn 1024", *RUN_WEB)
    with webs(1, tmp_path, command=command, STREAMS_PER_USER="0") as [url]:
        process = server_process(url)
        before = process.memory_info().rss

        async def run():
            live, ends = await open_sockets(url, key, conversation, 1_500)
            assert (len(live), ends) == (1_500, [])
            statuses, slowest = await asyncio.to_thread(probe, url, key)
            assert set(statuses) == {200}
            used = process.memory_info().rss
            still = sum(client.state.name == "OPEN" for client in live)
            print(
                f"\n1,500 sockets: {still} open, {len(statuses)} requests served "
                f"(slowest {slowest * 1000:.0f} ms), memory {before / 1e6:.0f} → {used / 1e6:.0f} MB, "
                f"{process.num_fds()} of {process.rlimit(psutil.RLIMIT_NOFILE)[0]} files"
            )
            assert still == 1_500
            assert process.num_fds() > 1_500
            await asyncio.gather(*(client.close() for client in live))

        asyncio.run(run())


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("_many_files")
def test_server_with_a_hard_limit_of_1024_files_refuses_sockets_with_a_reason_and_serves(
    alice, key, tmp_path
):
    conversation = ConversationFactory(created_by=alice)
    command = in_shell("-Sn 1024; ulimit -Hn 1024", *RUN_WEB)
    with webs(1, tmp_path, command=command, STREAMS_PER_USER="0") as [url]:
        process = server_process(url)
        before = process.memory_info().rss

        async def run():
            live, ends = await open_sockets(url, key, conversation, 1_500)
            statuses, slowest = await asyncio.to_thread(probe, url, key)
            stream = await refused_stream(url, key, conversation)
            print(
                f"\nhard limit 1,024: {len(live)} open, refused {len(ends)}: "
                f"{ {str(end): ends.count(end) for end in set(ends)} }, {len(statuses)} requests served "
                f"(slowest {slowest * 1000:.0f} ms), memory {before / 1e6:.0f} → "
                f"{process.memory_info().rss / 1e6:.0f} MB, {process.num_fds()} files"
            )
            assert set(statuses) == {200}
            assert len(live) > 700
            assert len(live) + len(ends) == 1_500
            assert "reset" not in ends
            assert {end[0] for end in ends} <= {1013, 503}
            assert {end[1] for end in ends} == {open_files.REFUSAL}
            assert stream == (503, "too-many-open-files")
            # Closing sockets makes room again.
            await asyncio.gather(*(client.close() for client in live[:100]))
            again, ends = await open_sockets(url, key, conversation, 50)
            assert (len(again), ends) == (50, [])
            await asyncio.gather(*(client.close() for client in live[100:] + again))

        asyncio.run(run())
    log = (tmp_path / "web0.log").read_text()
    assert log.count("may have only 1,024 files open") == 1
    assert 1 <= len(re.findall(r"refused a (socket|stream|connection)", log)) <= 2
    assert "Traceback" not in log
