"""The fingerprint of the files that a server process reads at its start."""

import os

import pytest

from lib import env
from openhands_site.operating import sources


@pytest.fixture
def project(tmp_path, monkeypatch, settings):
    """Return a folder that replaces the project, with one file of each kind."""
    settings.DATA_DIR = tmp_path / "data"
    settings.TEMPLATES = [settings.TEMPLATES[0] | {"DIRS": [tmp_path / "templates"]}]
    settings.STATICFILES_DIRS = [tmp_path / "static"]
    settings.WEB_CLIENT_DIR = tmp_path / "client"
    monkeypatch.setattr(env, "BASE_DIR", tmp_path)
    monkeypatch.setattr(env, "_names", {"SECRET_KEY"})
    monkeypatch.setenv("SECRET_KEY_FILE", str(tmp_path / "secret"))
    packages = tmp_path / "packages"
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(packages))
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("before")
    (packages / "django-5.0.dist-info").mkdir(parents=True)
    return tmp_path


FILES = (
    *("lib/inner/module.py", "templates/page.html", "static/js/script.js", "client/index.html"),
    *("manage.py", "pyproject.toml", ".env", "data/server.env", "secret"),
)


@pytest.mark.parametrize("name", FILES)
def test_changed_or_removed_file_changes_the_fingerprint(project, name):
    before = sources.fingerprint()
    assert sources.fingerprint() == before

    (project / name).write_text("after it")
    changed = sources.fingerprint()
    (project / name).unlink()

    assert len({before, changed, sources.fingerprint()}) == 3


def test_file_with_the_size_and_time_of_its_predecessor_changes_the_fingerprint(project):
    before, file = sources.fingerprint(), project / "manage.py"
    stat = file.stat()

    (project / "new").write_text("-after")
    os.utime(project / "new", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (project / "new").replace(file)

    assert file.stat().st_size == stat.st_size
    assert sources.fingerprint() != before


def test_new_module_and_updated_package_change_the_fingerprint(project):
    before = sources.fingerprint()

    (project / "lib" / "new.py").touch()
    added = sources.fingerprint()
    (project / "packages" / "django-5.0.dist-info").rename(
        project / "packages" / "django-5.1.dist-info"
    )

    assert len({before, added, sources.fingerprint()}) == 3


def test_names_that_are_not_utf8_and_a_missing_folder_of_packages_are_no_errors(project):
    before = sources.fingerprint()

    (project / "static" / os.fsdecode(b"\xff.js")).touch()
    odd = sources.fingerprint()
    (project / "packages").rename(project / "elsewhere")

    assert len({before, odd, sources.fingerprint()}) == 3


def test_compiled_modules_and_data_do_not_change_the_fingerprint(project):
    before = sources.fingerprint()

    (project / "lib" / "__pycache__").mkdir()
    (project / "lib" / "__pycache__" / "module.pyc").touch()
    (project / "data" / "upload").touch()

    assert sources.fingerprint() == before
