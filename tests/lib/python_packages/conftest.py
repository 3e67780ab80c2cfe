"""Parts that the tests of installations share: tiny wheels, a package index, the real uv and the real pip."""

import functools
import hashlib
import http.server
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from lib.python_packages import index, uv_program


@pytest.fixture(scope="session")
def uv():
    """Return the real, pinned uv: the one of this environment, or fetched."""
    if found := uv_program.find_uv(Path(sys.prefix, "bin")):
        yield found
        return
    try:
        with uv_program.unpacked_uv() as program:
            yield program
    except (uv_program.NoUv, index.WrongHash) as error:
        pytest.skip(str(error))


@pytest.fixture
def tiny(tmp_path):
    """Return a folder with the wheel of the package ``tiny`` 1.0, and a requirements file with its hash."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    wheel = folder / "tiny-1.0-py3-none-any.whl"
    info = "tiny-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny.py", "")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(
            f"{info}/RECORD", f"tiny.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"
        )
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"tiny==1.0 \\\n    --hash=sha256:{digest}\n")
    return folder, lock


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        self.server.paths.append((self.path, dict(self.headers)))


@pytest.fixture
def serve():
    """Return a function that serves a folder, optionally with TLS, and returns the server with its ``url``."""
    servers = []

    def start(folder: Path, tls=None):
        handler = functools.partial(Handler, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.paths = []
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        server.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
