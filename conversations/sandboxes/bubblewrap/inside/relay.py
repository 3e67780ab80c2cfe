"""The first process of a sandbox: it starts the engine and carries connections through the sandbox's walls.

This file runs inside the sandbox as process 1, under the engine's Python with ``-I -S``, so it uses only the standard
library. No process in the sandbox can end it, because the kernel sends process 1 no signal without a handler.

- Out: it creates the listening socket of the proxy in the sandbox's network namespace and hands it to the keeper,
  which accepts the connections on the host.
- In: it accepts connections on a Unix socket that the keeper created on the host. The first line is ``PORT``; the
  answer is ``OK``; then bytes are copied to and from 127.0.0.1:PORT in the sandbox.
- If ``old_gateway_port`` is given, connections to this port of 127.0.0.1 are carried to the server through the proxy,
  because the files of an engine that was started without isolation contain that address of the server.

``relay.py connect HOST PORT`` connects standard input and output to a host through the proxy, for programs with a
``ProxyCommand``, such as ssh.
"""

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import sys
import time
from typing import Any

PROXY_ADDRESS = ("127.0.0.1", 3128)
GATEWAY = b"openhands.internal:80"
CHUNK = 65_536
CLOSING_SECONDS = 600.0
"""How long a connection may stay half open."""
CONFIG_SECONDS = 300.0
"""How long the engine may take to read its configuration before the file is deleted anyway."""


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy bytes until the end of the stream, then close the other side's direction."""
    with contextlib.suppress(OSError, RuntimeError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


async def serve_inbound(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve a connection from the host: read the port, connect to it, answer ``OK``, and copy bytes."""
    inner: asyncio.StreamWriter | None = None
    try:
        line = await asyncio.wait_for(reader.readline(), 10)
        inner_reader, inner = await asyncio.open_connection("127.0.0.1", int(line))
        writer.write(b"OK\n")
        pumps = {
            asyncio.create_task(pump(reader, inner)),
            asyncio.create_task(pump(inner_reader, writer)),
        }
        _, other = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        # A program that never closes must not keep the connection of a caller that is gone.
        await asyncio.wait(other, timeout=CLOSING_SECONDS)
        for task in other:
            task.cancel()
    except (OSError, ValueError, OverflowError, TimeoutError):
        pass
    finally:
        for end in (writer, inner):
            if end is not None:
                end.close()


async def serve_old_gateway(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry a connection to the server's own address through the proxy."""
    inner: asyncio.StreamWriter | None = None
    try:
        inner_reader, inner = await asyncio.open_connection(*PROXY_ADDRESS)
        inner.write(b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (GATEWAY, GATEWAY))
        head = await inner_reader.readuntil(b"\r\n\r\n")
        if b" 200" in head.split(b"\r\n")[0]:
            await asyncio.gather(pump(reader, inner), pump(inner_reader, writer))
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass
    finally:
        for end in (writer, inner):
            if end is not None:
                end.close()


class Init:
    """Process 1: it starts the engine, reports its end, and collects the processes that lost their parents."""

    def __init__(self, control: socket.socket, door: socket.socket, start: dict[str, Any]) -> None:
        self.control, self.door, self.start = control, door, start
        self.engine = 0
        self.ended = asyncio.Event()

    async def run(self) -> None:
        """Start the engine, carry connections until it ends, and end this process."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self.reap)
        loop.add_reader(self.control, self.read_control)
        self.control.setblocking(False)
        await asyncio.start_unix_server(serve_inbound, sock=self.door, backlog=128)
        if port := self.start.get("old_gateway_port"):
            await asyncio.start_server(serve_old_gateway, "127.0.0.1", port)
        config = self.write_config()
        os.chdir(self.start["cwd"])
        self.engine = spawn(self.start)
        deleting = asyncio.create_task(self.delete_config(config))
        await self.ended.wait()
        deleting.cancel()
        # Python 3.11 reports each connection that is cancelled at the end of the event loop as an error. In the log,
        # these reports would follow the line that says why the engine ended.
        os._exit(0)

    def write_config(self) -> str:
        """Write the engine's keys to a file, which no other process can read yet, because none was started."""
        path: str = self.start["config_path"]
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w") as file:
            json.dump(self.start["config"], file)
        return path

    async def delete_config(self, path: str) -> None:
        """Delete the file with the engine's keys as soon as the engine listens, before an agent can run commands."""
        until = time.monotonic() + CONFIG_SECONDS
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.start["port"])
                writer.close()
                break
            await asyncio.sleep(0.1)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def read_control(self) -> None:
        """Read from the keeper. It sends ``stop``; the end of the stream means that the keeper died."""
        try:
            data = self.control.recv(64)
        except BlockingIOError:
            return
        if data:
            self.stop_engine()
        else:
            os._exit(1)  # process 1 ends, so the kernel ends every process of the sandbox

    def stop_engine(self) -> None:
        if self.engine:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.engine, signal.SIGTERM)

    def reap(self) -> None:
        """Collect ended processes. Report the engine's end to the keeper."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.engine:
                report = {"engine_ended": os.waitstatus_to_exitcode(status)}
                with contextlib.suppress(OSError):
                    self.control.send(json.dumps(report).encode() + b"\n")
                self.ended.set()


def spawn(start: dict[str, Any]) -> int:
    """Start the engine in a session of its own and return its process id."""
    return os.posix_spawn(
        start["command"][0],
        start["command"],
        start["environment"],
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
        setsid=True,
        setsigdef=[signal.SIGCHLD, signal.SIGTERM, signal.SIGPIPE, signal.SIGINT],
    )


def set_limits(limits: dict[str, int]) -> None:
    """Set the limits that all processes of the sandbox inherit and cannot raise."""
    for name, kind in (
        ("processes", resource.RLIMIT_NPROC),
        ("file_bytes", resource.RLIMIT_FSIZE),
        ("open_files", resource.RLIMIT_NOFILE),
        ("core_bytes", resource.RLIMIT_CORE),
    ):
        if name in limits:
            _, hard = resource.getrlimit(kind)
            value = limits[name] if hard == resource.RLIM_INFINITY else min(limits[name], hard)
            resource.setrlimit(kind, (value, value))


def init(control_fd: int, door_fd: int) -> None:
    """Read the keeper's instructions, set up the walls, and run as process 1 until the engine ends.

    The keeper passes the descriptors of the control socket and of the listening socket for inbound connections.
    """
    # The kernel ignores signals to process 1 that have no handler, also this one from Ctrl-C.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    # Other processes of the sandbox have the same user id. They must not read this process's memory, which holds the
    # engine's keys, and they must not take over its socket to the keeper.
    import nondumpable  # type: ignore[import-not-found]  # noqa: F401  # found only where this program runs

    control, door = socket.socket(fileno=control_fd), socket.socket(fileno=door_fd)
    start = json.loads(control.makefile("rb").readline())
    proxy = socket.create_server(PROXY_ADDRESS, backlog=256)
    set_limits(start["limits"])
    landlock_abi = 0
    if start["landlock"]:
        import landlock  # type: ignore[import-not-found]  # found only where this program runs

        landlock_abi = landlock.restrict(start["read_only"], start["writable"], ["/"])
    hello = json.dumps({"ready": True, "landlock": landlock_abi}).encode() + b"\n"
    socket.send_fds(control, [hello], [proxy.fileno()])
    proxy.close()
    for link in (control, door):
        link.set_inheritable(False)
    asyncio.run(Init(control, door, start).run())


def connect(host: str, port: str) -> int:
    """Connect standard input and output to a host through the proxy. Return the exit status."""
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    with socket.create_connection(PROXY_ADDRESS) as link:
        link.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        head = b""
        # Read byte by byte, because the bytes after the head already come from the host.
        while not head.endswith(b"\r\n\r\n") and (data := link.recv(1)):
            head += data
        if b" 200 " not in head.split(b"\r\n")[0] + b" ":
            link.settimeout(5)
            with contextlib.suppress(TimeoutError):
                print(link.recv(CHUNK).decode(errors="replace").strip(), file=sys.stderr)
            return 1
        if os.fork() == 0:
            while data := os.read(0, CHUNK):
                link.sendall(data)
            link.shutdown(socket.SHUT_WR)
            os._exit(0)
        while data := link.recv(CHUNK):
            while data:
                data = data[os.write(1, data) :]
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "connect":
        sys.exit(connect(*sys.argv[2:]))
    init(*map(int, sys.argv[2:]))
