"""The wheels that a program without Python code, such as uv, can be taken from on this machine."""

from __future__ import annotations

import os
import platform
import re
import sys

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64", "i386": "i686", "armv8l": "armv7l"}


def rank_wheel(filename: str) -> int | None:
    """Return a number for a wheel of any Python that fits this machine, or None. A lower number fits better."""
    parts = filename[: -len(".whl")].split("-")
    ranks = [rank for tag in parts[-1].split(".") if (rank := _rank_platform(tag)) is not None]
    return min(ranks) if ranks and parts[-2] == "none" else None


def _rank_platform(tag: str) -> int | None:
    if tag == "any":
        return 9
    if sys.platform == "darwin":
        found = re.fullmatch(r"macosx_(\d+)_(\d+)_(\w+)", tag)
        if not found or (int(found[1]), int(found[2])) > _mac_version():
            return None
        return {platform.machine(): 0, "universal2": 1}.get(found[3])
    if not sys.platform.startswith("linux"):
        return None
    machine = _linux_machine()
    libc = _glibc_version()
    if found := re.fullmatch(r"manylinux_(\d+)_(\d+)_(\w+)", tag):
        fits = libc is not None and (int(found[1]), int(found[2])) <= libc
        return 0 if fits and found[3] == machine else None
    # uv's builds for musl are linked statically, so they run with an old glibc too.
    found = re.fullmatch(r"musllinux_\d+_\d+_(\w+)", tag)
    return 2 if found and found[1] == machine else None


def has_wheels_with_programs() -> bool:
    """Return whether wheels with programs, such as PostgreSQL, exist for this system. On Linux they need glibc."""
    return not sys.platform.startswith("linux") or _glibc_version() is not None


def describe() -> str:
    """Return the name of this platform for messages, such as ``Linux x86_64``."""
    return f"{platform.system()} {platform.machine()}"


def _linux_machine() -> str:
    machine = platform.machine().lower()
    machine = _MACHINES.get(machine, machine)
    # A 32-bit Python may run on a 64-bit kernel, but uv must match the packages, so the Python decides.
    is_small = sys.maxsize <= 2**32
    return {"x86_64": "i686", "aarch64": "armv7l"}.get(machine, machine) if is_small else machine


def _glibc_version() -> tuple[int, int] | None:
    try:
        text = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (OSError, ValueError):
        return None
    found = re.match(r"glibc (\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def _mac_version() -> tuple[int, int]:
    major, _, rest = platform.mac_ver()[0].partition(".")
    version = (int(major or 0), int(rest.partition(".")[0] or 0))
    # A Python built for an old SDK sees 10.16 instead of 11 and later.
    return (99, 0) if version == (10, 16) else version
