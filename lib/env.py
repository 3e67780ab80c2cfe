"""Readers for the environment: the only place that looks at ``os.environ`` for settings.

Every reader refuses what it does not understand and says which values it takes. ``NAME_FILE`` may name a
file that holds the value, so that secrets can be mounted. Two files fill gaps, never overrule: ``.env`` in
the project and ``server.env`` in the data folder, which ``quickstart`` writes so that other commands find
the database it started.
"""

import ipaddress
import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent.parent
_LINE = re.compile(r"^\s*(?:export\s+)?([A-Z][A-Z0-9_]*)\s*=\s*(.*?)\s*$")
T = TypeVar("T")
REQUIRED: Any = object()
"""Marks a setting without a default."""
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


def load_file(path: Path) -> None:
    """Take ``NAME=value`` lines of a file for names that the environment leaves unset."""
    try:
        lines = path.read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    for line in lines:
        if (match := _LINE.match(line)) and not _is_set(match[1]):
            value = match[2]
            if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
                value = value[1:-1]
            os.environ[match[1]] = value


def project_version() -> str:
    """The version in ``pyproject.toml``, or ``unknown`` where it was not shipped."""
    try:
        found = tomllib.loads((BASE_DIR / "pyproject.toml").read_text())["project"]["version"]
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return "unknown"
    return str(found)


def _is_set(name: str) -> bool:
    return name in os.environ or f"{name}_FILE" in os.environ


def _raw(name: str) -> str | None:
    file = os.environ.get(f"{name}_FILE")
    if file and name in os.environ:
        raise ImproperlyConfigured(f"{name} and {name}_FILE are both set; keep one of them.")
    if file:
        try:
            return Path(file).read_text().rstrip("\r\n")
        except OSError as error:
            raise ImproperlyConfigured(
                f"{name}_FILE names {file}, which cannot be read: {error.strerror}."
            ) from error
    return os.environ.get(name)


def _read(name: str, default: Any, parse: Callable[[str], T], takes: str) -> T:
    value = _raw(name)
    if value is None or value == "":
        if default is REQUIRED:
            raise ImproperlyConfigured(f"{name} is not set; it takes {takes}. See .env.example.")
        result: T = default
        return result
    try:
        return parse(value)
    except ValueError:
        shown = "its value" if _is_secret(name) else repr(value)
        raise ImproperlyConfigured(f"{name} takes {takes}; {shown} is not.") from None


def _is_secret(name: str) -> bool:
    return any(word in name for word in ("KEY", "SECRET", "PASSWORD", "PEPPER", "URL"))


def text(name: str, default: Any = REQUIRED) -> str:
    """Any non-empty text."""
    return _read(name, default, str, "a text")


def boolean(name: str, default: Any = REQUIRED) -> bool:
    """``1 true yes on`` or ``0 false no off``."""

    def parse(value: str) -> bool:
        if value.lower() in _TRUE | _FALSE:
            return value.lower() in _TRUE
        raise ValueError

    return _read(name, default, parse, "true or false")


def integer(name: str, default: Any = REQUIRED, *, low: int = 0, high: int = 2**31 - 1) -> int:
    """A whole number between ``low`` and ``high``, both included."""

    def parse(value: str) -> int:
        number = int(value)
        if not low <= number <= high:
            raise ValueError
        return number

    return _read(name, default, parse, f"a whole number from {low} to {high}")


def listing(name: str, default: Any = REQUIRED) -> list[str]:
    """Values separated by commas; empty ones are dropped."""
    return _read(name, default, lambda v: [w.strip() for w in v.split(",") if w.strip()], "a list")


def networks(name: str, default: Any = REQUIRED) -> list[str]:
    """IP addresses and networks separated by commas; ``unix`` stands for a local socket."""

    def parse(value: str) -> list[str]:
        found = [entry.strip() for entry in value.split(",") if entry.strip()]
        for entry in found:
            if entry != "unix":
                ipaddress.ip_network(entry, strict=False)
        return found

    return _read(name, default, parse, "addresses and networks such as 10.0.0.0/8, or unix")


def rates(name: str, default: dict[str, str]) -> dict[str, str]:
    """``kind=10/m`` pairs separated by commas that change the defaults; ``off`` alone ends them all."""

    def parse(value: str) -> dict[str, str]:
        if value == "off":
            return {}
        found = dict(default)
        for entry in filter(None, (part.strip() for part in value.split(","))):
            kind, _, rate = (part.strip() for part in entry.rpartition("="))
            if rate != "off" and not re.fullmatch(r"[1-9]\d{0,8}/[1-9]?\d{0,3}[smhd]", rate):
                raise ValueError
            if kind not in default and not re.match(r"(GET|POST|PUT|PATCH|DELETE) ", kind):
                raise ValueError
            found[kind] = rate
        return {kind: rate for kind, rate in found.items() if rate != "off"}

    return _read(name, default, parse, f"off, or pairs such as read=600/m of {', '.join(default)}")


def choice(name: str, options: tuple[str, ...], default: Any = REQUIRED) -> str:
    """One of the options."""

    def parse(value: str) -> str:
        if value not in options:
            raise ValueError
        return value

    return _read(name, default, parse, "one of " + ", ".join(options))


def path(name: str, default: Any = REQUIRED) -> Path:
    """A file or folder; ``~`` is expanded, a relative one is taken from the project."""
    return _read(name, default, lambda v: (BASE_DIR / Path(v).expanduser()).resolve(), "a path")


def http_url(name: str, default: Any = REQUIRED) -> str:
    """An ``http(s)://host[:port][/path]`` without a slash at its end."""

    def parse(value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise ValueError
        return value.rstrip("/")

    return _read(name, default, parse, "an http:// or https:// address")


def keyring(name: str, default: Any = REQUIRED) -> dict[str, bytes]:
    """``id:hex`` pairs separated by commas, each key 32 bytes; the first one seals, all of them open."""

    def parse(value: str) -> dict[str, bytes]:
        pairs = [entry.strip().split(":", 1) for entry in value.split(",") if entry.strip()]
        ring = {key_id: bytes.fromhex(key) for key_id, key in pairs}
        good = all(
            re.fullmatch(r"[A-Za-z0-9_-]{1,16}", k) and len(v) == 32 for k, v in ring.items()
        )
        if not ring or not good or len(ring) != len(pairs):
            raise ValueError
        return ring

    return _read(
        name, default, parse, "id:key pairs (64 hexadecimal digits a key), the newest first"
    )


def database(name: str = "DATABASE_URL") -> dict[str, Any]:
    """``postgresql://user:password@host:port/name`` as Django's connection fields.

    ``?host=/folder`` names a Unix socket's folder, as libpq has it.
    """
    from urllib.parse import parse_qs, unquote

    def parse(value: str) -> dict[str, Any]:
        parts = urlsplit(value)
        if parts.scheme not in ("postgres", "postgresql") or len(parts.path) < 2:
            raise ValueError
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        return {
            "NAME": unquote(parts.path[1:]),
            "USER": unquote(parts.username or ""),
            "PASSWORD": unquote(parts.password or ""),
            "HOST": query.pop("host", None) or unquote(parts.hostname or ""),
            "PORT": str(parts.port or ""),
            "OPTIONS": query,
        }

    return _read(name, REQUIRED, parse, "a postgresql://user:password@host:port/name address")
