"""``python -m lib.python_packages`` with the real uv and the real pip, and the sentences for each system."""

import subprocess
import sys
from pathlib import Path

import pytest

from lib.python_packages import environments, index, pip_program, systems, tags, uv_program

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def environment(tiny, tmp_path, uv):
    """Return the environment of a user who has set up pip for a folder of wheels, in pip's own file."""
    wheels, _ = tiny
    home = tmp_path / "home"
    (home / ".config" / "pip").mkdir(parents=True)
    (home / ".config" / "pip" / "pip.conf").write_text(
        f"[install]\nno-index = true\nfind-links = {wheels}\n"
    )
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "uv").symlink_to(uv)
    return {"HOME": str(home), "PATH": f"{programs}:/usr/bin:/bin"}


def install(lock, folder, environment, python=sys.executable):
    command = [python, "-E", "-s", "-m", "lib.python_packages", str(lock), str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def has_tiny(folder):
    command = [folder / "bin" / "python", "-I", "-c", "import tiny"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def test_uv_installs_with_the_settings_of_pips_file_and_repairs_a_broken_environment(
    tiny, tmp_path, environment
):
    folder = tmp_path / "venv"

    first = install(tiny[1], folder, environment)

    assert first.returncode == 0, first.stdout
    assert "pip" not in first.stdout
    assert has_tiny(folder)
    # The Python of the environment is gone after an upgrade of the system.
    (folder / "bin" / "python").unlink()
    (folder / "bin" / "python").symlink_to("/nonexistent/python")
    assert install(tiny[1], folder, environment).returncode == 0
    assert has_tiny(folder)


@pytest.mark.slow
def test_uv_with_other_content_is_refused_and_pip_installs(tiny, tmp_path, environment):
    wheels, lock = tiny
    pin = uv_program.pinned()
    tag = next(
        tag
        for tag in (
            "manylinux_2_17_x86_64",
            "manylinux_2_17_aarch64",
            "macosx_11_0_arm64",
            "macosx_10_12_x86_64",
        )
        if tags.rank_wheel(f"uv-{pin.version}-py3-none-{tag}.whl") is not None
    )
    (wheels / f"uv-{pin.version}-py3-none-{tag}.whl").write_bytes(b"changed")
    environment["PATH"] = "/usr/bin:/bin"
    folder = tmp_path / "venv"

    done = install(lock, folder, environment, getattr(sys, "_base_executable", sys.executable))

    assert done.returncode == 0, done.stdout
    assert (
        "is not the pinned file, so it is not used: its content may have been changed."
        in done.stdout
    )
    assert has_tiny(folder)
    assert not (folder / "bin" / "uv").exists()


@pytest.mark.slow
def test_package_with_another_hash_is_installed_neither_by_uv_nor_by_pip(
    tiny, tmp_path, environment
):
    _, lock = tiny
    lock.write_text(lock.read_text()[:-5] + "0000\n")
    folder = tmp_path / "venv"

    done = install(lock, folder, environment, getattr(sys, "_base_executable", sys.executable))

    assert done.returncode == 1
    assert "uv could not install the packages" in done.stdout
    assert f"See {folder}/install.log" in done.stdout
    assert not has_tiny(folder)


def test_progress_names_the_packages_that_are_still_downloaded():
    output = "Resolved 103 packages in 1s\nDownloading django (7.9MiB)\nDownloading grpcio (7.0MiB)\n Downloaded grpcio\n"

    assert environments.describe_uv(output, 6, 60, 107) == (
        "6 s: 60 of 103 packages fetched, about 5 s left (now django (7.9MiB))"
    )


def test_lock_pins_a_wheel_of_uv_for_this_machine():
    pin = uv_program.pinned()

    assert len(pin.hashes) > 10
    assert pin == index.read_pin(ROOT / "requirements-uv.lock", "uv")


@pytest.mark.parametrize(
    ("fields", "oldest", "command"),
    [
        ({"ID": "debian", "VERSION_ID": "12"}, (3, 12), ""),
        ({"ID": "debian", "VERSION_ID": "12"}, (3, 11), "sudo apt install python3 python3-venv"),
        ({"ID": "debian", "VERSION_ID": "13"}, (3, 12), "sudo apt install python3 python3-venv"),
        ({"ID": "ubuntu", "ID_LIKE": "debian", "VERSION_ID": "22.04"}, (3, 12), ""),
        (
            {"ID": "ubuntu", "ID_LIKE": "debian", "VERSION_ID": "24.04"},
            (3, 12),
            "sudo apt install python3 python3-venv",
        ),
        (
            {"ID": "rocky", "ID_LIKE": "rhel centos fedora", "VERSION_ID": "9.5"},
            (3, 12),
            "sudo dnf install python3.12",
        ),
        ({"ID": "fedora", "VERSION_ID": "42"}, (3, 12), "sudo dnf install python3.13"),
        ({"ID": "alpine", "VERSION_ID": "3.19.1"}, (3, 12), ""),
        ({"ID": "alpine", "VERSION_ID": "3.21.0"}, (3, 12), "sudo apk add python3 py3-pip"),
        ({"ID": "arch"}, (3, 12), "sudo pacman -S python"),
        ({"ID": "unknown"}, (3, 12), ""),
    ],
)
def test_command_that_installs_python_on_each_system(fields, oldest, command, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")

    assert systems.command_for_python(oldest, fields) == command


def test_python_without_venv_and_pip_raises_the_command_of_this_system(tmp_path, monkeypatch):
    # On Debian, "python3 -m venv" and "python3 -m pip" fail until python3-venv is installed.
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(pip_program, "base_python", lambda: python)

    with pytest.raises(pip_program.Impossible) as error:
        pip_program.create(tmp_path / "venv")

    assert f"Run `{systems.command_for_venv()}`, and run the command again." in str(error.value)
    assert not (tmp_path / "venv").exists()
