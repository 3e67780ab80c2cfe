# ruff: noqa: PTH123
"""The small internet of a world: hosts with public addresses in a network namespace of their own.

All hosts have the same files: a Git repository, package indexes for pip, npm, cargo and Maven, and redirects. They
speak HTTP and HTTPS under an authority of their own, and ssh if dropbear is installed (``DROPBEAR`` may name it).
"""

import base64
import hashlib
import io
import json
import os
import pwd
import shutil
import socket
import ssl
import subprocess
import sys
import tarfile
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.conversations.sandboxes.escapes import world

SECRET = "escape-secret-internet"
"""The text of every host. It is known to all, because it only shows that a connection was made."""


def main(folder: str) -> None:
    sys.stdin.readline()  # the cable is connected
    for command in (
        "link set lo up",
        "addr add 8.7.0.2/24 dev cable2",
        "link set cable2 up",
        *(f"addr add {address}/32 dev lo" for address in world.INTERNET),
    ):
        world.ip(*command.split())
    world.ip("-6", "addr", "add", "2606:4700:bbbb::2/64", "dev", "cable2", "nodad")
    world.ip("-6", "addr", "add", f"{world.INTERNET_SIX}/128", "dev", "lo", "nodad")
    files = Path(folder, "files")
    make_files(files)
    context = make_authority(Path(folder))
    for address in (*world.INTERNET, world.INTERNET_SIX):
        serve(address, 80, files, None)
        serve(address, 443, files, context)
    start_ssh(Path(folder))
    print("ready", flush=True)
    threading.Event().wait()


class Handler(SimpleHTTPRequestHandler):
    """The files of a host, and redirects at ``/to/HOST``."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", f"http://{self.path[4:]}/")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


def serve(address: str, port: int, files: Path, context: ssl.SSLContext | None) -> None:
    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in address else socket.AF_INET

    server = Server((address, port), partial(Handler, directory=str(files)))
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    world.run_thread(server.serve_forever)


def make_authority(folder: Path) -> ssl.SSLContext:
    """Make a certificate authority (``public/ca.pem``) and a certificate for all names ending in ``.test``."""
    public = folder / "public"
    public.mkdir()
    names = ",".join(f"DNS:{name}" for name in (*world.internet_names(), "six.test"))
    (folder / "ext").write_text(f"subjectAltName={names}\n")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out public/ca.pem -days 2 -subj /CN=Escape",
        "req -newkey rsa:2048 -nodes -keyout host.key -out host.csr -subj /CN=allowed.test",
        "x509 -req -in host.csr -CA public/ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out host.pem",
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    (public / "ca.pem").chmod(0o644)
    if shutil.which("keytool"):
        command = "keytool -importcert -noprompt -alias escape -file ca.pem -keystore trust.p12 -storepass escape"
        subprocess.run(command.split(), cwd=public, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "host.pem", folder / "host.key")
    return context


# --- Packages ---------------------------------------------------------------------------


def make_files(files: Path) -> None:
    files.mkdir()
    write(files / "index.html", SECRET.encode())
    git(files)
    write(
        files / "simple/hello-escape/index.html",
        b'<a href="/hello_escape-1.0-py3-none-any.whl">hello_escape-1.0-py3-none-any.whl</a>',
    )
    write(files / "hello_escape-1.0-py3-none-any.whl", make_wheel())
    package = json.dumps({"name": "hello-escape", "version": "1.0.0", "main": "index.js"}).encode()
    archive = make_tar(
        {"package/package.json": package, "package/index.js": b"module.exports = 1\n"}
    )
    write(files / "hello-escape-1.0.0.tgz", archive)
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(archive).digest()).decode()
    dist = {"tarball": "https://npm.test/hello-escape-1.0.0.tgz", "integrity": integrity}
    version = {"name": "hello-escape", "version": "1.0.0", "dist": dist}
    write(
        files / "hello-escape",
        json.dumps(
            {
                "name": "hello-escape",
                "dist-tags": {"latest": "1.0.0"},
                "versions": {"1.0.0": version},
            }
        ).encode(),
    )
    manifest = b'[package]\nname = "hello-crate"\nversion = "1.0.0"\nedition = "2021"\n'
    crate = make_tar(
        {
            "hello-crate-1.0.0/Cargo.toml": manifest,
            "hello-crate-1.0.0/src/lib.rs": b"pub fn one() -> u8 { 1 }\n",
        }
    )
    write(files / "dl/hello-crate/1.0.0/download", crate)
    write(
        files / "index/config.json",
        json.dumps({"dl": "https://crates.test/dl/{crate}/{version}/download"}).encode(),
    )
    line = {
        "name": "hello-crate",
        "vers": "1.0.0",
        "deps": [],
        "cksum": hashlib.sha256(crate).hexdigest(),
        "features": {},
        "yanked": False,
    }
    write(files / "index/he/ll/hello-crate", json.dumps(line).encode() + b"\n")
    pom = b"<project><modelVersion>4.0.0</modelVersion><groupId>test</groupId><artifactId>hello-parent</artifactId><version>1.0</version><packaging>pom</packaging></project>"
    base = files / "maven2/test/hello-parent/1.0/hello-parent-1.0.pom"
    write(base, pom)
    write(base.with_name(base.name + ".sha1"), hashlib.sha1(pom).hexdigest().encode())


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def git(files: Path) -> None:
    source = files / "source"
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q", str(source)], check=True, env=environment)
    write(source / "README", SECRET.encode())
    for command in (["add", "."], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=source, check=True, env=environment)
    subprocess.run(
        ["git", "clone", "-q", "--bare", str(source), str(files / "repo.git")],
        check=True,
        env=environment,
    )
    subprocess.run(
        ["git", "update-server-info"], cwd=files / "repo.git", check=True, env=environment
    )


def make_tar(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    return data.getvalue()


def make_wheel() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as wheel:
        info = "hello_escape-1.0.dist-info"
        wheel.writestr("hello_escape.py", "one = 1\n")
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: hello-escape\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr(
            f"{info}/RECORD",
            f"hello_escape.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n",
        )
    return data.getvalue()


def start_ssh(folder: Path) -> None:
    """Start dropbear for the user ``git`` of the world, whose key is ``public/id``."""
    program = os.environ.get("DROPBEAR") or shutil.which("dropbear")
    if not program:
        return
    user = pwd.getpwnam("git")
    home = Path(user.pw_dir)
    (home / ".ssh").mkdir(parents=True)
    shutil.copytree(folder / "files/repo.git", home / "repo.git")
    key = folder / "public" / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    key.chmod(0o644)
    shutil.copy(f"{key}.pub", home / ".ssh/authorized_keys")
    (home / ".ssh").chmod(0o700)
    for path in (home, *home.rglob("*")):
        os.chown(path, user.pw_uid, user.pw_gid)
    libraries = Path(program).parents[1] / "lib/x86_64-linux-gnu"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
    maker = str(Path(program).parents[1] / "bin/dropbearkey")
    host_key = str(folder / "host_key")
    subprocess.run(
        [maker, "-t", "ed25519", "-f", host_key], env=environment, check=True, capture_output=True
    )
    subprocess.Popen(
        [program, "-F", "-E", "-s", "-r", host_key, "-p", f"{world.INTERNET[0]}:22"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=open(folder / "ssh.log", "w"),  # noqa: SIM115 - for the child
        stderr=subprocess.STDOUT,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
