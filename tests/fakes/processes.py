"""Web processes that use the test database."""

import contextlib
import os
import socket
import subprocess
import sys

import httpx2
from django.conf import settings
from django.db import connection

from tests.waiting import wait_until

RUN_WEB = (sys.executable, "-W", "ignore", "manage.py", "run_web", "--fd", "{fd}")
DAPHNE = (
    sys.executable,
    "-W",
    "ignore",
    "-m",
    "daphne",
    "--fd",
    "{fd}",
    "openhands_site.asgi:application",
)


def database_url():
    at = connection.settings_dict
    return f"postgresql://{at['USER']}:{at['PASSWORD']}@/{at['NAME']}?host={at['HOST']}" + (
        f"&port={at['PORT']}" if at["PORT"] else ""
    )


@contextlib.contextmanager
def webs(number, folder, *, command=RUN_WEB, **environment):
    """Start ``number`` web processes; yield their addresses. In ``command``, ``{fd}`` is the socket to serve."""
    started = []
    for n in range(number):
        listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        os.set_inheritable(listener.fileno(), True)
        log = (folder / f"web{n}.log").open("wb")
        process = subprocess.Popen(
            [word.format(fd=listener.fileno()) for word in command], cwd=settings.BASE_DIR, env=os.environ | environment | {"DATABASE_URL": database_url()},
            pass_fds=[listener.fileno()], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        started.append((listener, process, log))
    urls = [f"http://127.0.0.1:{listener.getsockname()[1]}" for listener, *_ in started]
    try:
        for url in urls:
            wait(url)
        yield urls
    finally:
        for _, process, _ in started:
            process.kill()
        for listener, process, log in started:
            process.wait(10)
            listener.close()
            log.close()


def wait(url):
    """Wait until the server at ``url`` responds to ``/alive``."""

    def is_alive():
        with contextlib.suppress(httpx2.TransportError):
            return httpx2.get(f"{url}/alive", timeout=30, trust_env=False).status_code == 200
        return False

    wait_until(is_alive, f"{url} to respond", seconds=90, pause=0.2)
