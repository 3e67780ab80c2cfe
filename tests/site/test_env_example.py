"""`.env.example` names every setting that is read, and no other."""

import re
import runpy

from django.conf import settings

from lib import env

EXAMPLE = (settings.BASE_DIR / ".env.example").read_text()
SETTINGS = settings.BASE_DIR / "openhands_site" / "settings.py"


def names_read(monkeypatch) -> dict[str, object]:
    """``{name: default}`` of what settings.py asks the readers for, and of what it reads by itself."""
    found = dict.fromkeys(re.findall(r'environ(?:\.get\(|\[)"([A-Z_]+)"', SETTINGS.read_text()))
    read = env._read

    def note(name, default, parse, takes):
        found[name] = default
        return read(name, default, parse, takes)

    monkeypatch.setattr(env, "_read", note)
    monkeypatch.setattr(env, "load_file", lambda path: None)
    runpy.run_path(str(SETTINGS))
    return found


def lines() -> dict[str, str]:
    return dict(re.findall(r"^#?([A-Z][A-Z0-9_]*)=(.*)$", EXAMPLE, re.MULTILINE))


def test_every_setting_that_is_read_stands_in_the_example_and_no_other(monkeypatch):
    assert set(lines()) == set(names_read(monkeypatch))


def test_no_setting_stands_there_twice():
    found = re.findall(r"^#?([A-Z][A-Z0-9_]*)=", EXAMPLE, re.MULTILINE)

    assert sorted(found) == sorted(set(found))


def test_required_ones_and_no_others_are_to_be_filled_in(monkeypatch):
    required = {n for n, default in names_read(monkeypatch).items() if default is env.REQUIRED}

    assert set(re.findall(r"^([A-Z][A-Z0-9_]*)=$", EXAMPLE, re.MULTILINE)) == required


def as_written(value) -> str:
    """A default in the words of the environment."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(value)
    if isinstance(value, dict):
        return ",".join(f"{name}={part}" for name, part in value.items())
    return str(value).removeprefix(f"{settings.BASE_DIR}/")


def test_defaults_that_are_shown_are_the_real_ones(monkeypatch):
    read = names_read(monkeypatch)
    shown = {name: value for name, value in lines().items() if value}

    assert {name: as_written(read[name]) for name in shown} == shown


def test_no_setting_follows_a_blank_line_without_its_meaning():
    assert re.findall(r"(?:^|\n)\n#?([A-Z][A-Z0-9_]*)=", EXAMPLE) == []
