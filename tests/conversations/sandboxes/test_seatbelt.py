"""The seatbelt provider of macOS, as far as it can be tested on another system: its profile, its proxy, its refusal."""

import asyncio
import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from django.conf import settings as site

from conversations.sandboxes.egress.policy import Policy, Profile, write_policy
from conversations.sandboxes.folders import get_folder
from conversations.sandboxes.process import ProcessProvider
from conversations.sandboxes.provider import SandboxImpossible, SandboxSpec, get_provider
from conversations.sandboxes.seatbelt import proxy
from conversations.sandboxes.seatbelt.profile import build_profile
from conversations.sandboxes.seatbelt.provider import PROGRAM, SeatbeltProvider
from tests.waiting import wait_until

provider = get_provider("seatbelt")
on_linux = pytest.mark.skipif(platform.system() == "Darwin", reason="needs another system")


@pytest.fixture
def spec(settings, tmp_path) -> SandboxSpec:
    settings.SANDBOX_DIR = tmp_path / "sandboxes"
    settings.ENGINE_DIR = tmp_path / "engine"
    (settings.ENGINE_DIR / "bin").mkdir(parents=True)
    (settings.ENGINE_DIR / "bin" / "python").symlink_to(sys.executable)
    (settings.ENGINE_DIR / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).parent}\n")
    policy = Policy(Profile.LIST, hosts=("pypi.org",))
    return SandboxSpec(uuid4(), "session", "secret", "http://openhands.internal", policy)


def read_rules(profile: str) -> list[str]:
    """Return the rules of a profile. Fail if its parentheses or quotation marks do not match."""
    depth, quoted, escaped, rules, start = 0, False, False, [], 0
    for position, character in enumerate(profile):
        if quoted:
            quoted, escaped = (character != '"' or escaped), (character == "\\" and not escaped)
        elif character == '"':
            quoted = True
        elif character in "()":
            start = position if character == "(" and depth == 0 else start
            depth += 1 if character == "(" else -1
            assert depth >= 0
            if depth == 0:
                rules.append(" ".join(profile[start : position + 1].split()))
    assert (depth, quoted) == (0, False)
    return rules


def build(**changes) -> str:
    arguments = {
        "writable": [Path("/data/s/project"), Path("/data/s/home")],
        "readable": [Path("/data/engine")],
        "sockets": Path("/data/s/tmux"),
        "engine_port": 20_001,
        "proxy_port": 20_002,
    }
    return build_profile(**(arguments | changes))


class TestProfile:
    def test_denies_by_default_and_writes_only_to_the_sandboxs_folders(self):
        rules = read_rules(build())

        assert rules[:2] == ["(version 1)", "(deny default)"]
        writes = [rule for rule in rules if rule.startswith("(allow file-write*")]
        assert writes == [
            '(allow file-write* (subpath "/data/s/project") (subpath "/data/s/home"))'
        ]

    def test_reads_the_system_the_engine_and_nothing_of_other_users(self):
        [reads] = [
            rule for rule in read_rules(build()) if rule.startswith("(allow file-read* (sub")
        ]
        paths = re.findall(r'\(subpath "([^"]+)"\)', reads)

        assert {"/usr", "/System", "/data/engine", "/data/s/project"} <= set(paths)
        for private in (
            "/",
            "/Users",
            "/private",
            "/private/var",
            "/private/etc",
            "/data",
            "/data/s",
        ):
            assert private not in paths

    def test_network_is_the_engines_port_the_proxy_and_sockets_of_terminals(self):
        network = [rule for rule in read_rules(build()) if "network" in rule]

        assert network == [
            '(allow network-bind network-inbound (local tcp "localhost:20001"))',
            '(allow network-outbound (remote tcp "localhost:20001"))',
            '(allow network-outbound (remote tcp "localhost:20002"))',
            '(allow network-bind network-inbound (local unix-socket (subpath "/data/s/tmux")))',
            '(allow network-outbound (remote unix-socket (subpath "/data/s/tmux")))',
        ]

    def test_path_cannot_add_a_rule(self):
        evil = Path('/data/") (allow default) (literal "\\')

        rules = read_rules(build(readable=[evil]))

        assert "(allow default)" not in rules
        assert len(rules) == len(read_rules(build()))

    @pytest.mark.parametrize("path", ["relative", "/with\nline"])
    def test_path_that_cannot_be_named_is_refused(self, path):
        with pytest.raises(ValueError, match="cannot be named"):
            build(writable=[Path(path)])


class TestProvider:
    def test_describes_itself_as_untested(self):
        isolation = provider.describe()

        assert (isolation.word, isolation.is_isolated) == ("Untested isolation", False)
        assert "never tested" in isolation.meaning
        assert "UNTESTED" in (SeatbeltProvider.__doc__ or "")

    @on_linux
    def test_start_on_linux_is_refused_with_the_provider_to_use(self, spec):
        with pytest.raises(SandboxImpossible, match="needs macOS") as refused:
            provider.start(spec)

        assert "SANDBOX_PROVIDER=bubblewrap" in str(refused.value)
        assert not (site.SANDBOX_DIR / spec.sandbox_id.hex).exists()

    def test_shares_the_process_provider_and_its_handles(self):
        assert isinstance(provider, ProcessProvider)
        assert provider.find(uuid4()) == {}

    def test_confined_engine_runs_under_its_profile_behind_the_proxy(self, spec):
        folder = site.SANDBOX_DIR / spec.sandbox_id.hex
        for name in ("project", "home"):
            (folder / name).mkdir(parents=True)

        confinement = provider.confine(spec, folder, run="r1", port=20_001)

        assert confinement.prefix == [PROGRAM, "-f", str(folder / "seatbelt.sb")]
        text = (folder / "seatbelt.sb").read_text()
        port = int(confinement.environment["HTTPS_PROXY"].rpartition(":")[2])
        assert f'(remote tcp "localhost:{port}")' in text
        assert f'(subpath "{folder / "project"}")' in text
        assert f'(subpath "{folder}")' not in text
        assert json.loads((folder / "policy.json").read_text())["hosts"] == ["pypi.org"]
        engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        try:
            confinement.on_started(psutil.Process(engine.pid))
            answer = request(port, "CONNECT evil.example:443")
            assert b" 403 " in answer.split(b"\r\n")[0]
            handle = {"sandbox": spec.sandbox_id.hex, "dir": str(folder)}
            assert get_folder(handle) == folder
            assert wait_for_reasons(handle) == ["not-listed"]
            provider.set_policy(handle, Policy(Profile.LIST, denied=("evil.example",)))
            time.sleep(1.1)  # the proxy reads a changed policy once a second
            request(port, "CONNECT evil.example:443")
            assert wait_for_reasons(handle, count=2) == ["not-listed", "denied"]
        finally:
            engine.kill()
            engine.wait()
        wait_until(lambda: not is_open(port), "the proxy to end with its engine", seconds=15)


class TestProxy:
    def test_ends_on_sigterm(self, tmp_path):
        write_policy(tmp_path / "policy.json", Policy(Profile.NONE))
        me = psutil.Process()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            descriptor = listener.fileno()
            arguments = (descriptor, me.pid, me.create_time())
            process = subprocess.Popen(
                [sys.executable, "-m", proxy.__name__, *map(str, arguments)],
                cwd=tmp_path,
                env={"PATH": os.defpath, "PYTHONPATH": str(site.BASE_DIR)},
                pass_fds=(descriptor,),
            )
        try:
            assert b" 403 " in request(port, "CONNECT pypi.org:443").split(b"\r\n")[0]
            process.send_signal(signal.SIGTERM)
            assert process.wait(15) == 0
        finally:
            process.kill()
            process.wait()

    async def test_ends_if_the_process_id_belongs_to_another_process(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        write_policy(tmp_path / "policy.json", Policy(Profile.NONE))
        me = psutil.Process()
        listener = socket.create_server(("127.0.0.1", 0))

        async with asyncio.timeout(5):
            await proxy.serve(listener, me.pid, me.create_time() - 60)


def request(port: int, line: str) -> bytes:
    """Send a request to the proxy as soon as it listens and return the head of its answer."""
    deadline = time.monotonic() + 20
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as link:
                link.sendall(f"{line} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                answer = b""
                while b"\r\n\r\n" not in answer and (data := link.recv(4096)):
                    answer += data
                return answer
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, "the proxy does not listen"
            time.sleep(0.1)


def wait_for_reasons(handle: dict[str, str], *, count: int = 1) -> list[str]:
    """Return the reasons of the proxy's decisions as soon as there are ``count``."""

    def read() -> list[str] | None:
        decisions, _ = provider.read_decisions(handle, "")
        return [one["reason"] for one in decisions] if len(decisions) >= count else None

    return wait_until(read, f"{count} decisions", seconds=15) or []


def is_open(port: int) -> bool:
    with socket.socket() as link:
        return link.connect_ex(("127.0.0.1", port)) == 0
