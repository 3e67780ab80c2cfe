"""`.env.example` lists every setting that the server reads, and no other."""

import re
import runpy

from django.conf import settings

from lib import env

EXAMPLE = (settings.BASE_DIR / ".env.example").read_text()
SETTINGS = settings.BASE_DIR / "openhands_site" / "settings.py"


def collect_defaults(monkeypatch) -> dict[str, object]:
    """Return ``{name: default}`` of the settings that settings.py reads; ``None`` if it reads ``os.environ`` itself."""
    defaults = dict.fromkeys(re.findall(r'environ(?:\.get\(|\[)"([A-Z_]+)"', SETTINGS.read_text()))
    read = env._read

    def record(name, default, parse, expected):
        defaults[name] = default
        return read(name, default, parse, expected)

    monkeypatch.setattr(env, "_read", record)
    monkeypatch.setattr(env, "load_file", lambda path: None)
    runpy.run_path(str(SETTINGS))
    return defaults


def parse_example() -> dict[str, str]:
    """Return ``{name: value}`` of the settings in `.env.example`, including those in comments."""
    return dict(re.findall(r"^#?([A-Z][A-Z0-9_]*)=(.*)$", EXAMPLE, re.MULTILINE))


def test_example_lists_exactly_the_settings_that_are_read(monkeypatch):
    assert set(parse_example()) == set(collect_defaults(monkeypatch))


def test_example_lists_no_setting_twice():
    names = re.findall(r"^#?([A-Z][A-Z0-9_]*)=", EXAMPLE, re.MULTILINE)

    assert sorted(names) == sorted(set(names))


def test_only_required_settings_are_left_to_fill_in(monkeypatch):
    required = {
        n for n, default in collect_defaults(monkeypatch).items() if default is env.REQUIRED
    }

    assert set(re.findall(r"^([A-Z][A-Z0-9_]*)=$", EXAMPLE, re.MULTILINE)) == required


def format_default(value) -> str:
    """Return a default as it is written in an environment file."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, dict):
        return ",".join(f"{name}={part}" for name, part in value.items())
    return str(value).removeprefix(f"{settings.BASE_DIR}/")


def test_values_in_the_example_are_the_defaults(monkeypatch):
    defaults = collect_defaults(monkeypatch)
    example_values = {name: value for name, value in parse_example().items() if value}

    assert {name: format_default(defaults[name]) for name in example_values} == example_values


def test_every_block_of_settings_begins_with_a_comment():
    assert re.findall(r"(?:^|\n)\n#?([A-Z][A-Z0-9_]*)=", EXAMPLE) == []
