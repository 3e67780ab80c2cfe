"""The agent engine of the tests: the real one where a test asks for it, else a program that starts and ends like it."""

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
    """An ``ENGINE_DIR`` whose engine answers ``/ready`` and does what files in the project say.

    ``stubborn`` (ignores SIGTERM), ``daemon`` (leaves two daemons), ``die`` (ends with status 3 after these
    words), ``busy`` (never ready).
    """
    program = folder / "engine.py"
    (folder / "bin").mkdir(parents=True)
    program.write_text(PROGRAM)
    python = folder / "bin" / "python"
    # Named once more on the command line, as the real one is: that is part of its identity.
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{program}" "$@"\n')
    python.chmod(0o755)
    return folder


def require_engine() -> None:
    """Skip the test where the real engine is not installed; fail it where everything is required."""
    found = engine_home.status()
    if not found.is_ready:
        if os.environ.get("REQUIRE_ALL") == "1":
            pytest.fail(found.detail)
        pytest.skip(f"needs the real engine: {found.detail}")
