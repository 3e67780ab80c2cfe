"""`python -m tests.prepare`: install the programs that tests need: the engine, Chromium, Keycloak, nginx, HAProxy and pasta.

The engine is installed in a cache folder outside the tree, once for each version of its constraints. A program that
cannot be installed is reported; with ``REQUIRE_ALL`` set this is an error.
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
    """Return ``ENGINE_DIR``, or a folder in the user's cache whose name contains the hash of the constraints."""
    if folder := os.environ.get("ENGINE_DIR"):
        return Path(folder)
    constraints = (ROOT / "engine" / "agent-server-constraints.txt").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "openhands-site" / f"engine-{hashlib.sha256(constraints).hexdigest()[:12]}"


def chromium() -> str | None:
    """Return the path of the Chromium for browser tests (``CHROMIUM`` if it is set), or None."""
    name = os.environ.get("CHROMIUM", "")
    return shutil.which(name) or next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)


def balancer(name: str) -> str | None:
    """Return the path of ``nginx`` or ``haproxy``, or None. They are often outside the PATH of a user."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def keycloak_dir() -> Path:
    """Return ``KEYCLOAK_DIR``, or a folder in the user's cache whose name contains the version."""
    if folder := os.environ.get("KEYCLOAK_DIR"):
        return Path(folder)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "openhands-site" / f"keycloak-{KEYCLOAK_VERSION}"


def explain_missing_keycloak() -> str:
    """Return why the real Keycloak cannot run, or an empty text."""
    if not (keycloak_dir() / "bin" / "kc.sh").exists():
        return "it is not installed; `python -m tests.prepare` downloads it with Maven"
    return "" if shutil.which("java") else "Java is not installed"


def _install_keycloak() -> str:
    """Install Keycloak; return an empty text, or why it is missing."""
    if not explain_missing_keycloak():
        return ""
    if not shutil.which("java") or not shutil.which("mvn"):
        return "install Java and Maven for it"
    print("Downloading Keycloak …", flush=True)
    home = keycloak_dir()
    home.parent.mkdir(parents=True, exist_ok=True)
    # Outside the project, where Maven would look for a pom.xml. Only a complete folder is moved to ``home``.
    with tempfile.TemporaryDirectory(dir=home.parent) as folder:
        artifact = f"org.keycloak:keycloak-quarkus-dist:{KEYCLOAK_VERSION}:zip"
        command = [
            "mvn",
            "-q",
            "dependency:copy",
            f"-Dartifact={artifact}",
            f"-DoutputDirectory={folder}",
        ]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        zips = list(Path(folder).glob("*.zip"))
        if result.returncode or not zips:
            return (
                "Maven could not download it: "
                + (result.stdout.strip().splitlines() or ["Maven printed no reason"])[0]
            )
        shutil.unpack_archive(zips[0], folder)
        unpacked = Path(folder) / f"keycloak-{KEYCLOAK_VERSION}"
        for script in (unpacked / "bin").glob("*.sh"):
            script.chmod(0o755)  # unpacking loses the permission
        from tests.fakes import keycloak

        keycloak.warm_up(unpacked)
        unpacked.rename(home)
    return explain_missing_keycloak()


def _install_engine() -> str:
    """Install the engine; return an empty text, or why it is missing."""
    placeholders = {
        "SECRET_KEY": "unused",
        "DATABASE_URL": "postgresql://unused/unused",
        "REDIS_URL": "redis://unused",
    }
    placeholders |= dict.fromkeys(("ENCRYPTION_KEYS", "TOKEN_PEPPERS"), "unused:" + "0" * 64)
    environment = os.environ | placeholders | {"ENGINE_DIR": str(engine_dir())}
    command = [sys.executable, str(ROOT / "manage.py"), "install_engine"]
    result = subprocess.run(
        command, env=environment, stderr=subprocess.PIPE, text=True, check=False
    )
    return result.stderr.strip() if result.returncode else ""


def _install_chromium() -> str:
    """Install Chromium; return an empty text, or why it is missing."""
    reason = _install_by_apt("Chromium", "chromium", chromium)
    return f"{reason}, or set CHROMIUM=/path/to/chromium" if reason else ""


def _install_balancer(name: str, package: str) -> str:
    """Install a load balancer; return an empty text, or why it is missing."""
    return _install_by_apt(name, package, lambda: balancer(name))


def _install_by_apt(name: str, package: str, find: Callable[[], str | None]) -> str:
    """Install a package unless ``find`` finds the program; return an empty text, or why it is missing."""
    if find():
        return ""
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"Installing {name} with apt-get …", flush=True)
        for command in (
            ["apt-get", "update"],
            ["apt-get", "install", "-y", "--no-install-recommends", package],
        ):
            environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
            result = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False
            )
        if find():
            return ""
        return (
            "apt-get could not install it: "
            + (result.stderr.strip().splitlines() or ["apt-get printed no reason"])[-1]
        )
    return "install it with the package manager of your system"


def main() -> None:
    missing = {
        "agent engine": _install_engine(),
        "Chromium": _install_chromium(),
        "Keycloak": _install_keycloak(),
        "nginx": _install_balancer("nginx", "nginx-light"),
        "HAProxy": _install_balancer("haproxy", "haproxy"),
        "pasta": _install_by_apt("pasta", "passt", lambda: shutil.which("pasta")),
    }
    for name, reason in missing.items():
        if reason:
            print(f"!!! No {name}: the tests that need it are skipped ({reason}).", file=sys.stderr)
    if any(missing.values()) and os.environ.get("REQUIRE_ALL"):
        sys.exit("REQUIRE_ALL is set, so all programs are required.")


if __name__ == "__main__":
    main()
