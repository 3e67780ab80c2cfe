"""A Python for the engine, fetched by the real uv from a server on this machine: an archive of a Python that is there."""

import functools
import hashlib
import http.server
import json
import platform
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import threading
from pathlib import Path

import pytest

from lib import engine_home, engine_python, engine_state
from lib.python_packages import uv_program

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="the archive is made for Linux"
    ),
]
LEFT_OUT = {"test", "idlelib", "site-packages", "__pycache__", "config", "share", "include"}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Serve an archive of a Python of this machine, as uv's downloads are; return the URL of the list and the version."""
    python = engine_python.find_python() or Path(sys.executable)
    code = "import sys, platform; print(sys.base_prefix, platform.python_version(), sys.executable)"
    prefix, version, _ = subprocess.run(
        [python, "-I", "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    folder = tmp_path_factory.mktemp("served")
    archive = folder / "python.tar.gz"
    name = f"python{version.rpartition('.')[0]}"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for path in (f"bin/{name}", f"lib/{name}"):
            tar.add(Path(prefix, path), f"python/{path}", filter=leave_out)
        for library in Path(prefix, "lib").glob(f"lib{name}*.so*"):
            tar.add(library, f"python/lib/{library.name}")
    family = platform.machine()
    libc = "gnu" if sysconfig.get_config_var("HOST_GNU_TYPE").endswith("gnu") else "musl"
    major, minor, patch = map(int, version.split("."))
    entry = {
        "name": "cpython",
        "arch": {"family": family, "variant": None},
        "os": "linux",
        "libc": libc,
        "major": major,
        "minor": minor,
        "patch": patch,
        "prerelease": "",
        "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
        "variant": None,
        "build": "20250101",
    }
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    key = f"cpython-{version}-linux-{family}-{libc}"
    (folder / "downloads.json").write_text(
        json.dumps({key: entry | {"url": f"{url}/python.tar.gz"}})
    )
    yield f"{url}/downloads.json", f"{major}.{minor}"
    server.shutdown()
    server.server_close()
    shutil.rmtree(folder)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        """Write no log."""


def leave_out(member):
    parts = Path(member.name).parts
    is_large = member.name.endswith(".a") or any(part.startswith("config-") for part in parts)
    return None if is_large or LEFT_OUT & set(parts) else member


@pytest.fixture
def machine(settings, tmp_path, monkeypatch, uv):
    """Show no Python that is new enough for the engine, as on Debian 12, and let the engine be in a temporary folder."""
    settings.ENGINE_PYTHON = ""
    settings.ENGINE_DIR = tmp_path / "data" / "engine"
    settings.ENGINE_DIR.parent.mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PYENV_ROOT", raising=False)
    return settings.ENGINE_DIR


def test_python_is_fetched_into_the_data_folder_and_found_again(machine, served, monkeypatch, uv):
    url, version = served
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS_JSON_URL", url)
    monkeypatch.setattr(engine_python, "FETCHED_PYTHON", version)
    monkeypatch.setattr(engine_python, "OLDEST_PYTHON", tuple(map(int, version.split("."))))
    assert engine_python.find_python(uv) is None

    python = engine_python.fetch_python(uv, report=lambda megabytes, seconds: None)

    assert python.is_relative_to(machine.parent / "engine-python")
    assert engine_python.find_python(uv) == python
    subprocess.run(uv_program.venv_command(uv, python, machine), check=True)
    code = "import ssl, sqlite3, sys; print(sys.prefix)"
    ran = subprocess.run(
        [machine / "bin" / "python", "-I", "-c", code], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == str(machine)


def test_installation_without_network_says_what_to_do_in_one_sentence(machine, monkeypatch, uv):
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS_JSON_URL", "http://127.0.0.1:1/downloads.json")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")

    with pytest.raises(engine_python.NoPython) as error:
        engine_home.install()

    sentence = str(error.value)
    assert sentence.startswith(
        "The agent engine needs Python 3.12 or newer, which is not on this machine and was not fetched ("
    )
    assert sentence.endswith("until then it works, but agents cannot start.")
    assert engine_state.status().state == "failed"
