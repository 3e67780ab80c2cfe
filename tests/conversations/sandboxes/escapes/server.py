# ruff: noqa: PTH115, PTH116
"""The server's side of the attempts: it starts sandboxes, lets their agents run the attempts, and checks the effects.

It runs in a world (``world.py``) as the server's user: ``python -m ….server FOLDER [NAME…]``.
"""

import base64
import contextlib
import ctypes
import http.client
import io
import json
import os
import pty
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

ENGINE_DIR = os.environ.get("ENGINE_DIR", "")
REDIS_PORT, DATABASE_PORT, OTHER_PORT = 6_379, 5_432, 8_090
KEY_PREFIX = "session-key-"
VICTIM = """
import ctypes, json, os, sys, time
secret = sys.stdin.readline().strip().encode()
memory = ctypes.create_string_buffer(secret, 200)
file = open(sys.argv[2])
facts = {"pid": os.getpid(), "address": ctypes.addressof(memory), "fd": file.fileno()}
print(json.dumps(facts), flush=True)
while True: time.sleep(60)
"""
FRESH = {"replace_project", "replace_engine_log"}
"""The attempts after whose success the sandbox is replaced by a new one."""


class Site:
    """The server: its data folder, its services, and a process that stands for it."""

    def __init__(self, folder: Path, secrets: dict[str, str]) -> None:
        from tests.conversations.sandboxes.escapes import world

        self.folder, self.secrets = folder, secrets
        for name in (
            "server_env",
            "database",
            "redis",
            "open_file",
            "command_line",
            "environ",
            "memory",
            "key",
            "terminal",
        ):
            secrets[name] = world.make_secret(name)
        self.data = folder / "data"
        self.data.mkdir(mode=0o700)
        env = f"SECRET_KEY=x\nENCRYPTION_KEYS={secrets['server_env']}\n"
        (self.data / "server.env").write_text(env)
        (self.data / "server.env").chmod(0o600)
        (self.data / "backups").mkdir(mode=0o700)
        (self.data / "backups" / "server.env").write_text(env)
        (self.data / "open.txt").write_text(secrets["open_file"])
        self.start_services()
        self.start_victim()
        self.add_key()
        self.terminal, side = pty.openpty()
        self.terminal_path = os.ttyname(side)
        self.spare_mount, self.read_only = str(self.data / "spare"), str(self.data / "read-only")
        for path in (self.spare_mount, self.read_only):
            Path(path).mkdir()
            if os.geteuid() == 0:
                world.mount("--bind", path, path)
                world.mount("-o", "remount,bind,ro", path)
        os.chdir(self.data)

    def start_services(self) -> None:
        import psycopg
        import redis

        from openhands_site.operating import embedded

        self.services = embedded.start(self.data, durable=False)
        self.sockets = self.services._sockets
        with psycopg.connect(self.services.superuser_url, autocommit=True) as connection:
            connection.execute("CREATE TABLE escape_secret (text text)")
            connection.execute("INSERT INTO escape_secret VALUES (%s)", [self.secrets["database"]])
            connection.execute("CHECKPOINT")
        with redis.Redis.from_url(self.services.redis_url) as client:
            client.set("escape-secret", self.secrets["redis"])
        # An installation may have services that listen on TCP.
        forward(DATABASE_PORT, f"{self.sockets}/.s.PGSQL.5432")
        forward(REDIS_PORT, f"{self.sockets}/redis.sock")

    def start_victim(self) -> None:
        """Start a process that stands for the server, with secrets in its memory, environment and command line."""
        self.victim = subprocess.Popen(
            [
                sys.executable,
                "-c",
                VICTIM,
                self.secrets["command_line"],
                str(self.data / "open.txt"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"ESCAPE": self.secrets["environ"]},
        )
        assert self.victim.stdin
        assert self.victim.stdout
        self.victim.stdin.write(self.secrets["memory"].encode() + b"\n")
        self.victim.stdin.flush()
        self.victim_facts = json.loads(self.victim.stdout.readline())

    def add_key(self) -> None:
        """Put a key into the session's keyring and the user's keyring, as a login or a Kerberos client does."""
        libc = ctypes.CDLL(None)
        libc.syscall(250, 1, None)  # KEYCTL_JOIN_SESSION_KEYRING
        value = self.secrets["key"].encode()
        for ring in (-4, -3):
            self.key = libc.syscall(248, b"user", b"escape-key", value, len(value), ring)

    def type_secret(self) -> None:
        os.write(self.terminal, self.secrets["terminal"].encode() + b"\n")


def forward(port: int, path: str) -> None:
    """Forward a TCP port of the loopback interface to a Unix socket."""
    from tests.conversations.sandboxes.escapes.world import run_thread

    listener = socket.create_server(("127.0.0.1", port))

    def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def serve() -> None:
        while True:
            client, _ = listener.accept()
            inner = socket.socket(socket.AF_UNIX)
            inner.connect(path)
            run_thread(lambda a=client, b=inner: copy(a, b))  # type: ignore[misc]
            run_thread(lambda a=client, b=inner: copy(b, a))  # type: ignore[misc]

    run_thread(serve)


class Box:
    """A sandbox of a provider, and its agent's shell."""

    def __init__(self, provider_name: str, policy: Any = None) -> None:
        from conversations.sandboxes.egress.policy import Policy, Profile
        from conversations.sandboxes.provider import SandboxSpec, State, get_provider
        from tests.conversations.sandboxes.escapes import world

        self.provider, self.provider_name = get_provider(provider_name), provider_name
        self.key = KEY_PREFIX + os.urandom(8).hex()
        policy = policy or Policy(Profile.PUBLIC, gateway=f"http://127.0.0.1:{world.GATEWAY_PORT}")
        self.spec = SandboxSpec(uuid4(), self.key, "s" * 40, self.provider.gateway_url(), policy)
        self.handle = self.provider.start(self.spec)
        deadline = time.monotonic() + 240  # the machine may be busy
        while (seen := self.provider.inspect(self.handle)).state is State.STARTING:
            if time.monotonic() > deadline:
                raise TimeoutError("the sandbox does not start")
            time.sleep(0.05)
        if seen.state is not State.RUNNING:
            raise RuntimeError(f"the sandbox did not start: {seen}")
        self.workspace, self.folder = seen.workspace, Path(self.handle["dir"])

    def request(self, method: str, path: str, body: Any = None, timeout: float = 60) -> Any:
        connection = http.client.HTTPConnection("engine")
        connection.sock = self.provider.dial(self.handle)
        connection.sock.settimeout(timeout)
        headers = {"X-Session-API-Key": self.key, "Content-Type": "application/json"}
        connection.request(method, path, body and json.dumps(body), headers)
        return json.loads(connection.getresponse().read())

    def run(self, command: str, timeout: int = 20) -> str:
        """Run a command by the shell that the agent's tool uses. Return its output."""
        body = {"command": command, "cwd": self.workspace, "timeout": timeout}
        answer = self.request("POST", "/api/bash/execute_bash_command", body, timeout + 10)
        return (answer.get("stdout") or "") + (answer.get("stderr") or "")

    def install(self, hints: dict[str, Any]) -> None:
        """Put the attempts and the hints into the workspace."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            folder = Path(__file__).with_name("attempts")
            for path in folder.glob("*.py"):
                tar.add(path, f".escape/attempts/{path.name}")
        text = base64.b64encode(packed.getvalue()).decode()
        self.run(f"echo {text} | base64 -d | tar xz --no-same-owner")
        self.write_hints(hints)

    def write_hints(self, hints: dict[str, Any]) -> None:
        self.run(f"printf %s {shlex.quote(json.dumps(hints))} > .escape/hints.json")

    def attempt_all(self, names: list[str]) -> dict[str, str]:
        """Let the agent run attempts in one command. Return the output of each."""
        program = "timeout -s KILL 30 python3 .escape/attempts/agent.py $name .escape/hints.json"
        output = self.run(
            f'for name in {" ".join(names)}; do echo "@@@ $name"; {program} 2>&1; done', 300
        )
        parts = (part.partition("\n") for part in output.split("@@@ ")[1:])
        return {name: text.strip() for name, _, text in parts}

    def is_running(self) -> bool:
        from conversations.sandboxes.provider import State

        return self.provider.inspect(self.handle).state is State.RUNNING

    def is_running_fast(self) -> bool:
        """Return whether the keeper lives, without asking the engine."""
        from lib.processes import is_locked

        return is_locked(self.folder / "keeper.lock")

    def destroy(self) -> None:
        self.provider.destroy(self.handle)


class Trial:
    """All attempts from the sandboxes of one provider."""

    def __init__(self, site: Site, provider_name: str) -> None:
        self.site, self.name = site, provider_name
        self.secrets = dict(site.secrets)
        self.box = self.prepare_other()

    def prepare_other(self) -> Box:
        from tests.conversations.sandboxes.escapes import world

        for name in (
            "other_file",
            "other_port",
            "other_environ",
            "other_command_line",
            "other_memory",
        ):
            self.secrets[name] = world.make_secret(name)
        self.other = Box(self.name)
        self.secrets["other_session_key"] = self.other.key
        secrets = self.secrets
        self.other.run(
            f"printf %s {secrets['other_file']} > secret.txt; mkdir web; printf %s {secrets['other_port']} > web/index.html"
        )
        self.other.run(
            f"cd web && (setsid python3 -m http.server {OTHER_PORT} --bind 127.0.0.1 >/dev/null 2>&1 &)"
        )
        self.start_other_victim()
        return self.start_box()

    def start_other_victim(self) -> None:
        import psutil

        secret = self.secrets["other_command_line"]
        program = shlex.quote(VICTIM)
        self.other.run(
            f"(echo {self.secrets['other_memory']}; sleep 3600) | ESCAPE={self.secrets['other_environ']} "
            f"setsid python3 -c {program} {secret} secret.txt > victim.json 2>&1 & sleep 0.5"
        )
        self.other_facts = json.loads((self.other.folder / "project" / "victim.json").read_text())
        self.other_host_pid = next(
            process.pid
            for process in psutil.process_iter(["cmdline"])
            if secret in (process.info["cmdline"] or []) and "python" in process.info["cmdline"][0]
        )

    def start_box(self) -> Box:
        box = Box(self.name)
        if self.name == "process":
            # The process provider has no such files. The control shows that an agent could reach them.
            for name in ("policy.json", "keeper.json", "egress.log"):
                (box.folder / name).write_text("{}")
            from tests.conversations.sandboxes.escapes import world

            descriptor = os.open(box.folder, os.O_PATH)
            world.serve_stream(f"/proc/self/fd/{descriptor}/in.sock", b"OK\n")
        self.secrets["session_key"] = box.key
        self.is_spoilt = False
        self.box = box
        box.install(self.hints())
        return box

    def hints(self) -> dict[str, Any]:
        from django.conf import settings

        from conversations.sandboxes.bubblewrap import mounts
        from tests.conversations.sandboxes.escapes import world

        site, victim = self.site, self.site.victim_facts
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        disk = next(
            path for line in lines if (path := line.split(" - ")[1].split()[1]).startswith("/dev/")
        )
        number = os.stat(disk).st_rdev
        return {
            "server_env": str(site.data / "server.env"),
            "data_dir": str(site.data),
            "followed": str(site.data / "backups"),
            "server_pid": os.getpid(),
            "victim": victim["pid"],
            "victim_address": victim["address"],
            "victim_fd": victim["fd"],
            "starter": self.box.handle["pid"] if self.name != "process" else victim["pid"],
            "engine": self.box.handle["pid"] if self.name == "process" else 0,
            "watcher": 1 if self.name != "process" else victim["pid"],
            "other_folder": str(self.other.folder),
            "other_workspace": self.other.workspace,
            "other_pids": [self.other_host_pid, self.other_facts["pid"]],
            "other_victim": self.other_host_pid,
            "other_victim_address": self.other_facts["address"],
            "other_port": OTHER_PORT,
            "own_folder": str(self.box.folder),
            "engine_dir": str(settings.ENGINE_DIR),
            "python_dir": str(mounts.find_python_folders(settings.ENGINE_DIR)[0]),
            "relay": str(site.folder / "relay-copy.py"),
            "sockets_dir": str(site.sockets),
            "redis_port": REDIS_PORT,
            "abstract": world.ABSTRACT,
            "host_port": world.HOST_PORT,
            "udp_port": world.UDP_PORT,
            "public": world.PUBLIC,
            "private": world.PRIVATE,
            "private_name": "private.test",
            "metadata_name": "metadata.test",
            "internet": world.INTERNET[0],
            "net_namespace": os.readlink("/proc/self/ns/net"),
            "disk": [os.major(number), os.minor(number)],
            "disk_path": disk,
            "key": self.site.key,
            "key_prefix": KEY_PREFIX,
            "terminal": site.terminal_path,
            "spare_mount": site.spare_mount,
            "read_only": site.read_only,
        }

    def run(self, names: list[str]) -> dict[str, dict[str, Any]]:
        from tests.conversations.sandboxes.escapes.catalog_view import ATTEMPTS

        chosen = [item for name, item in ATTEMPTS.items() if not names or name in names]
        self.site.type_secret()
        self.rows: dict[str, dict[str, Any]] = {}
        # Those without a check leave nothing to repair, so one command runs them all.
        together = [item for item in chosen if not item.check]
        outputs = self.box.attempt_all([item.name for item in together])
        for item in together:
            self.judge(item, outputs.get(item.name, "NO ANSWER"))
        for item in chosen:
            if item.check:
                if self.is_spoilt:
                    with contextlib.suppress(Exception):
                        self.box.destroy()
                    self.start_box()
                self.note_state()
                try:
                    output = self.box.attempt_all([item.name])[item.name]
                except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                    output = f"NO ANSWER {error!r}"
                self.judge(item, output)
                self.restore(item.name)
        for box in (self.box, self.other):
            try:
                box.destroy()
            except Exception as error:  # noqa: BLE001 - shown, because it is a finding
                print(f"{self.name}: destroy failed: {error}", file=sys.stderr, flush=True)
        return {item.name: self.rows[item.name] for item in chosen}

    def judge(self, item: Any, output: str) -> None:
        """Decide whether an attempt succeeded, and record it."""
        has_effect = output.startswith("GOT ")
        if item.proof:
            has_effect = has_effect and any(secret in output for secret in self.secrets.values())
        if item.check:
            try:
                has_effect = self.check(item.check, output)
            except Exception as error:  # noqa: BLE001 - shown in the table
                has_effect, output = False, f"{output} (check: {error!r})"
        self.rows[item.name] = {"succeeded": bool(has_effect), "output": output[:400]}
        word = "SUCCEEDED" if has_effect else "refused"
        print(f"{self.name:12}{item.name:30}{word:11}{output[:110]!r}", file=sys.stderr, flush=True)

    def restore(self, name: str) -> None:
        """Repair what an attempt destroyed, so that the next one starts from the same state."""
        site = self.site
        changed = False
        if site.victim.poll() is not None or self.is_victim_changed():
            site.victim.kill()
            site.victim.wait()
            site.start_victim()
            changed = True
        if not Path(f"/proc/{self.other_host_pid}").exists():
            self.start_other_victim()
            changed = True
        self.is_spoilt = (
            name in FRESH and self.rows[name]["succeeded"]
        ) or not self.box.is_running()
        if changed and not self.is_spoilt:
            self.box.write_hints(self.hints())

    def is_victim_changed(self) -> bool:
        import psutil

        process = psutil.Process(self.site.victim.pid)
        return (
            process.status() == psutil.STATUS_STOPPED
            or process.nice() != self.nice
            or process.rlimit(psutil.RLIMIT_NOFILE) == (77, 77)
        )

    # --- Checks: did it have an effect on the host? -----------------------------------

    def note_state(self) -> None:
        import psutil

        self.nice = psutil.Process(self.site.victim.pid).nice()
        self.before = {
            path.name: path.read_bytes()
            for path in self.box.folder.glob("*.[jl]*")
            if path.is_file()
        }
        relay = self.site.folder / "relay-copy.py"
        from conversations.sandboxes.bubblewrap.mounts import INSIDE

        shutil.copy(INSIDE / "relay.py", relay)
        self.relay = (INSIDE / "relay.py").read_bytes(), relay.read_bytes()

    def check(self, name: str, output: str) -> bool:
        method = {
            "other_written": self.other_was_written,
            "relay_changed": self.relay_was_changed,
            "setuid_file": self.made_setuid,
            "root_file": lambda: os.lstat(self.box.folder / "project/for-root").st_uid == 0,
            "capable_file": self.made_capable,
            "forked": self.fork_followed,
            "log_followed": self.log_was_followed,
            "git_ran": self.git_ran,
            "victim_killed": lambda: self.waits(lambda: self.site.victim.poll() is not None),
            "victim_stopped": self.is_victim_changed,
            "victim_limited": self.is_victim_changed,
            "victim_niced": self.is_victim_changed,
            "starter_killed": self.starter_was_killed,
            "watcher_killed": self.starter_was_killed,
            "other_killed": lambda: self.waits(
                lambda: not Path(f"/proc/{self.other_host_pid}").exists()
            ),
            "engine_killed": lambda: self.waits(lambda: not self.box.is_running()),
        }.get(name)
        if method is None:  # the name of a file
            text = (self.box.folder / name).read_text()
            return " intruder " in text
        return bool(method())

    def waits(self, condition: Any) -> bool:
        deadline = time.monotonic() + 2
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def other_was_written(self) -> bool:
        return (self.other.folder / "project/intruder.txt").exists()

    def relay_was_changed(self) -> bool:
        from conversations.sandboxes.bubblewrap.mounts import INSIDE

        return (
            (INSIDE / "relay.py").read_bytes(),
            (self.site.folder / "relay-copy.py").read_bytes(),
        ) != self.relay

    def made_setuid(self) -> bool:
        """Return whether a program runs as another user for the host's other users: they can reach it, or it is root's."""
        path = self.box.folder / "project/setuid-id"
        status = path.lstat()
        if not status.st_mode & stat.S_ISUID:
            return False
        is_reachable = all(
            folder.stat().st_mode & stat.S_IXOTH for folder in path.parents if folder != Path("/")
        )
        return status.st_uid == 0 or is_reachable

    def made_capable(self) -> bool:
        path = self.box.folder / "project/capable-id"
        value = os.getxattr(path, "security.capability")
        root = int.from_bytes(value[20:24], "little") if len(value) >= 24 else 0
        return root == 0

    def fork_followed(self) -> bool:
        target = self.other.folder / "project"
        with contextlib.suppress(Exception):
            self.box.provider.copy_workspace(self.box.handle, self.other.handle)
        secret = self.secrets["server_env"]
        found = [
            p
            for p in target.rglob("server.env")
            if not p.parent.is_symlink() and secret in p.read_text()
        ]
        for path in found:
            path.unlink()
        (target / "data-link").unlink(missing_ok=True)
        return bool(found)

    def log_was_followed(self) -> bool:
        import psutil

        for process in psutil.process_iter(["cmdline", "environ"]):
            command = process.info["cmdline"] or []
            sandbox = (process.info["environ"] or {}).get("OH_SANDBOX_ID")
            if "openhands.agent_server" in command and sandbox == self.box.handle["sandbox"]:
                process.send_signal(signal.SIGABRT)
        self.waits(lambda: not self.box.is_running())
        time.sleep(0.3)
        detail = self.box.provider.inspect(self.box.handle).detail
        print("   detail:", detail, file=sys.stderr)
        return self.secrets["server_env"] in detail

    def git_ran(self) -> bool:
        answer = self.box.request("GET", f"/api/git/changes?path={self.box.workspace}/trap")
        stolen = self.box.folder / "project/trap/stolen"
        print(
            "   changes:",
            str(answer)[:200],
            "stolen:",
            stolen.exists() and stolen.read_text()[:80],
            file=sys.stderr,
        )
        return stolen.exists() and self.secrets["server_env"] in stolen.read_text()

    def starter_was_killed(self) -> bool:
        if self.name == "process":
            return self.waits(lambda: self.site.victim.poll() is not None)
        return self.waits(lambda: not self.box.is_running())


def set_up(folder: Path) -> None:
    """Configure Django for a server in this folder."""
    from tests.conversations.sandboxes.escapes.world import GATEWAY_PORT

    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "tests.check_settings",
        "DATA_DIR": str(folder / "data"),
        "SANDBOX_DIR": str(folder / "data" / "sandboxes"),
        "ENGINE_DIR": ENGINE_DIR,
        "ALLOW_PROCESS_SANDBOX": "true",
        "GATEWAY_URL": f"http://127.0.0.1:{GATEWAY_PORT}",
    }
    import django

    django.setup()


def main(folder_name: str, *names: str) -> None:
    folder = Path(folder_name)
    secrets = cast("dict[str, str]", json.load(sys.stdin)) | {"internet": "escape-secret-internet"}
    began = time.monotonic()
    set_up(folder)
    site = Site(folder, secrets)
    try:
        rows = {}
        for provider in ("process", "bubblewrap"):
            rows[provider] = Trial(site, provider).run(list(names))
    finally:
        site.services.stop()
    result = {"uid": os.geteuid(), "seconds": time.monotonic() - began, "rows": rows}
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
