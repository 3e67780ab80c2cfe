# ruff: noqa: PTH115
"""Attempts to connect to services that do not belong to the sandbox."""

import os
import socket
import struct
import subprocess
from pathlib import Path

from attempts.catalog import (
    Hints,
    Refused,
    attempt,
    fetch,
    fetch_by_socks,
    fetch_directly,
    read_all,
)

SERVICES = "Connect to the server's own services"
ADDRESSES = "Connect to addresses of the machine and its network"
SOCKETS = "Use other kinds of sockets"


def _query_database(host: str) -> str:
    command = ["psql", "-X", "-A", "-t", "-h", host, "-U", "postgres", "-d", "postgres"]
    result = subprocess.run(
        [*command, "-c", "SELECT text FROM escape_secret"],
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )
    if result.returncode:
        raise Refused(result.stderr.strip())
    return result.stdout


@attempt(SERVICES, "PostgreSQL by its Unix socket", proof="database")
def query_by_unix(hints: Hints) -> str:
    return _query_database(hints["sockets_dir"])


@attempt(SERVICES, "PostgreSQL by TCP on the loopback interface", proof="database")
def query_by_tcp(hints: Hints) -> str:
    return _query_database("127.0.0.1")


def _ask_redis(link: socket.socket) -> str:
    with link:
        link.settimeout(5)
        link.sendall(b"GET escape-secret\r\nQUIT\r\n")
        return read_all(link)


@attempt(SERVICES, "Redis by its Unix socket", proof="redis")
def ask_redis_by_unix(hints: Hints) -> str:
    link = socket.socket(socket.AF_UNIX)
    link.connect(hints["sockets_dir"] + "/redis.sock")
    return _ask_redis(link)


@attempt(SERVICES, "Redis by TCP on the loopback interface", proof="redis")
def ask_redis_by_tcp(hints: Hints) -> str:
    return _ask_redis(socket.create_connection(("127.0.0.1", hints["redis_port"]), 5))


@attempt(SERVICES, "an abstract Unix socket of the machine", proof="abstract")
def connect_abstract(hints: Hints) -> str:
    with socket.socket(socket.AF_UNIX) as link:
        link.connect("\0" + hints["abstract"])
        return read_all(link)


@attempt(SERVICES, "`in.sock`, the keeper's socket of this sandbox", check="")
def connect_in_sock(hints: Hints) -> str:
    error: OSError | None = None
    for folder in (hints["own_folder"], "..", "/workspace"):
        try:
            os.chdir(folder)  # the path of a socket may have 107 bytes
            with socket.socket(socket.AF_UNIX) as link:
                link.connect("in.sock")
                link.sendall(b"31900\n")
                return f"answer {link.recv(16)!r}"
        except OSError as raised:
            error = error or raised
    raise error or Refused()


@attempt("Reach another sandbox", "connect to its web server's port", proof="other_port")
def connect_other_port(hints: Hints) -> str:
    return fetch_directly("127.0.0.1", hints["other_port"])


@attempt(
    "Reach another sandbox",
    "connect to its web server's port, through the proxy",
    proof="other_port",
)
def connect_other_port_by_proxy(hints: Hints) -> str:
    return fetch(f"http://127.0.0.1:{hints['other_port']}/")


@attempt(ADDRESSES, "a port of the host's loopback interface, directly", proof="host_service")
def loopback_directly(hints: Hints) -> str:
    return fetch_directly("127.0.0.1", hints["host_port"])


@attempt(ADDRESSES, "the same, through the proxy", proof="host_service")
def loopback_by_proxy(hints: Hints) -> str:
    return fetch(f"http://127.0.0.1:{hints['host_port']}/")


@attempt(ADDRESSES, "the same, through the proxy by a tunnel (CONNECT)", proof="host_service")
def loopback_by_tunnel(hints: Hints) -> str:
    return fetch(f"http://127.0.0.1:{hints['host_port']}/", tunnel=True)


@attempt(ADDRESSES, "the same, through the proxy by SOCKS", proof="host_service")
def loopback_by_socks(hints: Hints) -> str:
    return fetch_by_socks("127.0.0.1", hints["host_port"])


@attempt(ADDRESSES, "the same, as `localhost`, through the proxy", proof="host_service")
def loopback_by_name(hints: Hints) -> str:
    return fetch(f"http://localhost:{hints['host_port']}/", tunnel=True)


@attempt(ADDRESSES, "the same, as `0.0.0.0`, through the proxy", proof="host_service")
def loopback_by_zero(hints: Hints) -> str:
    return fetch(f"http://0.0.0.0:{hints['host_port']}/", tunnel=True)


@attempt(ADDRESSES, "the same, as `127.1`, through the proxy", proof="host_service")
def loopback_short(hints: Hints) -> str:
    return fetch(f"http://127.1:{hints['host_port']}/", tunnel=True)


@attempt(ADDRESSES, "the same, as `[::1]`, through the proxy", proof="host_service")
def loopback_by_six(hints: Hints) -> str:
    return fetch(f"http://[::1]:{hints['host_port']}/", tunnel=True)


@attempt(ADDRESSES, "another port of the gateway's name `openhands.internal`", proof="host_service")
def gateway_other_port(hints: Hints) -> str:
    name = "openhands.internal" if os.environ.get("http_proxy") else "127.0.0.1"
    return fetch(f"http://{name}:{hints['host_port']}/", tunnel=True)


@attempt(ADDRESSES, "the host's public address, directly", proof="host_service")
def public_directly(hints: Hints) -> str:
    return fetch_directly(hints["public"], hints["host_port"])


@attempt(ADDRESSES, "the host's public address, through the proxy", proof="host_service")
def public_by_proxy(hints: Hints) -> str:
    return fetch(f"http://{hints['public']}:{hints['host_port']}/", tunnel=True)


@attempt(ADDRESSES, "a private address, directly", proof="host_service")
def private_directly(hints: Hints) -> str:
    return fetch_directly(hints["private"], hints["host_port"])


@attempt(ADDRESSES, "a private address, through the proxy", proof="host_service")
def private_by_proxy(hints: Hints) -> str:
    return fetch(f"http://{hints['private']}:{hints['host_port']}/", tunnel=True)


@attempt(
    ADDRESSES, "a name that leads to a private address, through the proxy", proof="host_service"
)
def private_by_name(hints: Hints) -> str:
    return fetch(f"http://{hints['private_name']}:{hints['host_port']}/", tunnel=True)


@attempt(ADDRESSES, "the cloud's metadata address 169.254.169.254, directly", proof="metadata")
def metadata_directly(hints: Hints) -> str:
    return fetch_directly("169.254.169.254", 80)


@attempt(ADDRESSES, "the metadata address, through the proxy", proof="metadata")
def metadata_by_proxy(hints: Hints) -> str:
    return fetch("http://169.254.169.254/")


@attempt(ADDRESSES, "the metadata address, through the proxy by a tunnel", proof="metadata")
def metadata_by_tunnel(hints: Hints) -> str:
    return fetch("http://169.254.169.254/", tunnel=True)


@attempt(ADDRESSES, "the metadata address by a name, through the proxy", proof="metadata")
def metadata_by_name(hints: Hints) -> str:
    return fetch(f"http://{hints['metadata_name']}/", tunnel=True)


@attempt(ADDRESSES, "the metadata address as `2852039166`, through the proxy", proof="metadata")
def metadata_decimal(hints: Hints) -> str:
    return fetch("http://2852039166/", tunnel=True)


@attempt(
    ADDRESSES, "the metadata address as `0xa9.0xfe.0xa9.0xfe`, through the proxy", proof="metadata"
)
def metadata_hexadecimal(hints: Hints) -> str:
    return fetch("http://0xa9.0xfe.0xa9.0xfe/", tunnel=True)


@attempt(
    ADDRESSES,
    "the metadata address as `[::ffff:169.254.169.254]`, through the proxy",
    proof="metadata",
)
def metadata_mapped(hints: Hints) -> str:
    return fetch("http://[::ffff:169.254.169.254]/", tunnel=True)


@attempt(
    ADDRESSES,
    "the metadata address as `[::ffff:a9fe:a9fe]`, through the proxy by SOCKS",
    proof="metadata",
)
def metadata_by_socks(hints: Hints) -> str:
    return fetch_by_socks("::ffff:a9fe:a9fe", 80)


@attempt(ADDRESSES, "a name server of the host by UDP, directly", proof="udp")
def ask_udp(hints: Hints) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.settimeout(3)
        link.sendto(b"?", ("127.0.0.1", hints["udp_port"]))
        return link.recv(500).decode()


@attempt(ADDRESSES, "any public address, directly (no route)", proof="internet")
def internet_directly(hints: Hints) -> str:
    return fetch_directly(hints["internet"], 80)


# --- Kinds of sockets ----------------------------------------------------------------


@attempt(SOCKETS, "AF_VSOCK, which reaches the virtual machine's host", check="")
def open_vsock(hints: Hints) -> str:
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as link:
        return f"socket {link.fileno()}"


@attempt(SOCKETS, "a raw socket", needs_root=True)
def open_raw(hints: Hints) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as link:
        return f"socket {link.fileno()}"


@attempt(SOCKETS, "a packet socket", needs_root=True)
def open_packet(hints: Hints) -> str:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3) as link:
        return f"socket {link.fileno()}"


@attempt(SOCKETS, "AF_ALG, the kernel's cryptography", check="")
def open_alg(hints: Hints) -> str:
    with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as link:
        link.bind(("hash", "sha256"))
        return f"socket {link.fileno()}"


@attempt(SOCKETS, "netfilter by netlink", check="")
def open_netfilter(hints: Hints) -> str:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as link:
        return f"socket {link.fileno()}"


@attempt(SOCKETS, "add an address to an interface by netlink", needs_root=True)
def add_address(hints: Hints) -> str:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        link.bind((0, 0))
        address = socket.inet_aton("10.77.0.1")
        attributes = struct.pack("HH4s", 8, 2, address) + struct.pack("HH4s", 8, 1, address)
        body = (
            struct.pack("BBBBi", socket.AF_INET, 32, 0, 0, socket.if_nametoindex("lo")) + attributes
        )
        link.sendall(struct.pack("IHHII", 16 + len(body), 20, 0x605, 1, 0) + body)
        answer = link.recv(4096)
        code = struct.unpack("i", answer[16:20])[0]
        if code:
            raise OSError(-code, os.strerror(-code))
        # Remove it, so that the next run can add it.
        link.sendall(struct.pack("IHHII", 16 + len(body), 21, 5, 2, 0) + body)
        return "added"


@attempt(SOCKETS, "listen on the machine's port 80", needs_root=True)
def listen_privileged(hints: Hints) -> str:
    # Only a listener in the network namespace of the host counts.
    with socket.create_server(("127.0.0.1", 80)):
        if os.readlink("/proc/self/ns/net") != hints["net_namespace"]:
            raise Refused("this is another network namespace")
        return Path("/proc/self/ns/net").readlink().name
