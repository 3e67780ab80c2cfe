"""The addresses of a quickstart: the listening socket, the names of this machine, and programs that use a port."""

import contextlib
import ipaddress
import socket

import psutil

from openhands_site.operating.embedded import CannotStart

ALL_ADDRESSES = ("0.0.0.0", "::", "")  # noqa: S104 - compared, not bound


def listen(host: str, port: int) -> socket.socket:
    """Open the server's port. Raise ``CannotStart`` with a remedy if it cannot be opened."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except (socket.gaierror, UnicodeError) as error:
        reason = getattr(error, "strerror", "it is not a host name")
        raise CannotStart(
            f"{host} is not an address of this machine ({reason}). Choose another address: make run HOST=127.0.0.1."
        ) from error
    except PermissionError as error:
        raise CannotStart(
            f"Port {port} is reserved for the system. Choose a port above 1023: make run PORT=8000."
        ) from error
    except OSError as error:
        if error.errno == 98 or "in use" in str(error):  # 98 is EADDRINUSE on Linux
            raise CannotStart(
                f"Port {port} is in use{describe_listener(port)}. Stop that program, or choose "
                f"another port: make run PORT={port % 65_535 + 1}."
            ) from error
        raise CannotStart(f"Cannot listen on {host}:{port}: {error.strerror}.") from error
    listener.set_inheritable(True)
    return listener


def check_grpc(port: int) -> None:
    """Raise ``CannotStart`` if a program listens on the port of gRPC."""
    if grpc_listens(port):
        raise CannotStart(
            f"Port {port} is in use{describe_listener(port)}. Choose another port for gRPC with --grpc-port."
        )


def grpc_listens(port: int) -> bool:
    """Return whether a program listens on a port of the loopback address."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def describe_listener(number: int) -> str:
    """Return " by NAME (process PID)" for the program that listens on a port, or "" if this user cannot see it."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if (
                connection.laddr
                and connection.laddr.port == number
                and connection.status == "LISTEN"
                and connection.pid
            ):
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    return ""


def own_address(host: str) -> str:
    """Return the address at which this machine reaches a server that listens on ``host``."""
    if host not in ALL_ADDRESSES:
        return host
    return "::1" if host == "::" else "127.0.0.1"


def own_names(host: str) -> list[str]:
    """Return the host names and addresses of this machine at which a server that listens on ``host`` is reached."""
    if host not in ALL_ADDRESSES:
        return [host]
    names = [socket.gethostname()]
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            with contextlib.suppress(ValueError):
                names.append(str(ipaddress.ip_address(address.address.partition("%")[0])))
    return names
