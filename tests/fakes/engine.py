"""A fake engine program that starts and ends like the real engine, and a check for the real engine."""

import os
import sys
from pathlib import Path

import pytest

from lib import engine_home

PROGRAM = """
import json, os, signal, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer

here = os.getcwd()
def read(name):
    try:
        return open(os.path.join(here, "project", name)).read()
    except FileNotFoundError:
        return ""
with open(os.path.join(here, "environment.json"), "w") as file:
    json.dump(dict(os.environ), file)
if read("stubborn"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if read("daemon"):
    code = "import os,time; open('project/daemon.pid','w').write(str(os.getpid())); time.sleep(600)"
    for number in (1, 2):
        middle = "import subprocess,sys;subprocess.Popen([sys.executable,'-c',%r],start_new_session=True)"
        subprocess.run([sys.executable, "-c", middle % code.replace("daemon.pid", "daemon%d.pid" % number)])
if words := read("die"):
    print(json.dumps({"levelname": "ERROR", "message": words}), flush=True)
    print("bye", flush=True)
    sys.exit(3)

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if read("busy") else 200)
        self.end_headers()
    def log_message(self, *args):
        pass

HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


def fake_engine(folder: Path) -> Path:
    """Create an ``ENGINE_DIR`` in ``folder`` with a fake engine that serves ``/ready``; return ``folder``.

    Files in the project change its behaviour: ``stubborn`` (ignores SIGTERM), ``daemon`` (leaves two daemons),
    ``die`` (logs the file's text and exits with status 3), ``busy`` (never becomes ready).
    """
    program = folder / "engine.py"
    (folder / "bin").mkdir(parents=True)
    program.write_text(PROGRAM)
    python = folder / "bin" / "python"
    # Like for the real engine, its path is on the command line, by which the provider recognizes the process.
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{program}" "$@"\n')
    python.chmod(0o755)
    return folder


def require_engine() -> None:
    """Skip the test if the real engine is not installed. Fail it instead if ``REQUIRE_ALL=1`` is set."""
    installation = engine_home.status()
    if not installation.is_ready:
        if os.environ.get("REQUIRE_ALL") == "1":
            pytest.fail(installation.detail)
        pytest.skip(f"needs the real engine: {installation.detail}")
