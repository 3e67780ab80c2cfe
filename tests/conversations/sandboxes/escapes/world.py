"""A machine of its own for one run: namespaces with services, addresses and a small internet, and a server's user.

Start it with ``run_world``, as root. It ends with all its processes.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

BASE = Path(__file__).resolve().parents[4]
ORDINARY_UID, GIT_UID = 12_345, 12_346
PUBLIC, PRIVATE, METADATA = "8.7.6.5", "10.99.0.1", "169.254.169.254"
"""Addresses of the machine itself."""
INTERNET = ("8.7.7.1", "8.7.7.2", "8.7.7.3")
"""Addresses of other machines, in a network namespace behind a virtual cable."""
INTERNET_SIX = "2606:4700:aaaa::1"
HOST_PORT, UDP_PORT, GATEWAY_PORT = 7_001, 7_053, 8_000
NAMES = {"private.test": PRIVATE, "metadata.test": METADATA}
ABSTRACT = "openhands-escape"


def run_world(module: str, *arguments: str, uid: int = 0, timeout: float = 1800) -> dict[str, Any]:
    """Run a module as the server of a new world, under a user id. Return the JSON that it wrote."""
    with tempfile.TemporaryDirectory(prefix="escape-", dir="/var/lib") as folder:
        Path(folder).chmod(0o755)
        command = ["unshare", "--net", "--mount", "--pid", "--ipc", "--fork", "--mount-proc"]
        command += ["--kill-child", "--propagation", "private", sys.executable, "-m", __spec__.name]
        subprocess.run(
            [*command, folder, str(uid), module, *arguments], cwd=BASE, check=True, timeout=timeout
        )
        result: dict[str, Any] = json.loads(Path(folder, "result.json").read_text())
        return result


def main(folder: str, uid: str, module: str, *arguments: str) -> int:
    """Be process 1 of the world: collect orphans while the world's program runs."""
    pid = os.fork()
    if pid == 0:
        os._exit(build(Path(folder), int(uid), module, arguments))
    while True:
        ended, status = os.wait()
        if ended == pid:
            return os.waitstatus_to_exitcode(status)


def build(folder: Path, uid: int, module: str, arguments: tuple[str, ...]) -> int:
    """Build the machine and run the server's module in it. Return its exit status."""
    secrets = {
        name: make_secret(name)
        for name in ("host_service", "metadata", "udp", "abstract", "internet")
    }
    for command in (
        "link set lo up",
        *(f"addr add {a}/32 dev lo" for a in (PUBLIC, PRIVATE, METADATA)),
    ):
        ip(*command.split())
    users = folder / "passwd"
    users.write_text(
        Path("/etc/passwd").read_text()
        + f"ordinary:x:{ORDINARY_UID}:{ORDINARY_UID}::{folder}/server:/bin/sh\n"
        + f"git:x:{GIT_UID}:{GIT_UID}::{folder}/git:/bin/sh\n"
    )
    users.chmod(0o644)
    mount("--bind", str(users), "/etc/passwd")
    with start_internet(folder):
        hosts = folder / "hosts"
        names = {"localhost": "127.0.0.1", **NAMES, **internet_names()}
        hosts.write_text(
            "".join(f"{address} {name}\n" for name, address in names.items())
            + f"{INTERNET_SIX} six.test\n"
        )
        hosts.chmod(0o644)
        mount("--bind", str(hosts), "/etc/hosts")
        os.chown(hosts, uid, uid)
        if uid:
            hide_root_home()
        for address in ("127.0.0.1", PUBLIC, PRIVATE):
            serve_http(address, HOST_PORT, secrets["host_service"])
        serve_http("::1", HOST_PORT, secrets["host_service"])
        serve_http(METADATA, 80, secrets["metadata"])
        serve_http("127.0.0.1", GATEWAY_PORT, "the gateway")
        serve_udp(secrets["udp"])
        serve_abstract(secrets["abstract"])
        (folder / "server").mkdir()
        os.chown(folder / "server", uid, uid)
        result = subprocess.run(
            [sys.executable, "-m", module, str(folder / "server"), *arguments],
            cwd=BASE,
            input=json.dumps(secrets),
            text=True,
            user=uid,
            group=uid,
            extra_groups=[],
            env={**os.environ, "HOME": str(folder / "server"), "PYTHONDONTWRITEBYTECODE": "1"},
            check=False,
        )
        with contextlib.suppress(FileNotFoundError):
            (folder / "server" / "result.json").rename(folder / "result.json")
    return result.returncode


def make_secret(name: str) -> str:
    return f"escape-secret-{name}-{os.urandom(6).hex()}"


def internet_names() -> dict[str, str]:
    """Return the names of the small internet's hosts."""
    return {
        **dict.fromkeys(
            ("allowed.test", "git.test", "pip.test", "npm.test", "crates.test", "maven.test"),
            INTERNET[0],
        ),
        "refused.test": INTERNET[1],
        "changing.test": INTERNET[2],
    }


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def hide_root_home() -> None:
    """Cover /root by an empty folder with only the programs that the server needs, so that its user can read them."""
    kept = [".pyenv", ".cache/openhands-site", ".rustup", ".cargo", ".m2"]
    sources = {
        name: os.open(f"/root/{name}", os.O_PATH) for name in kept if Path("/root", name).exists()
    }
    mount("-t", "tmpfs", "-o", "mode=755", "none", "/root")
    for name, descriptor in sources.items():
        Path("/root", name).mkdir(parents=True)
        # Without -c the program would mount the path that is covered now. It runs in a child with other descriptors.
        mount("-c", "--bind", f"/proc/{os.getpid()}/fd/{descriptor}", f"/root/{name}")
        os.close(descriptor)


@contextlib.contextmanager
def start_internet(folder: Path) -> Iterator[None]:
    """Start the small internet: a network namespace with public addresses, reached by a virtual cable."""
    module = f"{__spec__.parent}.internet"
    process = subprocess.Popen(
        ["unshare", "--net", sys.executable, "-m", module, str(folder)],
        cwd=BASE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    time.sleep(1)
    ip("link", "add", "cable", "type", "veth", "peer", "name", "cable2", "netns", str(process.pid))
    ip("addr", "add", "8.7.0.1/24", "dev", "cable")
    ip("-6", "addr", "add", "2606:4700:bbbb::1/64", "dev", "cable", "nodad")
    ip("link", "set", "cable", "up")
    ip("route", "add", "default", "via", "8.7.0.2")
    ip("-6", "route", "add", "2606:4700:aaaa::/64", "via", "2606:4700:bbbb::2")
    assert process.stdin
    assert process.stdout
    process.stdin.write(b"go\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"ready\n", "the small internet does not start"
    try:
        yield
    finally:
        process.kill()


# --- Services ---------------------------------------------------------------------------


def run_thread(function: Callable[[], None]) -> None:
    threading.Thread(target=function, daemon=True).start()


def serve_http(address: str, port: int, text: str) -> None:
    """Serve a text for every GET request, in threads."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        request_queue_size = 128

    run_thread(Server((address, port), Handler).serve_forever)


def serve_udp(text: str) -> None:
    link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    link.bind(("127.0.0.1", UDP_PORT))

    def answer() -> None:
        while True:
            link.sendto(text.encode(), link.recvfrom(100)[1])

    run_thread(answer)


def serve_abstract(text: str) -> None:
    serve_stream(f"\0{ABSTRACT}", text.encode())


def serve_stream(path: str, answer: bytes) -> None:
    """Send an answer to every client of a Unix socket."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def serve() -> None:
        while True:
            link, _ = listener.accept()
            with link, contextlib.suppress(OSError):
                link.sendall(answer)

    run_thread(serve)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
