# ruff: noqa: PTH208
"""The list of all attempts, and the means that they share.

An attempt is a function that gets the hints, a dictionary with all that an attacker could know. It returns a text that
proves its success, for example the content of a secret file, and raises any exception if it was refused.
"""

import ctypes
import os
import platform
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

Hints = dict[str, Any]
MARK = "escape-secret-"
"""The beginning of every secret, by which an attempt finds one."""


class Refused(Exception):
    """The attempt had no effect."""


@dataclass(frozen=True)
class Attempt:
    """A row of the table.

    ``proof`` is the name of the secret that the output must contain. ``check`` is the name of a check that the server
    makes afterwards. Without both, the function itself has verified the effect.
    """

    name: str
    title: str
    group: str
    function: Callable[[Hints], str]
    proof: str = ""
    check: str = ""
    needs_root: bool = False
    """An ordinary user cannot do this in a plain process either."""


ATTEMPTS: dict[str, Attempt] = {}


def attempt(
    group: str, title: str, *, proof: str = "", check: str = "", needs_root: bool = False
) -> Callable[[Callable[[Hints], str]], Callable[[Hints], str]]:
    """Register a function as an attempt."""

    def register(function: Callable[[Hints], str]) -> Callable[[Hints], str]:
        name = function.__name__
        ATTEMPTS[name] = Attempt(name, title, group, function, proof, check, needs_root)
        return function

    return register


# --- System calls -----------------------------------------------------------------

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
NUMBERS = {
    "mount": (165, 40),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "setns": (308, 268),
    "unshare": (272, 97),
    "clone": (56, 220),
    "clone3": (435, 435),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "process_vm_readv": (310, 270),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "syslog": (103, 116),
    "memfd_create": (319, 279),
    "kcmp": (312, 272),
}


def call(name: str, *arguments: Any) -> int:
    """Make a system call. Raise ``OSError`` if it fails."""
    number = NUMBERS[name][platform.machine() == "aarch64"]
    values = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *values))
    if result < 0:
        check_errno(name)
    return result


def check_errno(name: str) -> None:
    """Raise the ``OSError`` of the last call."""
    code = ctypes.get_errno()
    raise OSError(code, f"{name}: {os.strerror(code)}")


# --- Requests ---------------------------------------------------------------------


def fetch_directly(host: str, port: int, path: str = "/") -> str:
    """Send a GET request over a connection of this process's own, without a proxy. Return the response."""
    with socket.create_connection((host, port), 5) as link:
        link.sendall(f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        return read_all(link)


def fetch(url: str, *, tunnel: bool = False) -> str:
    """Send a GET request as programs do: through the proxy of the environment, if there is one.

    With ``tunnel``, ask the proxy for a connection by CONNECT.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    proxy = os.environ.get("http_proxy")
    if not proxy:
        return fetch_directly(host, port, parts.path or "/")
    at = urlsplit(proxy)
    with socket.create_connection((at.hostname or "", at.port or 0), 15) as link:
        if tunnel:
            authority = parts.netloc if parts.port else f"{parts.netloc}:{port}"
            link.sendall(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
            head = link.recv(4096).decode(errors="replace")
            if " 200 " not in head.split("\r\n")[0] + " ":
                raise Refused(head.split("\r\n")[0] + " " + head.strip().split("\n")[-1])
            link.sendall(f"GET {parts.path or '/'} HTTP/1.0\r\n\r\n".encode())
        else:
            request = f"GET {url} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
            link.sendall(request.encode())
        return read_all(link)


def fetch_by_socks(host: str, port: int) -> str:
    """Send a GET request through the proxy by SOCKS5 if there is a proxy, otherwise directly."""
    proxy = os.environ.get("http_proxy")
    if not proxy:
        return fetch_directly(host, port)
    at = urlsplit(proxy)
    with socket.create_connection((at.hostname or "", at.port or 0), 15) as link:
        link.sendall(b"\x05\x01\x00")
        link.recv(2)
        name = host.encode()
        link.sendall(b"\x05\x01\x00\x03" + bytes([len(name)]) + name + port.to_bytes(2, "big"))
        answer = link.recv(10)
        if len(answer) < 2 or answer[1]:
            raise Refused(f"SOCKS answer {answer[:2].hex()}")
        link.sendall(f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        return read_all(link)


def read_all(link: socket.socket) -> str:
    data = b""
    while len(data) < 100_000 and (part := link.recv(4096)):
        data += part
    return data.decode(errors="replace")


def find_secret(data: bytes, where: str) -> str:
    """Return the first secret in some bytes. Raise ``Refused`` if there is none."""
    position = data.find(MARK.encode())
    if position < 0:
        raise Refused(f"{where} contains no secret")
    return data[position : position + 80].split(b"\0")[0].decode(errors="replace")


def list_pids() -> list[int]:
    """Return the ids of all processes that this process can see, without its own."""
    return [
        int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()
    ]
