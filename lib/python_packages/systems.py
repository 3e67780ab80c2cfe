"""The command that installs a missing program on this operating system."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

VENV = {
    "debian": "sudo apt install python3-venv",
    "fedora": "sudo dnf install python3-pip",
    "suse": "sudo zypper install python3-pip",
    "arch": "sudo pacman -S python",
    "alpine": "sudo apk add python3 py3-pip",
    "macos": "brew install python",
}
"""Commands that make ``python3 -m venv`` work with pip."""

COMPILER = {
    "debian": "sudo apt install build-essential python3-dev libffi-dev libssl-dev cargo",
    "fedora": "sudo dnf install gcc python3-devel libffi-devel openssl-devel cargo",
    "suse": "sudo zypper install gcc python3-devel libffi-devel libopenssl-devel cargo",
    "arch": "sudo pacman -S base-devel rust",
    "alpine": "sudo apk add build-base python3-dev libffi-dev openssl-dev cargo",
    "macos": "xcode-select --install && brew install rust openssl@3",
}
"""Commands that install what building a package from source needs."""


def release(path: Path = Path("/etc/os-release")) -> dict[str, str]:
    """Return the fields of os-release (https://www.freedesktop.org/software/systemd/man/os-release.html)."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return {}
    return dict(re.findall(r"^([A-Z_]+)=[\"']?(.*?)[\"']?$", text, re.MULTILINE))


def family(fields: dict[str, str]) -> str:
    """Return the family of systems with the same package manager, or empty text if it is unknown."""
    if sys.platform == "darwin":
        return "macos"
    names = [fields.get("ID", ""), *fields.get("ID_LIKE", "").split()]
    families = {
        "debian": ("debian", "ubuntu"),
        "fedora": ("fedora", "rhel", "centos"),
        "suse": ("suse", "opensuse", "sles"),
        "arch": ("arch",),
        "alpine": ("alpine",),
    }
    return next((key for name in names for key, known in families.items() if name in known), "")


def command_for_venv() -> str:
    """Return the command that completes this system's Python, or words if the system is unknown."""
    return VENV.get(family(release()), "your system's packages for Python's venv and pip")


def command_for_compiler() -> str:
    """Return the command that installs compilers, or words if the system is unknown."""
    return COMPILER.get(
        family(release()), "your system's packages for a C compiler, Rust and Python's headers"
    )


def command_for_python(oldest: tuple[int, int], fields: dict[str, str] | None = None) -> str:
    """Return the command that installs a Python of at least ``oldest`` on this system, or empty text.

    Empty means that the system's own packages have no such Python, as on Debian 12 and Ubuntu 22.04.
    """
    fields = release() if fields is None else fields
    kind = family(fields)
    if kind == "macos":
        return "brew install python@3.13" if shutil.which("brew") else ""
    version = tuple(int(part) for part in re.findall(r"\d+", fields.get("VERSION_ID", "")))
    name = fields.get("ID", "")
    # The Python of python3 by system and first release: (3, 11) satisfies the server, (3, 12) the agent engine.
    newest: dict[tuple[str, str], list[tuple[tuple[int, ...], tuple[int, int]]]] = {
        ("debian", "debian"): [((13,), (3, 13)), ((12,), (3, 11))],
        ("debian", "ubuntu"): [((25, 10), (3, 13)), ((24, 4), (3, 12))],
        ("alpine", "alpine"): [((3, 20), (3, 12)), ((3, 18), (3, 11))],
    }
    for first, python in newest.get((kind, name), ()):
        if version >= first:
            enough = python >= oldest
            commands = {"debian": "sudo apt install python3 python3-venv", "alpine": VENV["alpine"]}
            return commands[kind] if enough else ""
    if kind == "fedora":
        # Since 8.10 and 9.4, RHEL and its relatives have python3.12 beside the system's own.
        is_rhel = name != "fedora"
        return (
            ""
            if is_rhel and version < (8,)
            else f"sudo dnf install python3.{12 if is_rhel else 13}"
        )
    if kind == "suse":
        return (
            "sudo zypper install python313"
            if "tumbleweed" in name
            else "sudo zypper install python312"
        )
    return VENV["arch"] if kind == "arch" else ""
