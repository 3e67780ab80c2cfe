"""The benchmark of ``quickstart``: seconds until the line ``Ready``, at a first start and at a second one.

The reference is one process that loads Django and the apps, because most of a start is loading: the ratio says how
many such loads a start costs. The installation of the packages and of the engine is not part of these figures.
"""

import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import report

ROOT = Path(__file__).resolve().parent.parent
STARTS = 3
LOAD = "import django; django.setup()"


def run() -> list[dict[str, Any]]:
    """Return the seconds of a first start, a second start, and a first start without compiled modules."""
    loads, firsts, seconds = [], [], []
    for _ in range(STARTS):
        loads.append(_load())
        with tempfile.TemporaryDirectory(prefix="oh-bench-") as folder:
            firsts.append(_start(folder))
            seconds.append(_start(folder))
    with (
        tempfile.TemporaryDirectory(prefix="oh-bench-") as folder,
        tempfile.TemporaryDirectory(prefix="oh-bench-") as cache,
    ):
        # As after an installation by pip, which compiles, and a clone, which does not: here nothing is compiled.
        uncompiled = _start(folder, PYTHONPYCACHEPREFIX=cache)
    load = statistics.median(loads)
    rows = (
        ("first start", statistics.median(firsts), ""),
        ("second start", statistics.median(seconds), "<= 3 s"),
        ("first start, no module compiled", uncompiled, "<= 10 s"),
    )
    return [
        report.figure("first_minute", what, value, load, unit="s", reach=reach)
        for what, value, reach in rows
    ]


def server_environment(**extra: str) -> dict[str, str]:
    """Return the environment without the settings of the other benchmarks, and with compiled modules."""
    names = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
    return {name: os.environ[name] for name in names if name in os.environ} | extra


def _load() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", LOAD], cwd=ROOT, check=True)
    return time.perf_counter() - began


def _start(folder: str, **extra: str) -> float:
    """Start a quickstart, stop it when it is ready, and return the seconds until then, as its user sees them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, str(ROOT / "manage.py"), "quickstart", "--no-engine"]
    command += ["--data-dir", folder, "--port", str(port)]
    began = time.perf_counter()
    with subprocess.Popen(
        command, env=server_environment(**extra), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("Ready "):
                    return time.perf_counter() - began
            raise RuntimeError(f"quickstart exited with {process.wait()} before it was ready")
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
