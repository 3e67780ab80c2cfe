"""Gets what the whole suite needs beyond Python packages: the agent engine, a Chromium, a Keycloak.

The engine is kept in a cache outside the tree, one per version of its constraints. What cannot be had is
said loudly, and fails the run when ``REQUIRE_ALL`` is set.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEYCLOAK_VERSION = "26.7.0"
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


def balancer(name: str) -> str | None:
    """Where ``nginx`` or ``haproxy`` is, which need not be in a user's PATH."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def keycloak_dir() -> Path:
    """`KEYCLOAK_DIR`, else a folder in the user's cache that is named by the version."""
    if named := os.environ.get("KEYCLOAK_DIR"):
        return Path(named)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "openhands-site" / f"keycloak-{KEYCLOAK_VERSION}"


def keycloak_lacks() -> str:
    """Nothing, or why the real Keycloak cannot run here."""
    if not (keycloak_dir() / "bin" / "kc.sh").exists():
        return "it is not installed; `python -m tests.prepare` fetches it by Maven"
    return "" if shutil.which("java") else "there is no Java here"


def _install_keycloak() -> str:
    """Nothing, or why there is no Keycloak."""
    if not keycloak_lacks():
        return ""
    if not shutil.which("java") or not shutil.which("mvn"):
        return "Java and Maven are needed for it"
    print("Fetching Keycloak …", flush=True)
    home = keycloak_dir()
    home.parent.mkdir(parents=True, exist_ok=True)
    # Not in the project: Maven would look for a pom.xml, and a half-unpacked folder must never stand there.
    with tempfile.TemporaryDirectory(dir=home.parent) as folder:
        artifact = f"org.keycloak:keycloak-quarkus-dist:{KEYCLOAK_VERSION}:zip"
        command = [
            "mvn",
            "-q",
            "dependency:copy",
            f"-Dartifact={artifact}",
            f"-DoutputDirectory={folder}",
        ]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        zips = list(Path(folder).glob("*.zip"))
        if done.returncode or not zips:
            return (
                "Maven could not fetch it: "
                + (done.stdout.strip().splitlines() or ["no reason given"])[0]
            )
        shutil.unpack_archive(zips[0], folder)
        unpacked = Path(folder) / f"keycloak-{KEYCLOAK_VERSION}"
        for script in (unpacked / "bin").glob("*.sh"):
            script.chmod(0o755)  # the unpacking drops it
        from tests.fakes import keycloak

        keycloak.warm_up(unpacked)
        unpacked.rename(home)
    return keycloak_lacks()


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
    found = _by_apt("Chromium", "chromium", chromium)
    return found if not found else f"{found}, or name one by CHROMIUM=/path/to/chromium"


def _install_balancer(name: str, package: str) -> str:
    """Nothing, or why there is none."""
    return _by_apt(name, package, lambda: balancer(name))


def _by_apt(name: str, package: str, find: Callable[[], str | None]) -> str:
    """Nothing once ``find`` finds it, or why it does not."""
    if find():
        return ""
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"Installing {name} by apt-get …", flush=True)
        for command in (
            ["apt-get", "update"],
            ["apt-get", "install", "-y", "--no-install-recommends", package],
        ):
            environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False
            )
        if find():
            return ""
        return (
            "apt-get could not install it: "
            + (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        )
    return "install it by your system's package manager"


def main() -> None:
    lacking = {
        "agent engine": _install_engine(),
        "Chromium": _install_chromium(),
        "Keycloak": _install_keycloak(),
        "nginx": _install_balancer("nginx", "nginx-light"),
        "HAProxy": _install_balancer("haproxy", "haproxy"),
    }
    for name, reason in lacking.items():
        if reason:
            print(f"!!! No {name}: the tests that need it are skipped ({reason}).", file=sys.stderr)
    if any(lacking.values()) and os.environ.get("REQUIRE_ALL"):
        sys.exit("REQUIRE_ALL is set: nothing may be skipped.")


if __name__ == "__main__":
    main()
