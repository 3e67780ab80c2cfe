"""A context manager that runs a web process for measurements."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Web:
    """A web process and its URL. ``first_seconds`` is the time from its start to its first response with 200."""

    def __init__(self, process: "subprocess.Popen[bytes]", url: str, first_seconds: float) -> None:
        self.process, self.url, self.first_seconds = process, url, first_seconds

    @property
    def pid(self) -> int:
        return self.process.pid


@contextlib.contextmanager
def web(*command: str, settings: str = "", **environment: str) -> Iterator[Web]:
    """Run a web process during the block.

    The process runs ``run_web``, or ``command``, in which ``{fd}`` or ``{port}`` stands for the socket to listen on.
    """
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    port = listener.getsockname()[1]
    os.set_inheritable(listener.fileno(), True)
    words = command or (sys.executable, str(ROOT / "manage.py"), "run_web", "--fd", "{fd}")
    if not any("{fd}" in word for word in words):
        listener.close()  # the command opens the port itself
    fd = listener.fileno()
    words = tuple(word.format(fd=fd, port=port) for word in words)
    # Pages check the origin of forms and sockets, so the process needs its own address.
    variables = os.environ | {"PUBLIC_URL": f"http://127.0.0.1:{port}"} | environment
    if settings:
        variables["DJANGO_SETTINGS_MODULE"] = settings
    started = time.perf_counter()
    process = subprocess.Popen(
        words, cwd=ROOT, env=variables, pass_fds=(fd,) if fd >= 0 else (), stdin=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        yield Web(process, url, _first_answer(url, started, process))
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        process.wait()
        listener.close()


def _first_answer(url: str, started: float, process: "subprocess.Popen[bytes]") -> float:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.perf_counter() - started < 60:
        if process.poll() is not None:
            raise RuntimeError(f"the server exited with {process.returncode}")
        with contextlib.suppress(OSError), opener.open(f"{url}/alive", timeout=30) as answer:
            if answer.status == 200:
                return time.perf_counter() - started
        time.sleep(0.01)
    raise RuntimeError(f"{url} did not respond within 60 s")
