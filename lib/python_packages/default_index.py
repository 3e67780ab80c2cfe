"""The package index that pip uses without settings, read from a pip: one that is installed, bundled, or Debian's."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

_DEBIAN_PACKAGE = "python3-pip-whl"
"""Debian's package with pip's wheel. Any user can download it with apt-get, which checks its signature."""


def default_index() -> str:
    """Return the address of pip's default package index, or empty text if there is no pip at all.

    pip may be installed, or lie as a wheel in the folder from which Python creates virtual environments. On Debian and
    Ubuntu, where both are packages of their own, apt-get fetches the wheel into a temporary folder.
    """
    folders = [Path(folder) for folder in (sysconfig.get_config_var("WHEEL_PKG_DIR"),) if folder]
    folders += [
        Path(os.__file__).parent / "ensurepip" / "_bundled",
        Path("/usr/share/python-wheels"),
    ]
    found = _read_index("")
    for folder in folders:
        found = found or _read_from_folder(folder)
    return found or _read_from_debian()


def _read_from_folder(folder: Path) -> str:
    addresses = (_read_index(str(wheel)) for wheel in sorted(folder.glob("pip-*.whl")))
    return next(filter(None, addresses), "")


def _read_index(wheel: str) -> str:
    """Return the address in a wheel of pip, or in the installed pip if ``wheel`` is empty."""
    if wheel:
        sys.path.insert(0, wheel)
    try:
        return str(importlib.import_module("pip._internal.models.index").PyPI.simple_url)
    except (ImportError, AttributeError):
        sys.modules.pop("pip", None)  # an incomplete pip must not hide the next one
        return ""
    finally:
        if wheel:
            sys.path.remove(wheel)


def _read_from_debian() -> str:
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return ""
    with tempfile.TemporaryDirectory(prefix="pip-") as name:
        try:
            _run(["apt-get", "download", _DEBIAN_PACKAGE], name)
            for package in Path(name).glob("*.deb"):
                _run(["dpkg-deb", "--extract", str(package), name], name)
        except (OSError, subprocess.SubprocessError):
            return ""
        return _read_from_folder(Path(name, "usr", "share", "python-wheels"))


def _run(command: list[str], folder: str) -> None:
    subprocess.run(command, cwd=folder, capture_output=True, check=True, timeout=60)
