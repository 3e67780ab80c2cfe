"""Resources that an agent's command takes without end: what stops it, at which figure, and after how long.

Meanwhile a small HTTP server outside of the sandbox answers requests. It runs in a world as the server's user:
``python -m ….bounds FOLDER [NAME…]``. The limits are lower than the defaults, so that the run is short.
"""

import contextlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from tests.conversations.sandboxes.escapes.server import Box, set_up

MEMORY_MB, PROCESSES, DISK_MB = 1_000, 300, 2_000
SECONDS = 25
"""How long a command may go on before its row says that nothing stopped it."""
UNBOUNDED = {"memory": 3_000_000_000, "disk": 5_000_000_000, "inodes": 300_000}
"""A command that took more than this from the machine is stopped, and its row says that nothing bounded it."""
PORT = 8_001
COMMANDS: dict[str, tuple[str, str]] = {
    "fork bomb": ("processes", "bash -c ':(){ :|:& };:'; sleep 100"),
    "memory of one process": (
        "memory",
        "b = []\nwhile True: b.append(bytearray(b'x' * 20_000_000))",
    ),
    "memory of many processes": (
        "memory",
        "import os\nfor i in range(50):\n  if os.fork() == 0: b = bytearray(b'x' * 60_000_000); time.sleep(100)\ntime.sleep(100)",
    ),
    "shared anonymous memory": (
        "memory",
        "import mmap\nm = []\nwhile True: x = mmap.mmap(-1, 20_000_000); x.write(b'y' * 20_000_000); m.append(x)",
    ),
    "page tables (pages of zeros, read only)": (
        "memory",
        "import mmap\nm = []\nwhile True:\n  x = mmap.mmap(-1, 1 << 36, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000, prot=mmap.PROT_READ); x.madvise(15); m.append(x)\n  for i in range(0, 1 << 36, 1 << 21): x[i]",
    ),
    "`/dev/shm`": ("memory", "f = open('/dev/shm/x', 'wb')\nwhile True: f.write(b'z' * 1_000_000)"),
    "files in memory (`memfd_create`)": (
        "memory",
        "import os\nwhile True: os.write(os.memfd_create('x'), b'z' * 10_000_000)",
    ),
    "System V shared memory": (
        "memory",
        "import ctypes\nc = ctypes.CDLL(None, use_errno=True); c.shmat.restype = ctypes.c_void_p\nn = 0\nfor size in (50_000_000, 65_536):\n  while (i := c.shmget(0, ctypes.c_size_t(size), 0o1600)) >= 0: a = c.shmat(i, None, 0); ctypes.memset(a, 1, size); c.shmdt(ctypes.c_void_p(a)); n += size\nprint(n // 1_000_000, 'MB', flush=True); time.sleep(100)",
    ),
    "pipes": (
        "memory",
        "import os, fcntl\ndef fill():\n  while True:\n    r, w = os.pipe(); os.set_blocking(w, False)\n    try:\n      while True: os.write(w, b'p' * 65536)\n    except BlockingIOError: pass\nfor i in range(40):\n  if os.fork() == 0:\n    try: fill()\n    except OSError: time.sleep(100)\ntime.sleep(100)",
    ),
    "socket buffers": (
        "memory",
        "import os, socket\nk = []\ndef fill():\n  while True:\n    a, b = socket.socketpair(); a.setsockopt(1, 7, 1 << 30); a.setblocking(False); k.append((a, b))\n    try:\n      while True: a.send(b'p' * 100_000)\n    except BlockingIOError: pass\nfor i in range(40):\n  if os.fork() == 0:\n    try: fill()\n    except OSError: time.sleep(100)\ntime.sleep(100)",
    ),
    "open files": (
        "memory",
        "import os\nfor i in range(200):\n  if os.fork() == 0:\n    try:\n      while True: os.open('/dev/null', 0)\n    except OSError: time.sleep(100)\ntime.sleep(100)",
    ),
    "one large file": ("disk", "f = open('big', 'wb')\nwhile True: f.write(b'z' * 1_000_000)"),
    "many large files": (
        "disk",
        "n = 0\nwhile True: n += 1; open(f'big{n}', 'wb').write(b'z' * 100_000_000)",
    ),
    "deleted files that stay open": (
        "disk",
        "import os\nk = []\nwhile True: f = open('x', 'wb'); os.unlink('x'); f.write(b'z' * 100_000_000); k.append(f)",
    ),
    "deleted files that stay mapped": (
        "disk",
        "import os, mmap\nk = []\nwhile True:\n  f = open('x', 'w+b'); os.unlink('x'); f.write(b'z' * 100_000_000); f.flush(); k.append(mmap.mmap(f.fileno(), 0)); f.close()",
    ),
    "deleted files in flight between sockets": (
        "disk",
        "import os, socket, array\na, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\nwhile True:\n  f = open('x', 'wb'); os.unlink('x'); f.write(b'z' * 100_000_000); f.flush(); socket.send_fds(a, [b'x'], [f.fileno()]); f.close()",
    ),
    "files below a path of more than 4,096 bytes": (
        "disk",
        "import os\nfor i in range(30): os.mkdir('d' * 200); os.chdir('d' * 200)\nn = 0\nwhile True: n += 1; open(f'big{n}', 'wb').write(b'z' * 100_000_000)",
    ),
    "files in a folder without any permission": (
        "disk",
        "import os\nos.mkdir('closed'); d = os.open('closed', os.O_RDONLY); os.chmod('closed', 0o700)\nn = 0\nwhile True:\n  n += 1; os.chmod('closed', 0o700); f = os.open(f'closed/big{n}', os.O_CREAT | os.O_WRONLY); os.chmod('closed', 0)\n  for i in range(100): os.write(f, b'z' * 1_000_000)",
    ),
    "empty files (inodes)": (
        "inodes",
        "import os\nn = 0\nwhile True:\n  os.mkdir(f'i{n}'); n += 1\n  for i in range(10_000): os.close(os.open(f'i{n - 1}/{i}', os.O_CREAT))",
    ),
    "private `/tmp`": (
        "disk",
        "n = 0\nwhile True: n += 1; open(f'/tmp/big{n}', 'wb').write(b'z' * 100_000_000)",
    ),
}


class Web:
    """A small HTTP server, and a client that times it."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "http.server", str(PORT), "--bind", "127.0.0.1"]
        self.server = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.times: list[float] = []
        threading.Thread(target=self.measure, daemon=True).start()

    def measure(self) -> None:
        while True:
            began = time.perf_counter()
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=30)
                connection.request("GET", "/")
                connection.getresponse().read()
                connection.close()
                self.times.append(time.perf_counter() - began)
            time.sleep(0.02)

    def take(self) -> dict[str, float]:
        """Return p50, p99 and the longest time in milliseconds since the last call."""
        times, self.times = sorted(self.times), []
        if len(times) < 2:
            return {"p50": 0, "p99": 0, "max": 0}
        quantiles = statistics.quantiles(times, n=100)
        return {
            "p50": round(quantiles[49] * 1000, 1),
            "p99": round(quantiles[98] * 1000, 1),
            "max": round(times[-1] * 1000, 1),
        }


def measure(name: str, web: Web) -> dict[str, Any]:
    """Run one command in a new sandbox. Return its figures."""
    kind, program = COMMANDS[name]
    box = Box("bubblewrap")
    web.take()
    time.sleep(2)
    before = web.take()
    memory = psutil.virtual_memory().available
    disk, inodes = read_disk(box.folder)
    if kind != "processes":
        program = f"python3 -c {json_quote('import time' + chr(10) + program)}"
    output: list[str] = []

    def run() -> None:
        try:
            output.append(box.run(program, SECONDS))
        except (OSError, http.client.HTTPException, ValueError) as error:
            output.append(repr(error))

    thread = threading.Thread(target=run, daemon=True)
    began = time.monotonic()
    thread.start()
    peak = {"memory": 0, "disk": 0, "inodes": 0, "processes": 0}
    stopped_after, is_unsafe = None, False
    while time.monotonic() - began < SECONDS:
        time.sleep(0.1)
        available = psutil.virtual_memory().available
        free, free_inodes = read_disk(box.folder)
        peak["memory"] = max(peak["memory"], memory - available)
        peak["disk"] = max(peak["disk"], disk - free)
        peak["inodes"] = max(peak["inodes"], inodes - free_inodes)
        with contextlib.suppress(OSError, ValueError, KeyError):
            peak["processes"] = max(peak["processes"], count_processes(box))
        if not box.is_running_fast():
            stopped_after = round(time.monotonic() - began, 1)
            break
        if any(peak[what] > most for what, most in UNBOUNDED.items()):
            is_unsafe = True
            break
        if not thread.is_alive():
            break
    ended_after = round(time.monotonic() - began, 1)
    during = web.take()
    time.sleep(0.3)
    seen = box.provider.inspect(box.handle)
    destroying = time.monotonic()
    try:
        box.destroy()
        destroyed = f"{time.monotonic() - destroying:.1f} s"
    except Exception as error:  # noqa: BLE001 - a finding
        destroyed = f"failed: {error!r}"
    row = {
        "kind": kind,
        "peak": peak,
        "stopped_after": stopped_after,
        "ended_after": ended_after,
        "was_unsafe": is_unsafe,
        "detail": seen.detail,
        "output": (output or ["no answer yet"])[0][-200:],
        "before": before,
        "during": during,
        "destroyed": destroyed,
    }
    print(name, json.dumps(row), file=sys.stderr, flush=True)
    return row


def json_quote(text: str) -> str:
    import shlex

    return shlex.quote(text)


def read_disk(folder: Path) -> tuple[int, int]:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize, status.f_favail


def count_processes(box: Box) -> int:
    from conversations.sandboxes.bubblewrap.limits import list_descendants

    init = json.loads((box.folder / "keeper.json").read_text())["init"]
    return len(list_descendants(init))


def main(folder_name: str, *names: str) -> None:
    folder = Path(folder_name)
    os.environ |= {
        "SANDBOX_MEMORY_MEGABYTES": str(MEMORY_MB),
        "SANDBOX_MAX_PROCESSES": str(PROCESSES),
        "SANDBOX_DISK_MEGABYTES": str(DISK_MB),
    }
    set_up(folder)
    (folder / "data").mkdir()
    web = Web()
    time.sleep(1)
    rows = {name: measure(name, web) for name in COMMANDS if not names or name in names}
    web.server.kill()
    limits = {"memory": MEMORY_MB, "processes": PROCESSES, "disk": DISK_MB, "seconds": SECONDS}
    (folder / "result.json").write_text(
        json.dumps({"uid": os.geteuid(), "limits": limits, "rows": rows})
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
