"""A fake engine that starts, ends and runs commands like the real engine, and a check for the real engine."""

import os
import sys
from pathlib import Path

import pytest

from lib import engine_state

PROGRAM = """
import http.server, json, os, signal, subprocess, sys, time
from openhands.agent_server.config import load_config

project, arguments = os.environ["OH_WORKSPACE_PATH"], sys.argv
def read(name):
    try:
        with open(os.path.join(project, name)) as file:
            return file.read()
    except FileNotFoundError:
        return ""
def option(name):
    return arguments[arguments.index(name) + 1] if name in arguments else ""
if folder := option("--extra-python-path"):
    sys.path.insert(0, folder)
for module in filter(None, option("--import-modules").split(",")):
    __import__(module)
config = load_config()
session_key, secret_key = config.session_api_keys[0], config.secret_key
if read("stubborn"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if read("daemon"):
    code = "import time; open('%s/daemon%d', 'w').write('yes'); time.sleep(600)"
    for number in (1, 2):
        middle = "import subprocess,sys;subprocess.Popen([sys.executable,'-c',%r],start_new_session=True)"
        subprocess.run([sys.executable, "-c", middle % (code % (project, number))])
if words := read("die"):
    print(json.dumps({"levelname": "ERROR", "message": words}), flush=True)
    print("bye", flush=True)
    sys.exit(3)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/ready":
            return self.answer(503 if read("busy") else 200, {})
        if self.headers["X-Session-API-Key"] != session_key:
            return self.answer(401, {})
        self.answer(200, {"environment": dict(os.environ), "length_of_secret_key": len(secret_key)})
    def do_POST(self):
        if self.headers["X-Session-API-Key"] != session_key:
            return self.answer(401, {})
        command = self.rfile.read(int(self.headers["Content-Length"])).decode()
        done = subprocess.run(["/bin/sh", "-c", command], cwd=project, capture_output=True, text=True)
        self.answer(200, {"status": done.returncode, "output": done.stdout, "errors": done.stderr})
    def answer(self, status, value):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())
    def log_message(self, *args):
        pass

class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

Server(("127.0.0.1", int(option("--port"))), Handler).serve_forever()
"""
CONFIG = """
import json, os, types

def load_config():
    if path := os.environ.get("OPENHANDS_AGENT_SERVER_CONFIG_PATH"):
        with open(path) as file:
            return types.SimpleNamespace(**json.load(file))
    keys = [os.environ["OH_SESSION_API_KEYS_0"]]
    return types.SimpleNamespace(session_api_keys=keys, secret_key=os.environ["OH_SECRET_KEY"])
"""
"""The module ``config``, which the files of ``bubblewrap/inside`` import."""


def fake_engine(folder: Path) -> Path:
    """Create an ``ENGINE_DIR`` in ``folder`` with a fake engine; return ``folder``.

    It is a virtual environment like that of the real engine, so every provider can run it. It serves ``GET /ready``,
    and with the session key ``GET /`` (its environment) and ``POST /`` (run the body as a shell command).

    Files in the project change its behaviour: ``stubborn`` (ignores SIGTERM), ``daemon`` (leaves two daemons, which
    write the files ``daemon1`` and ``daemon2``), ``die`` (logs the file's text and exits with status 3), ``busy``
    (never becomes ready).
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / f"python{version}" / "site-packages"
    module = packages / "openhands" / "agent_server"
    module.mkdir(parents=True)
    (module / "__main__.py").write_text(PROGRAM)
    (module / "config.py").write_text(CONFIG)
    required = engine_state.required_versions()[engine_state.PACKAGE]
    (packages / f"openhands_agent_server-{required}.dist-info").mkdir()
    (folder / "bin").mkdir()
    home = Path(sys.base_prefix) / "bin"
    (folder / "pyvenv.cfg").write_text(f"home = {home}\ninclude-system-site-packages = false\n")
    (folder / "bin" / "python").symlink_to(home / f"python{version}")
    script = folder / "bin" / "agent-server"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    return folder


def require_engine() -> None:
    """Skip the test if the real engine is not installed. Fail it instead if ``REQUIRE_ALL=1`` is set."""
    installation = engine_state.status()
    if not installation.is_ready:
        if os.environ.get("REQUIRE_ALL") == "1":
            pytest.fail(installation.detail)
        pytest.skip(f"needs the real engine: {installation.detail}")
