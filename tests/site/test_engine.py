"""The agent engine's environment: its state, the choice of a Python, and an offline installation by the real uv."""

import json
import os
import subprocess
import sys
import threading
import zipfile
from dataclasses import asdict
from pathlib import Path

import pytest

from lib import engine_home, engine_progress, engine_python, engine_state, processes
from lib.engine_progress import Progress
from lib.python_packages import systems
from tests.prepare import ROOT
from tests.waiting import wait_until

PACKAGES = len(engine_state.required_versions())
VERSION = engine_state.required_versions()[engine_state.PACKAGE]


@pytest.fixture
def folder(settings, tmp_path):
    settings.ENGINE_DIR = tmp_path / "engine"
    return settings.ENGINE_DIR


def create_fake_install(folder: Path, version: str = VERSION) -> None:
    """Create the files of an engine that the operator installed, without the files that ``install`` adds."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "agent-server").write_text("#!/bin/sh\n")
    (folder / "bin" / "agent-server").chmod(0o755)
    (folder / f"lib/python3.13/site-packages/openhands_agent_server-{version}.dist-info").mkdir(
        parents=True
    )


def write_program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


class TestStatus:
    def test_absent_folder_is_missing(self, folder):
        assert engine_state.status().state == "missing"

    def test_installation_by_the_operator_is_ready(self, folder):
        create_fake_install(folder)

        assert asdict(engine_state.status()) == {
            "state": "ready",
            "version": VERSION,
            "folder": str(folder),
            "detail": f"Agent engine {VERSION} in {folder}.",
            "progress": None,
        }

    def test_other_version_is_outdated(self, folder):
        create_fake_install(folder, "0.0.1")

        assert engine_state.status().state == "outdated"

    def test_interrupted_installation_is_unfinished(self, folder):
        create_fake_install(folder)
        (folder / engine_state.MARKER).write_text("{}")

        assert engine_state.status().state == "unfinished"

    def test_installation_from_other_constraints_is_outdated(self, folder):
        create_fake_install(folder)
        stamp = {"constraints": "previous", "folder": str(folder)}
        (folder / engine_state.STAMP).write_text(json.dumps(stamp))

        assert engine_state.status().state == "outdated"

    def test_locked_installation_is_installing_until_the_lock_is_released(self, folder):
        create_fake_install(folder)
        (folder / engine_state.MARKER).write_text("{}")

        with processes.acquire_lock(folder.parent / "engine.lock"):
            assert engine_state.status().detail == "The agent engine is being installed."
            engine_progress.write_progress(folder, Progress("fetching", 1, 2, seconds_left=3))
            status = engine_state.status()
        assert status.state == "installing"
        assert status.detail == (
            "The agent engine is being installed: 1 of 2 packages downloaded, about 3 s left."
        )
        assert engine_state.status().state == "unfinished"

    def test_ready_engine_is_ready_while_another_server_checks_it(self, folder):
        create_fake_install(folder)

        with processes.acquire_lock(folder.parent / "engine.lock"):
            assert engine_state.status().is_ready

    def test_planned_installation_is_installing_without_the_progress_of_an_earlier_one(
        self, folder
    ):
        engine_progress.write_progress(folder, Progress("installing", 1, 2))

        plan = engine_state.plan_installation()

        assert engine_state.plan_installation() is None
        assert engine_state.status().detail == "The agent engine is being installed."
        plan.close()
        assert engine_state.status().state == "missing"

    def test_failure_is_reported_until_the_constraints_change(self, folder, monkeypatch):
        engine_progress.write_failure(folder, engine_state.fingerprint(), "No network.")

        status = engine_state.status()
        assert (status.state, status.detail) == ("failed", "No network.")
        monkeypatch.setattr(engine_state, "fingerprint", lambda: "another release")
        assert engine_state.status().state == "missing"


class TestPython:
    @pytest.fixture
    def home(self, settings, tmp_path, monkeypatch):
        """Set an empty PATH and home, as on a machine without Python; return the home folder."""
        settings.ENGINE_PYTHON = ""
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("PYENV_ROOT", raising=False)
        return tmp_path

    @staticmethod
    def write_python(path: Path, version: str) -> Path:
        return write_program(path, f"echo {version}; echo {path}")

    def test_missing_python_is_none(self, home):
        assert engine_python.find_python() is None

    def test_forbidden_download_raises_with_the_command_of_this_system(
        self, home, folder, monkeypatch
    ):
        monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")

        with pytest.raises(engine_python.NoPython) as error:
            engine_python.fetch_python(home / "uv", report=print)

        command = systems.command_for_python((3, 12)) or "pyenv install 3.13"
        assert f"`{command}`" in str(error.value)
        assert "downloads are forbidden by UV_PYTHON_DOWNLOADS" in str(error.value)

    def test_pyenv_shim_that_fails_is_skipped(self, home):
        write_program(
            home / "bin" / "python3.13",
            "echo 'pyenv: python3.13: command not found' >&2; exit 127",
        )
        expected = self.write_python(home / "bin" / "python3.12", "3 12")

        assert engine_python.find_python() == expected

    def test_too_old_python_is_skipped(self, home):
        self.write_python(home / "bin" / "python3", "3 11")

        assert engine_python.find_python() is None

    def test_pyenv_version_outside_the_path_is_used(self, home):
        self.write_python(home / ".pyenv/versions/3.11.7/bin/python", "3 11")
        self.write_python(home / ".pyenv/versions/3.14.0/bin/python", "3 14")
        expected = self.write_python(home / ".pyenv/versions/3.13.0/bin/python", "3 13")

        assert engine_python.find_python() == expected

    def test_python_managed_by_uv_is_used(self, home):
        managed = self.write_python(home / "managed" / "python", "3 12")
        uv = write_program(home / "bin" / "uv", f"echo {managed}")

        assert engine_python.find_python(uv) == managed

    def test_wrong_engine_python_raises_although_another_python_exists(self, home, settings):
        self.write_python(home / "bin" / "python3.13", "3 13")
        settings.ENGINE_PYTHON = "/nowhere/python"

        with pytest.raises(engine_python.NoPython, match=r"OH_ENGINE_PYTHON .* is /nowhere/python"):
            engine_python.find_python()


class TestInstall:
    @pytest.fixture
    def constraints(self, folder, settings, tmp_path, monkeypatch):
        """Build a tiny engine and its one dependency, the only packages that pip finds; return the constraints."""
        wheels = tmp_path / "wheels"
        wheels.mkdir()
        self.build_wheel(
            wheels,
            "openhands_agent_server",
            "1.0",
            "[console_scripts]\nagent-server = json:dumps\n",
        )
        self.build_wheel(wheels, "something_else", "2.0", "")
        constraints = tmp_path / "constraints.txt"
        constraints.write_text("something-else==2.0\nopenhands-agent-server==1.0\n")
        for module in (engine_home, engine_state):
            monkeypatch.setattr(module, "CONSTRAINTS", constraints)
        monkeypatch.setattr(engine_python, "OLDEST_PYTHON", (3, 11))
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
        settings.ENGINE_PYTHON = sys.executable
        return constraints

    @staticmethod
    def build_wheel(wheels: Path, name: str, version: str, entry_points: str) -> None:
        info = f"{name}-{version}.dist-info"
        files = {
            f"{name}.py": "",
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/entry_points.txt": entry_points,
        }
        with zipfile.ZipFile(wheels / f"{name}-{version}-py3-none-any.whl", "w") as archive:
            for path, text in files.items():
                archive.writestr(path, text)
            archive.writestr(
                f"{info}/RECORD", "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
            )

    def test_install_skips_a_ready_engine_repairs_an_unfinished_one_and_detects_changed_constraints(
        self, folder, constraints
    ):
        messages = []
        assert engine_home.install(progress=messages.append).is_ready
        assert (folder / "bin" / "agent-server").exists()
        own = [str(folder / "bin" / "python"), "-c", "import something_else"]
        assert subprocess.run(own, check=False).returncode == 0

        stamp = (folder / engine_state.STAMP).stat().st_mtime_ns
        engine_home.install()
        assert (folder / engine_state.STAMP).stat().st_mtime_ns == stamp, (
            "a ready engine was installed again"
        )

        (folder / engine_state.STAMP).unlink()
        (folder / engine_state.MARKER).write_text("{}")
        assert engine_state.status().state == "unfinished"
        assert engine_home.install().is_ready

        constraints.write_text(constraints.read_text() + "# changed\n")
        assert engine_state.status().state == "outdated"

    def test_missing_package_raises_with_the_path_of_the_log(self, folder, constraints):
        constraints.write_text("absent==1\nopenhands-agent-server==1.0\n")

        with pytest.raises(
            engine_home.InstallFailed,
            match=r"could not be installed: .*absent==1.* See the log in .*engine\.log",
        ):
            engine_home.install()
        assert engine_state.status().state == "failed"
        assert "absent==1" in engine_state.status().detail

        constraints.write_text("something-else==2.0\nopenhands-agent-server==1.0\n")
        assert engine_state.status().state == "unfinished"

    def test_full_disk_is_named_with_the_space_that_is_needed(
        self, folder, constraints, settings, tmp_path
    ):
        error = "OSError: [Errno 28] No space left on device: 'lib'"
        settings.ENGINE_PYTHON = str(
            self.write_python(tmp_path / "python", f'echo "{error}"; exit 1')
        )

        with pytest.raises(
            engine_home.InstallFailed, match=r"a disk is full\. It needs about 1200 MB"
        ):
            engine_home.install()
        assert engine_state.status().state == "failed"

    @pytest.mark.slow
    def test_second_server_installs_after_the_first_was_killed(self, folder, constraints, tmp_path):
        begun = tmp_path / "begun"
        python = self.write_python(tmp_path / "python", f"touch {begun}; exec sleep 60")
        first = subprocess.Popen(
            [sys.executable, str(ROOT / "manage.py"), "install_engine"],
            env=os.environ | {"ENGINE_DIR": str(folder), "OH_ENGINE_PYTHON": str(python)},
            stdout=subprocess.DEVNULL,
        )
        wait_until(begun.exists, "the first installation to begin", seconds=60)
        assert engine_state.status().is_installing
        threading.Timer(1.5, first.kill).start()
        messages = []

        assert engine_home.install(progress=messages.append).is_ready

        first.wait()
        assert any(message.total == PACKAGES for message in messages), (
            "the progress of the other process is not shown"
        )
        assert messages[-1].total == 2
        assert not (folder.parent / "engine.progress.json").exists()

    @staticmethod
    def write_python(path: Path, creating: str) -> Path:
        """Write a suitable Python that runs ``creating`` instead of creating a virtual environment."""
        return write_program(
            path, f'case "$*" in *"-m venv"*) {creating};; *) echo 3 13; echo {path};; esac'
        )

    def test_folder_with_other_files_is_not_changed(self, folder, constraints):
        folder.mkdir()
        (folder / "thesis.txt").write_text("precious")

        with pytest.raises(engine_home.InstallFailed, match="contains other files"):
            engine_home.install()
        assert (folder / "thesis.txt").read_text() == "precious"
