"""A machine with a network of its own, and a sandbox on it whose network opens and closes.

``unshare --net --mount python -m tests.conversations.sandboxes.bubblewrap.pasta_host FOLDER`` prints one JSON object
with what the sandbox reached. It needs root, or ``unshare`` with ``--user --map-root-user`` too. Nothing leaves the
network namespaces that the program makes.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil

from conversations.sandboxes.bubblewrap import support, system_files
from conversations.sandboxes.bubblewrap.keeper import Keeper, Request
from conversations.sandboxes.bubblewrap.limits import Limits
from conversations.sandboxes.bubblewrap.mounts import Plan
from conversations.sandboxes.egress.log import DecisionLog
from conversations.sandboxes.egress.policy import Policy, PolicyFile, Profile, write_policy

MODULE = "tests.conversations.sandboxes.bubblewrap.pasta_host"
PORT, LOCAL_PORT = 7000, 7001
PUBLIC, PRIVATE, METADATA, HOST = "198.51.100.7", "10.77.0.1", "169.254.169.254", "10.77.0.2"
PUBLIC_6, PRIVATE_6 = "2001:db8::7", "fd77::1"
PROBE = f"""
import json, socket, sys

def tcp(address, port={PORT}):
    with socket.create_connection((address, port), timeout=2) as link:
        link.sendall(b"ping")
        return link.recv(4) == b"ping"

def udp(address, family=socket.AF_INET):
    with socket.socket(family, socket.SOCK_DGRAM) as link:
        link.settimeout(2)
        link.sendto(b"ping", (address, {PORT}))
        return link.recv(4) == b"ping"

def echo(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as link:
        link.settimeout(2)
        link.sendto(bytes([8, 0, 0, 0, 0, 0, 0, 1]) + b"ping", (address, 0))
        return link.recv(64)[0] == 0

PROBES = {{
    "tcp": lambda: tcp("{PUBLIC}"),
    "tcp6": lambda: tcp("{PUBLIC_6}"),
    "udp": lambda: udp("{PUBLIC}"),
    "udp6": lambda: udp("{PUBLIC_6}", socket.AF_INET6),
    "ping": lambda: echo("{PUBLIC}"),
    "name": lambda: socket.gethostbyname("service.example") == "{PUBLIC}",
    "private": lambda: tcp("{PRIVATE}"),
    "private6": lambda: tcp("{PRIVATE_6}"),
    "metadata": lambda: tcp("{METADATA}"),
    "loopback": lambda: tcp("127.0.0.1", {LOCAL_PORT}),
    "loopback6": lambda: tcp("::1", {LOCAL_PORT}),
    "host": lambda: tcp("{HOST}", {LOCAL_PORT}),
}}
for line in sys.stdin:
    results = {{}}
    for name in line.split() or PROBES:
        try:
            results[name] = "reached" if PROBES[name]() else "wrong answer"
        except OSError as error:
            results[name] = f"{{type(error).__name__}}: {{error}}"
    print(json.dumps(results), flush=True)
"""


def run(command: str) -> None:
    subprocess.run(command.split(), check=True)


def echo_streams(listener: socket.socket) -> None:
    while True:
        link, _ = listener.accept()
        with link, contextlib.suppress(OSError):
            link.sendall(link.recv(4))


def echo_datagrams(link: socket.socket) -> None:
    while True:
        data, sender = link.recvfrom(512)
        link.sendto(data, sender)


def answer_names(link: socket.socket) -> None:
    """Answer every question about a name with one address, and questions about IPv6 addresses with none."""
    while True:
        data, sender = link.recvfrom(512)
        end = data.index(b"\0", 12) + 5
        is_ipv4 = data[end - 4 : end - 2] == b"\0\1"
        head = data[:2] + struct.pack("!HHHHH", 0x8180, 1, is_ipv4, 0, 0)
        answer = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 1, 4) + socket.inet_aton(PUBLIC)
        link.sendto(head + data[12:end] + (answer if is_ipv4 else b""), sender)


def start_thread(target, *arguments) -> None:
    threading.Thread(target=target, args=arguments, daemon=True).start()


def serve_outside() -> None:
    """Be the rest of the network: echo servers and a name server, in a network namespace of their own."""
    run("ip link set lo up")
    for address in (PUBLIC, METADATA):
        run(f"ip address add {address}/32 dev lo")
    run(f"ip -6 address add {PUBLIC_6}/128 dev lo")
    print("made", flush=True)
    sys.stdin.readline()
    run(f"ip address add {PRIVATE}/24 dev inner")
    run(f"ip -6 address add {PRIVATE_6}/64 dev inner nodad")
    run("ip link set inner up")
    start_thread(
        echo_streams,
        socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True),
    )
    for family, address in ((socket.AF_INET, PUBLIC), (socket.AF_INET6, PUBLIC_6)):
        link = socket.socket(family, socket.SOCK_DGRAM)
        link.bind((address, PORT))
        start_thread(echo_datagrams, link)
    names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    names.bind((PRIVATE, 53))
    start_thread(answer_names, names)
    print("ready", flush=True)
    sys.stdin.readline()


@contextlib.contextmanager
def build_machine(folder: Path) -> Iterator[None]:
    """Give this process's network namespace an interface, routes, a name server and services of the host."""
    outside = subprocess.Popen(
        ["unshare", "--net", sys.executable, "-m", MODULE, "outside"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert outside.stdin
    assert outside.stdout
    with outside:
        assert outside.stdout.readline() == "made\n"
        run("ip link set lo up")
        run(f"ip link add outer type veth peer name inner netns {outside.pid}")
        run(f"ip address add {HOST}/24 dev outer")
        run("ip -6 address add fd77::2/64 dev outer nodad")
        run("ip link set outer up")
        outside.stdin.write("go\n")
        outside.stdin.flush()
        assert outside.stdout.readline() == "ready\n"
        run(f"ip route add default via {PRIVATE}")
        run(f"ip -6 route add default via {PRIVATE_6}")
        last_group = 2_147_483_647 if support.choose_uid() is not None else 0
        Path("/proc/sys/net/ipv4/ping_group_range").write_text(f"0 {last_group}")
        (folder / "resolv.conf").write_text(f"nameserver {PRIVATE}\n")
        run(f"mount --bind {folder}/resolv.conf /etc/resolv.conf")
        start_thread(echo_streams, socket.create_server(("", LOCAL_PORT)))
        start_thread(
            echo_streams, socket.create_server(("::1", LOCAL_PORT), family=socket.AF_INET6)
        )
        try:
            yield
        finally:
            outside.stdin.close()


class Sandbox:
    """A sandbox with namespaces as those of the provider, in which the probes run."""

    def __init__(self, stack: ExitStack, folder: Path, uid: int | None) -> None:
        etc = folder / "etc"
        system_files.write_etc(etc, home="/", python="python3", relay="relay.py")
        program = stack.enter_context(support.open_program(support.find_bwrap()))
        rules = stack.enter_context(support.open_filter())
        reader, writer = os.pipe()
        folders = [
            part
            for name in ("bin", "lib", "lib64")
            for part in ("--ro-bind", f"/{name}", f"/{name}")
        ]
        for name in ("resolv.conf", "nsswitch.conf", "hosts"):
            folders += ["--ro-bind", str(etc / name), f"/etc/{name}"]
        self.process = subprocess.Popen(
            [
                *("bwrap", *support.NAMESPACES, "--die-with-parent", "--as-pid-1", "--clearenv"),
                *("--uid", "1000", "--gid", "1000", "--cap-drop", "ALL"),
                *("--seccomp", str(rules), "--info-fd", str(writer), "--ro-bind", "/usr", "/usr"),
                *(*folders, "--proc", "/proc", "--dev", "/dev", "--chdir", "/"),
                *("--", "/usr/bin/python3", "-I", "-S", "-c", PROBE),
            ],
            executable=program.path,
            env=dict(program.environment),
            pass_fds=(*program.descriptors, rules, writer),
            user=uid,
            group=uid,
            extra_groups=None if uid is None else (),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        os.close(writer)
        with os.fdopen(reader) as info:
            self.init = json.load(info)["child-pid"]
        stack.callback(self.process.kill)

    def probe(self, names: str = "") -> dict[str, str]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{names}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def run_keeper(folder: Path, init: int, uid: int | None) -> None:
    """Follow the policy file as a keeper does, and print the failure of the open network."""
    request = Request(
        run="",
        folder=folder,
        bwrap="",
        pasta=support.examine(bwrap="").pasta,
        python="python3",
        uid=uid,
        cgroup="",
        plan=Plan([], [], []),
        limits=Limits(0, 0, 0, 0),
        watched=[],
        lock_fd=-1,
        start={},
    )

    async def follow() -> None:
        keeper = Keeper(request)
        keeper.init_pid = init
        log = DecisionLog(folder / "egress.log")
        await keeper.follow_network(PolicyFile(folder / "policy.json"), log)
        log.close()
        print(keeper.network_failure, flush=True)

    asyncio.run(follow())


def start_keeper(folder: Path, sandbox: Sandbox, uid: int | None) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", MODULE, "keeper", str(folder), str(sandbox.init), str(uid)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def find_pasta(sandbox: Sandbox) -> list[psutil.Process]:
    target = f"/proc/{sandbox.init}/ns/net"
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if target in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def wait(what, *, seconds: float = 15) -> None:
    until = time.monotonic() + seconds
    while not what():
        if time.monotonic() > until:
            raise TimeoutError
        time.sleep(0.05)


def count_routes(sandbox: Sandbox) -> int:
    return len(Path(f"/proc/{sandbox.init}/net/route").read_text().splitlines()) - 1


def main(folder: Path) -> None:
    results: dict[str, object] = {}
    uid = support.choose_uid()
    policy, log = folder / "policy.json", folder / "egress.log"
    with build_machine(folder), ExitStack() as stack:
        sandbox = Sandbox(stack, folder, uid)
        for address in (PUBLIC, PRIVATE, METADATA, "127.0.0.1"):
            port = LOCAL_PORT if address == "127.0.0.1" else PORT
            socket.create_connection((address, port), timeout=5).close()
        results["before"] = sandbox.probe("tcp udp private metadata host")
        write_policy(policy, Policy(Profile.OPEN))
        keeper = start_keeper(folder, sandbox, uid)
        wait(lambda: log.exists() and log.read_text())
        results["log"] = [json.loads(line) for line in log.read_text().splitlines()]
        results["open"] = sandbox.probe()
        results["user"] = find_pasta(sandbox)[0].uids().effective
        write_policy(policy, Policy(Profile.PUBLIC))
        wait(
            lambda: (
                not find_pasta(sandbox)
                and "name server" in (folder / "etc/resolv.conf").read_text()
            )
        )
        results["routes_closed"] = count_routes(sandbox)
        results["closed"] = sandbox.probe()
        write_policy(policy, Policy(Profile.OPEN))
        wait(lambda: count_routes(sandbox) > 0)
        results["reopened"] = sandbox.probe("tcp metadata")
        find_pasta(sandbox)[0].kill()
        results["failure"] = keeper.communicate(timeout=15)[0].strip()
        results["failed"] = sandbox.probe("tcp")
        keeper = start_keeper(folder, sandbox, uid)
        wait(lambda: count_routes(sandbox) > 0)
        keeper.send_signal(signal.SIGKILL)
        keeper.communicate()
        wait(lambda: not find_pasta(sandbox))
        results["orphaned"] = sandbox.probe("tcp")
    print(json.dumps({**results, "uid": uid}))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["outside"]:
            serve_outside()
        case ["keeper", path, init, user]:
            run_keeper(Path(path), int(init), None if user == "None" else int(user))
        case [path]:
            main(Path(path))
