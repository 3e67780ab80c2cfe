"""The engine's environment: which Python, which state, and an installation by the real pip, offline."""

import json
import subprocess
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path

import pytest

from lib import engine_home, processes

VERSION = engine_home.required_versions()[engine_home.PACKAGE]


@pytest.fixture
def folder(settings, tmp_path):
    settings.ENGINE_DIR = tmp_path / "engine"
    return settings.ENGINE_DIR


def fake_install(folder: Path, version: str = VERSION) -> None:
    """What an installation by somebody else looks like from outside."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "agent-server").write_text("#!/bin/sh\n")
    (folder / "bin" / "agent-server").chmod(0o755)
    (folder / f"lib/python3.13/site-packages/openhands_agent_server-{version}.dist-info").mkdir(
        parents=True
    )


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


class TestStatus:
    def test_nothing_there(self, folder):
        assert engine_home.status().state == "missing"

    def test_an_installation_of_ones_own_will_do(self, folder):
        fake_install(folder)

        assert asdict(engine_home.status()) == {
            "state": "ready",
            "version": VERSION,
            "folder": str(folder),
            "detail": f"Agent engine {VERSION} in {folder}.",
        }

    def test_another_version(self, folder):
        fake_install(folder, "0.0.1")

        assert engine_home.status().state == "outdated"

    def test_one_that_was_not_finished(self, folder):
        fake_install(folder)
        (folder / engine_home.MARKER).write_text("{}")

        assert engine_home.status().state == "unfinished"

    def test_changed_constraints(self, folder):
        fake_install(folder)
        stamp = {"constraints": "of before", "folder": str(folder)}
        (folder / engine_home.STAMP).write_text(json.dumps(stamp))

        assert engine_home.status().state == "outdated"

    def test_one_that_is_being_installed(self, folder):
        fake_install(folder)

        with processes.acquire_lock(folder.parent / "engine.lock"):
            assert engine_home.status().state == "installing"
        assert engine_home.status().is_ready


class TestPython:
    @pytest.fixture
    def place(self, settings, tmp_path, monkeypatch):
        """A machine without any Python: an empty PATH and home."""
        settings.ENGINE_PYTHON = ""
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("PYENV_ROOT", raising=False)
        return tmp_path

    @staticmethod
    def answering(path: Path, version: str) -> Path:
        return program(path, f"echo {version}; echo {path}")

    def test_none_says_how_to_get_one(self, place):
        with pytest.raises(engine_home.NoPython) as refusal:
            engine_home.find_python()

        for way in (
            "apt install python3.12",
            "uv python install",
            "pyenv install",
            "OH_ENGINE_PYTHON=",
        ):
            assert way in str(refusal.value)

    def test_shims_that_refuse_are_passed_over(self, place):
        program(
            place / "bin" / "python3.13",
            "echo 'pyenv: python3.13: command not found' >&2; exit 127",
        )
        good = self.answering(place / "bin" / "python3.12", "3 12")

        assert engine_home.find_python() == good

    def test_one_that_is_too_old_is_passed_over(self, place):
        self.answering(place / "bin" / "python3", "3 11")

        with pytest.raises(engine_home.NoPython):
            engine_home.find_python()

    def test_versions_of_pyenv_that_are_not_on_the_path(self, place):
        self.answering(place / ".pyenv/versions/3.11.7/bin/python", "3 11")
        self.answering(place / ".pyenv/versions/3.14.0/bin/python", "3 14")
        wanted = self.answering(place / ".pyenv/versions/3.13.0/bin/python", "3 13")

        assert engine_home.find_python() == wanted

    def test_one_that_uv_knows(self, place):
        managed = self.answering(place / "managed" / "python", "3 12")
        program(place / "bin" / "uv", f"echo {managed}")

        assert engine_home.find_python() == managed

    def test_a_named_one_that_is_wrong_is_not_replaced_by_another(self, place, settings):
        self.answering(place / "bin" / "python3.13", "3 13")
        settings.ENGINE_PYTHON = "/nowhere/python"

        with pytest.raises(engine_home.NoPython, match=r"OH_ENGINE_PYTHON .* is /nowhere/python"):
            engine_home.find_python()


class TestInstall:
    @pytest.fixture
    def wheels(self, folder, settings, tmp_path, monkeypatch):
        """A tiny engine and its one dependency, which pip finds where its environment says."""
        place = tmp_path / "wheels"
        place.mkdir()
        self.wheel(
            place, "openhands_agent_server", "1.0", "[console_scripts]\nagent-server = json:dumps\n"
        )
        self.wheel(place, "something_else", "2.0", "")
        constraints = tmp_path / "constraints.txt"
        constraints.write_text("something-else==2.0\nopenhands-agent-server==1.0\n")
        monkeypatch.setattr(engine_home, "CONSTRAINTS", constraints)
        monkeypatch.setattr(engine_home, "OLDEST_PYTHON", (3, 11))
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(place))
        settings.ENGINE_PYTHON = sys.executable
        return constraints

    @staticmethod
    def wheel(place: Path, name: str, version: str, entry_points: str) -> None:
        info = f"{name}-{version}.dist-info"
        files = {
            f"{name}.py": "",
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/entry_points.txt": entry_points,
        }
        with zipfile.ZipFile(place / f"{name}-{version}-py3-none-any.whl", "w") as archive:
            for path, text in files.items():
                archive.writestr(path, text)
            archive.writestr(
                f"{info}/RECORD", "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
            )

    def test_installs_once_and_again_when_cut_short_and_notices_other_constraints(
        self, folder, wheels
    ):
        told = []
        assert engine_home.install(progress=told.append).is_ready
        assert (folder / "bin" / "agent-server").exists()
        own = [str(folder / "bin" / "python"), "-c", "import something_else"]
        assert subprocess.run(own, check=False).returncode == 0

        stamp = (folder / engine_home.STAMP).stat().st_mtime_ns
        engine_home.install()
        assert (folder / engine_home.STAMP).stat().st_mtime_ns == stamp, "it was there already"

        (folder / engine_home.STAMP).unlink()
        (folder / engine_home.MARKER).write_text("{}")
        assert engine_home.status().state == "unfinished"
        assert engine_home.install().is_ready

        wheels.write_text(wheels.read_text() + "# changed\n")
        assert engine_home.status().state == "outdated"

    def test_what_cannot_be_had_is_a_sentence(self, folder, wheels):
        wheels.write_text("absent==1\nopenhands-agent-server==1.0\n")

        with pytest.raises(
            engine_home.InstallFailed,
            match=r"could not be installed: .*absent==1.* See the log in .*engine\.log",
        ):
            engine_home.install()
        assert engine_home.status().state == "unfinished"

    def test_a_folder_with_other_things_is_left_alone(self, folder, wheels):
        folder.mkdir()
        (folder / "thesis.txt").write_text("precious")

        with pytest.raises(engine_home.InstallFailed, match="contains other files"):
            engine_home.install()
        assert (folder / "thesis.txt").read_text() == "precious"
