"""Gets what the whole suite needs beyond Python packages: the agent engine and a Chromium.

The engine is kept in a cache outside the tree, one per version of its constraints. What cannot be had is
said loudly, and fails the run when ``REQUIRE_ALL`` is set.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def engine_dir() -> Path:
    """``ENGINE_DIR``, else a folder in the user's cache that is named by the constraints' hash."""
    if named := os.environ.get("ENGINE_DIR"):
        return Path(named)
    constraints = (ROOT / "engine" / "agent-server-constraints.txt").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "openhands-site" / f"engine-{hashlib.sha256(constraints).hexdigest()[:12]}"


def chromium() -> str | None:
    """The Chromium that browser tests run, if there is one."""
    named = os.environ.get("CHROMIUM", "")
    return shutil.which(named) or next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)


def _install_engine() -> str:
    """Nothing, or why there is no engine."""
    bare = {
        "SECRET_KEY": "unused",
        "DATABASE_URL": "postgresql://unused/unused",
        "REDIS_URL": "redis://unused",
    }
    bare |= dict.fromkeys(("ENCRYPTION_KEYS", "TOKEN_PEPPERS"), "unused:" + "0" * 64)
    environment = os.environ | bare | {"ENGINE_DIR": str(engine_dir())}
    command = [sys.executable, str(ROOT / "manage.py"), "install_engine"]
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""


def _install_chromium() -> str:
    """Nothing, or why there is no Chromium."""
    if chromium():
        return ""
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print("Installing Chromium by apt-get …", flush=True)
        for command in (
            ["apt-get", "update"],
            ["apt-get", "install", "-y", "--no-install-recommends", "chromium"],
        ):
            environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False
            )
        if chromium():
            return ""
        return (
            "apt-get could not install it: "
            + (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        )
    return "install it by your system's package manager, or name one by CHROMIUM=/path/to/chromium"


def main() -> None:
    lacking = {
        "agent engine": _install_engine(),
        "Chromium": _install_chromium(),
    }
    for name, reason in lacking.items():
        if reason:
            print(f"!!! No {name}: the tests that need it are skipped ({reason}).", file=sys.stderr)
    if any(lacking.values()) and os.environ.get("REQUIRE_ALL"):
        sys.exit("REQUIRE_ALL is set: nothing may be skipped.")


if __name__ == "__main__":
    main()
