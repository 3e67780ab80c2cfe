"""`manage.py doctor`: each thing that can be wrong, told with what to do."""

import json
import os
import subprocess
import sys
from io import StringIO

import pytest
from django.core.management import call_command

from openhands_site.management.commands import doctor

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def healthy(settings):
    """A test run whose own oddities are put right."""
    settings.DATA_DIR.mkdir(exist_ok=True)
    settings.PUBLIC_URL = "http://127.0.0.1:1"


def found() -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor.run_checks()}


def test_a_sound_installation():
    states = {name: check.state for name, check in found().items()}
    for name in ("Space", "Engine", "git", "tmux"):
        states.pop(name)  # these tell of the machine, not of us

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
        "Debug": "ok",
        "HTTPS": "ok",
        "Process sandbox": "warning",
        "Administrator": "warning",
    }


@pytest.mark.parametrize(
    ("setting", "value", "check", "state", "words"),
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
        ("ALLOW_PROCESS_SANDBOX", False, "Process sandbox", "failed", "agents cannot start"),
        ("ALLOW_PROCESS_SANDBOX", True, "Process sandbox", "warning", "agents are not isolated"),
        ("PUBLIC_URL", "http://site.invalid", "HTTPS", "warning", "without encryption"),
        ("PUBLIC_URL", "http://site.invalid", "Server", "warning", "does not respond"),
    ],
)
def test_what_is_wrong(settings, setting, value, check, state, words):
    setattr(settings, setting, value)

    told = found()[check]

    assert told.state == state
    assert words in told.detail


def test_missing_engine(settings, tmp_path):
    settings.ENGINE_DIR = tmp_path / "engine"

    told = found()["Engine"]

    assert told.state == "failed"
    assert "manage.py install_engine" in told.detail


def test_missing_data_folder(settings, tmp_path):
    settings.DATA_DIR = tmp_path / "absent"

    assert found()["Data folder"].state == "failed"


def test_report_as_json_and_its_exit_code(settings):
    settings.SECRET_KEY = "weak"
    out = StringIO()

    with pytest.raises(SystemExit) as end:
        call_command("doctor", "--json", stdout=out)

    report = json.loads(out.getvalue())
    assert end.value.code == 1
    assert report["ok"] is False
    assert {"name", "state", "detail"} == set(report["checks"][0])


def test_without_settings_it_says_which_one_is_missing(settings, tmp_path):
    bare = {
        "PATH": os.environ["PATH"],
        "DATA_DIR": str(tmp_path),
        "SECRET_KEY": "x",
        "TOKEN_PEPPERS": "y",
    }
    command = [sys.executable, str(settings.BASE_DIR / "manage.py"), "doctor"]

    done = subprocess.run(command, env=bare, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "ENCRYPTION_KEYS is not set" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
