"""A real Keycloak with an embedded database and the realm of ``tests/keycloak/realm.json``."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import httpx2

from tests import prepare

REALM = Path(__file__).resolve().parent.parent / "keycloak" / "realm.json"
ADMIN = "admin"
START_SECONDS = 300


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(home: Path, port: int) -> "subprocess.Popen[bytes]":
    environment = os.environ | {
        "KC_BOOTSTRAP_ADMIN_USERNAME": ADMIN,
        "KC_BOOTSTRAP_ADMIN_PASSWORD": ADMIN,
        "JAVA_OPTS_APPEND": "-Xmx512m",
    }
    command = [
        home / "bin" / "kc.sh",
        "start-dev",
        "--import-realm",
        "--http-host",
        "127.0.0.1",
        "--http-port",
        str(port),
    ]
    with (home / "log").open("wb") as log:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait(process: "subprocess.Popen[bytes]", url: str, home: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            if httpx2.get(url, timeout=5, trust_env=False).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        if time.monotonic() > deadline or process.poll() is not None:
            raise RuntimeError("Keycloak did not start:\n" + (home / "log").read_text()[-2_000:])
        time.sleep(0.5)


def warm_up(home: Path) -> None:
    """Start an unpacked Keycloak once, so that it builds itself and an empty database. Every test copies both."""
    port = free_port()
    process = start(home, port)
    try:
        wait(
            process, f"http://127.0.0.1:{port}/realms/master/.well-known/openid-configuration", home
        )
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class Keycloak:
    """A Keycloak server whose client redirects to ``app_url``. Use it as a context manager."""

    client_id, client_secret = "agent-server", "a-secret-of-the-tests"
    access_seconds = 4
    is_real = True

    def __init__(self, *, app_url: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.issuer = f"{self.url}/realms/agents"
        self._app_url = app_url
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="oh-keycloak-"))

    def __enter__(self) -> Self:
        home = prepare.keycloak_dir()
        # Keycloak only reads its program files, so they are linked. It writes into ``data``, so that is copied.
        for name in ("bin", "conf", "lib", "providers", "themes", "data"):
            if (home / name).exists():
                copy = shutil.copy2 if name == "data" else _link
                shutil.copytree(home / name, self._folder / name, copy_function=copy)
        (self._folder / "data" / "import").mkdir(parents=True, exist_ok=True)
        realm = REALM.read_text().replace("APP_URL", self._app_url)
        (self._folder / "data" / "import" / "agents-realm.json").write_text(realm)
        self._process = start(self._folder, self.port)
        try:
            wait(self._process, f"{self.issuer}/.well-known/openid-configuration", self._folder)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        if self._process:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    # --- Actions of an administrator

    def _admin(self, method: str, path: str, **request: Any) -> Any:
        form = {
            "grant_type": "password",
            "client_id": "admin-cli",
            "username": ADMIN,
            "password": ADMIN,
        }
        token = httpx2.post(
            f"{self.url}/realms/master/protocol/openid-connect/token", data=form, trust_env=False
        ).json()
        answer = httpx2.request(
            method,
            f"{self.url}/admin/realms/agents/{path}",
            trust_env=False,
            headers={"Authorization": f"Bearer {token['access_token']}"},
            timeout=20,
            **request,
        )
        assert answer.status_code < 300, answer.text
        return answer.json() if answer.content else None

    def _id_of(self, name: str) -> str:
        return self._admin("GET", f"users?exact=true&username={name}")[0]["id"]

    def set_enabled(self, name: str, *, enabled: bool) -> None:
        self._admin("PUT", f"users/{self._id_of(name)}", json={"enabled": enabled})

    def end_sessions(self, name: str) -> None:
        """End all sessions of a user. Keycloak then notifies its clients by back-channel logout."""
        self._admin("POST", f"users/{self._id_of(name)}/logout")

    def access_token_of(self, name: str) -> str:
        """Return the access token that a command-line client gets for a user."""
        form = {
            "grant_type": "password",
            "client_id": "cli",
            "username": name,
            "password": f"{name}-password",
            "scope": "openid",
        }
        return httpx2.post(
            f"{self.issuer}/protocol/openid-connect/token", data=form, trust_env=False
        ).json()["access_token"]

    def session_count(self, name: str) -> int:
        return len(self._admin("GET", f"users/{self._id_of(name)}/sessions"))


def _link(source: str, target: str) -> str:
    """Link a file, or copy it with its mode if the target is on another file system. Return the target."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
