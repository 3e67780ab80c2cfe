"""A conversation whose workspace is a folder of the test, behind one real engine for all tests of this package."""

import os
import secrets
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from django.conf import settings

from conversations import services
from conversations.engine import workspace as engine_workspace
from conversations.models import Conversation, Lease, Sandbox
from conversations.sandboxes import provider as providers
from conversations.sandboxes.provider import Handle, SandboxSpec, State, get_provider
from tests.fakes.agent_server import FakeProvider
from tests.fakes.engine import require_engine
from tests.waiting import wait_until

GIT = ("git", "-c", "user.name=T", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false")


@dataclass
class RealEngine:
    """A running engine of the provider ``process``."""

    spec: SandboxSpec
    handle: Handle

    def dial(self) -> socket.socket:
        return get_provider("process").dial(self.handle)


@pytest.fixture(scope="session")
def real_engine() -> Iterator[RealEngine]:
    require_engine()
    process = get_provider("process")
    spec = SandboxSpec(uuid4(), secrets.token_hex(16), secrets.token_hex(16), settings.GATEWAY_URL)
    handle = process.start(spec)
    try:
        wait_until(
            lambda: process.inspect(handle).state == State.RUNNING, "the engine", seconds=150
        )
        yield RealEngine(spec, handle)
    finally:
        process.destroy(process.find(spec.sandbox_id) or handle)


@dataclass
class Box:
    """A workspace with its conversation, and the client of its owner."""

    conversation: Conversation
    folder: Path
    api: Any

    def url(self, name: str, **query: str) -> str:
        text = "&".join(f"{key}={quote(value, safe='')}" for key, value in query.items())
        return f"/api/v1/conversations/{self.conversation.pk}/{name}" + (text and f"?{text}")

    def v0_url(self, name: str, **query: str) -> str:
        text = "&".join(f"{key}={quote(value, safe='')}" for key, value in query.items())
        return f"/api/conversations/{self.conversation.pk.hex}/{name}" + (text and f"?{text}")

    def get(self, name: str, **query: str) -> Any:
        return self.api.get(self.url(name, **query))

    def write(self, name: str | bytes, content: bytes | str = b"x") -> Path:
        path = Path(bytes(self.folder).decode()) / (
            name if isinstance(name, str) else name.decode(errors="surrogateescape")
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def git(self, *arguments: str, cwd: str = ".") -> str:
        done = subprocess.run(
            [*GIT, *arguments], cwd=self.folder / cwd, capture_output=True, text=True, check=True
        )
        return done.stdout

    def commit(self, *, cwd: str = ".") -> None:
        """Create a repository if there is none, and commit everything."""
        self.git("init", "--quiet", "--initial-branch=main", cwd=cwd)
        self.git("add", "--all", cwd=cwd)
        self.git("commit", "--quiet", "--allow-empty", "--message=A commit", cwd=cwd)

    def changes(self) -> dict[str, str]:
        """Return the changes as REST lists them: a dict from path to status."""
        response = self.get("git/changes")
        assert response.status_code == 200, response.content
        return {item["path"]: item["status"] for item in response.json()["items"]}

    def diff(self, path: str) -> dict[str, Any]:
        response = self.get("git/diff", path=path)
        assert response.status_code == 200, response.content
        return response.json()


def run_without_power(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands in the sandbox respect permissions, also if the tests run as root."""
    if os.geteuid() != 0:
        return
    if not shutil.which("setpriv"):
        pytest.skip("needs setpriv, because root may read every file")
    real = engine_workspace.build_command
    drop = "setpriv --bounding-set=-dac_override,-dac_read_search sh -c "
    monkeypatch.setattr(
        engine_workspace, "build_command", lambda *call: drop + shlex.quote(real(*call))
    )


@pytest.fixture
def box(conversation, real_engine, engine, api, tmp_path, monkeypatch) -> Box:
    """Return a running conversation whose workspace is an empty folder."""
    fake = FakeProvider(engine)
    monkeypatch.setitem(providers._instances, "process", fake)
    services.start_conversation(conversation_id=conversation.pk)
    Lease.objects.filter(conversation=conversation).update(owner="m", generation=1, following_run=1)
    conversation.refresh_from_db()
    assert conversation.status == "running", conversation.status_detail
    folder = tmp_path / "project"
    folder.mkdir()
    sandbox = Sandbox.objects.get(conversation=conversation)
    sandbox.set_keys(session=real_engine.spec.session_key, secret=real_engine.spec.secret_key)
    sandbox.workspace = str(folder)
    sandbox.handle = real_engine.handle
    sandbox.save()
    monkeypatch.delitem(providers._instances, "process")
    return Box(conversation, folder, api)
