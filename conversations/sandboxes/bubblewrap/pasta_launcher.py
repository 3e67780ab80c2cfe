"""Start ``pasta`` for the network namespace of a sandbox: ``python -I -S pasta_launcher.py PASTA INIT UID KEEPER``.

``INIT`` is the process id of the sandbox's process 1, ``UID`` the user id of the sandbox (``-`` if the server is not
root), and ``KEEPER`` the process id of the keeper, with which ``pasta`` ends. A program of its own, with the standard
library only, because a process that joins a user namespace must have one thread. An error is a line on standard error
and exit status 1.

``bwrap --disable-userns`` nests two user namespaces. The outer one owns the network namespace, and no process is left
in it, so it is found with the ioctl ``NS_GET_USERNS``.
"""

import contextlib
import ctypes
import errno
import fcntl
import ipaddress
import os
import signal
import socket
import struct
import sys

NAME_SERVERS = ("192.0.0.8", "100::53")
"""The addresses at which ``pasta`` forwards DNS in the sandbox. No machine has them (RFC 7600, 6666)."""
REFUSED = (
    "169.254.0.0/16",
    "100.100.100.200/32",
    "192.0.0.192/32",
    "fe80::/10",
    "64:ff9b::a9fe:0/112",
    "fd00:ec2::254/128",
)
"""The link-local addresses, also behind NAT64, and the metadata services of clouds (see ``lib.addresses``)."""
_TUN = "/dev/net/tun"
_NS_GET_USERNS = 0xB701
_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWNET = 0x20000, 0x10000000, 0x40000000
_MS_NOSUID, _MS_REC, _MS_PRIVATE = 2, 0x4000, 0x40000
_PR_SET_PDEATHSIG = 1
_RTM_NEWRULE, _NLMSG_ERROR = 32, 2
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_EXCL, _NLM_F_CREATE = 1, 4, 0x200, 0x400
_FRA_DST, _FRA_PRIORITY, _FR_ACT_UNREACHABLE = 1, 6, 7
_PRIORITY = 100
"""The priority of the rules: before the main routing table (32766), after that of local addresses (0)."""

_libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, action: str) -> None:
    """Raise ``OSError`` if a function of the C library failed."""
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{action}: {os.strerror(number)}")


def change_user(uid: int) -> None:
    """Change from root to the sandbox's user, who may open ``/dev/net/tun`` in a mount namespace of this process.

    Many machines allow the device only to root. It gives no rights: the kernel checks those on the network namespace.
    """
    device = os.stat(_TUN).st_rdev
    check(_libc.unshare(_CLONE_NEWNS), "unshare")
    check(_libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "mount /")
    check(_libc.mount(b"tmpfs", b"/dev/net", b"tmpfs", _MS_NOSUID, b"mode=755"), "mount /dev/net")
    os.mknod(_TUN, 0o020666, device)
    os.chmod(_TUN, 0o666)  # noqa: S103 - only this process sees it
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def end_with(keeper: int) -> None:
    """Let the kernel end this process when the keeper ends, also after ``exec``."""
    check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
    if os.getppid() != keeper:
        raise OSError(errno.ESRCH, "the keeper has ended")


def prepare_network(namespace: int) -> None:
    """Refuse the reserved addresses in a network namespace and allow its user to ping. Safe to repeat.

    Nobody in the sandbox has the capability to change the rules.
    """
    check(_libc.setns(namespace, _CLONE_NEWNET), "setns")
    # Group 0 of the outer user namespace is the sandbox's only group.
    with contextlib.suppress(OSError), open("/proc/sys/net/ipv4/ping_group_range", "w") as file:
        file.write("0 0")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as link:
        for block in REFUSED:
            add_rule(link, block)


def add_rule(link: socket.socket, block: str) -> None:
    """Add a rule of routing that makes a block of addresses unreachable, unless it exists."""
    network = ipaddress.ip_network(block)
    is_ipv4 = network.version == 4
    if not is_ipv4 and not os.path.exists("/proc/net/if_inet6"):
        return
    family = socket.AF_INET if is_ipv4 else socket.AF_INET6
    body = struct.pack(
        "=BBBBBBBBI", family, network.prefixlen, 0, 0, 0, 0, 0, _FR_ACT_UNREACHABLE, 0
    )
    for kind, value in (
        (_FRA_DST, network.network_address.packed),
        (_FRA_PRIORITY, struct.pack("=I", _PRIORITY)),
    ):
        body += struct.pack("=HH", 4 + len(value), kind) + value
    flags = _NLM_F_REQUEST | _NLM_F_ACK | _NLM_F_EXCL | _NLM_F_CREATE
    link.send(struct.pack("=IHHII", 16 + len(body), _RTM_NEWRULE, flags, 1, 0) + body)
    answer = link.recv(4096)
    kind, number = struct.unpack_from("=H", answer, 4)[0], struct.unpack_from("=i", answer, 16)[0]
    if kind != _NLMSG_ERROR or number not in (0, -errno.EEXIST):
        raise OSError(-number, f"rule for {block}: {os.strerror(abs(number))}")


def run_apart(namespace: int) -> None:
    """Run ``prepare_network`` in a child process, because this process must stay in the host's network namespace."""
    if child := os.fork():
        if os.waitpid(child, 0)[1]:
            raise OSError(errno.EPERM, "the sandbox's network namespace cannot be prepared")
        return
    status = 1
    try:
        prepare_network(namespace)
        status = 0
    except OSError:
        pass
    finally:
        os._exit(status)


def build_command(pasta: str, init: int) -> list[str]:
    """Return the command that connects the network namespace of a process, without any forwarded port."""
    command = [pasta, "--foreground", "--quiet", "--config-net", "--no-map-gw"]
    for option in ("-t", "-u", "-T", "-U"):
        command += [option, "none"]
    for address in NAME_SERVERS:
        command += ["--dns-forward", address]
    return [*command, "--netns-only", "--netns", f"/proc/{init}/ns/net"]


def main(pasta: str, init: int, uid: int | None, keeper: int) -> None:
    """Join the user namespace that owns the sandbox's network namespace, and become ``pasta``."""
    network = os.open(f"/proc/{init}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    owner = fcntl.ioctl(network, _NS_GET_USERNS)
    if uid is not None:
        change_user(uid)
    # Joining the owner gives all capabilities in it, and none outside.
    check(_libc.setns(owner, _CLONE_NEWUSER), "setns")
    os.close(owner)
    run_apart(network)
    # A change of the user ends this setting, so it comes last.
    end_with(keeper)
    # Some versions of pasta take an ignored SIGPIPE, which Python sets, for an error.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.chdir("/")
    os.execve(pasta, build_command(pasta, init), {"PATH": "/usr/bin:/bin"})  # noqa: S606 - a fixed program


if __name__ == "__main__":
    path, init_pid, user_id, keeper_pid = sys.argv[1:]
    try:
        main(path, int(init_pid), None if user_id == "-" else int(user_id), int(keeper_pid))
    except OSError as problem:
        sys.exit(str(problem))
