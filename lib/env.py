"""Readers of settings from environment variables.

If a value is malformed, a reader raises ``ImproperlyConfigured`` and says which values are valid. For mounted secrets,
``NAME_FILE`` may contain the path of a file with the value of ``NAME``. Variables that are not set in the environment
may come from two files: ``.env`` in the project, and ``server.env`` in the data folder. ``quickstart`` writes
``server.env``, so that other commands find its database.
"""

import ipaddress
import os
import re
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent.parent
_LINE = re.compile(r"^\s*(?:export\s+)?([A-Z][A-Z0-9_]*)\s*=\s*(.*?)\s*$")
T = TypeVar("T")
REQUIRED: Any = object()
"""The default of a setting that must be set."""
_names: set[str] = set()
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


def load_file(path: Path) -> None:
    """Set the environment variables in a file of ``NAME=value`` lines, except those already set.

    A missing or unreadable file is ignored.
    """
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
    """Return the version in ``pyproject.toml``, or ``unknown`` if the file is missing."""
    try:
        version = tomllib.loads((BASE_DIR / "pyproject.toml").read_text())["project"]["version"]
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return "unknown"
    return str(version)


def names_read() -> frozenset[str]:
    """Return the names of the settings that this process has read so far."""
    return frozenset(_names)


def _is_set(name: str) -> bool:
    return name in os.environ or f"{name}_FILE" in os.environ


def _raw(name: str) -> str | None:
    file = os.environ.get(f"{name}_FILE")
    if file and name in os.environ:
        raise ImproperlyConfigured(f"{name} and {name}_FILE are both set. Remove one of them.")
    if file:
        try:
            return Path(file).read_text().rstrip("\r\n")
        except OSError as error:
            raise ImproperlyConfigured(
                f"The file {file} of {name}_FILE cannot be read: {error.strerror}."
            ) from error
    return os.environ.get(name)


def _read(name: str, default: Any, parse: Callable[[str], T], expected: str) -> T:
    """Return the parsed value of a variable, or its default. ``expected`` describes the valid values."""
    _names.add(name)
    value = _raw(name)
    if value is None or value == "":
        if default is REQUIRED:
            raise ImproperlyConfigured(
                f"{name} is not set. Set it to {expected}, as described in .env.example."
            )
        result: T = default
        return result
    try:
        return parse(value)
    except ValueError:
        shown = "" if _is_secret(name) else f" ({value!r})"
        raise ImproperlyConfigured(
            f"The value of {name} is not valid{shown}. Set it to {expected}."
        ) from None


def _is_secret(name: str) -> bool:
    return any(word in name for word in ("KEY", "SECRET", "PASSWORD", "PEPPER", "URL"))


def text(name: str, default: Any = REQUIRED) -> str:
    """Read a text."""
    return _read(name, default, str, "a value")


def boolean(name: str, default: Any = REQUIRED) -> bool:
    """Read a boolean: ``1``, ``true``, ``yes`` or ``on``, or ``0``, ``false``, ``no`` or ``off``."""

    def parse(value: str) -> bool:
        if value.lower() in _TRUE | _FALSE:
            return value.lower() in _TRUE
        raise ValueError

    return _read(name, default, parse, "true or false")


def private_addresses(name: str, default: Any = REQUIRED) -> bool | str:
    """Read a boolean, ``single-user`` or ``allowed``."""

    def parse(value: str) -> bool | str:
        if value.lower() in _TRUE | _FALSE:
            return value.lower() in _TRUE
        if value.lower() in ("single-user", "allowed"):
            return value.lower()
        raise ValueError

    return _read(name, default, parse, "true, false, single-user or allowed")


def ports(name: str, default: Any = REQUIRED) -> list[int]:
    """Read port numbers separated by commas. The word ``none`` stands for an empty list."""

    def parse(value: str) -> list[int]:
        if value.strip().lower() == "none":
            return []
        numbers = [int(entry) for entry in value.split(",") if entry.strip()]
        if not all(0 < number < 65_536 for number in numbers):
            raise ValueError
        return list(dict.fromkeys(numbers))

    return _read(name, default, parse, "port numbers such as 11434,1234, or to none")


def integer(name: str, default: Any = REQUIRED, *, low: int = 0, high: int = 2**31 - 1) -> int:
    """Read a whole number from ``low`` to ``high``, both inclusive."""

    def parse(value: str) -> int:
        number = int(value)
        if not low <= number <= high:
            raise ValueError
        return number

    return _read(name, default, parse, f"a whole number from {low} to {high}")


def listing(name: str, default: Any = REQUIRED) -> list[str]:
    """Read a list of texts separated by commas. Empty texts are dropped."""

    def parse(value: str) -> list[str]:
        return [entry.strip() for entry in value.split(",") if entry.strip()]

    return _read(name, default, parse, "a list separated by commas")


def checked(name: str, default: Any, check: Callable[[list[str]], Iterable[str]]) -> list[str]:
    """Read a list of texts separated by commas, as ``check`` returns it. A ``ValueError`` of it names the fault."""
    entries = listing(name, default)
    try:
        return list(check(entries))
    except ValueError as error:
        raise ImproperlyConfigured(f"The value of {name} is not valid: {error}") from error


def networks(name: str, default: Any = REQUIRED) -> list[str]:
    """Read IP addresses and networks separated by commas. The entry ``unix`` means Unix sockets."""

    def parse(value: str) -> list[str]:
        entries = [entry.strip() for entry in value.split(",") if entry.strip()]
        for entry in entries:
            if entry != "unix":
                ipaddress.ip_network(entry, strict=False)
        return entries

    return _read(name, default, parse, "addresses and networks such as 10.0.0.0/8, or unix")


def rates(name: str, default: dict[str, str]) -> dict[str, str]:
    """Read rates: ``kind=10/m`` pairs separated by commas that override the defaults.

    ``kind=off`` removes one rate, and ``off`` alone removes all rates.
    """

    def parse(value: str) -> dict[str, str]:
        if value == "off":
            return {}
        result = dict(default)
        for entry in filter(None, (part.strip() for part in value.split(","))):
            kind, _, rate = (part.strip() for part in entry.rpartition("="))
            if rate != "off" and not re.fullmatch(r"[1-9]\d{0,8}/[1-9]?\d{0,3}[smhd]", rate):
                raise ValueError
            if kind not in default and not re.match(r"(GET|POST|PUT|PATCH|DELETE) ", kind):
                raise ValueError
            result[kind] = rate
        return {kind: rate for kind, rate in result.items() if rate != "off"}

    kinds = ", ".join(default)
    return _read(name, default, parse, f"off, or to pairs such as read=600/m for {kinds}")


def choice(name: str, options: tuple[str, ...], default: Any = REQUIRED) -> str:
    """Read a text that must be one of the options."""

    def parse(value: str) -> str:
        if value not in options:
            raise ValueError
        return value

    return _read(name, default, parse, "one of " + ", ".join(options))


def path(name: str, default: Any = REQUIRED) -> Path:
    """Read the path of a file or folder. ``~`` is expanded; a relative path is relative to the project."""
    return _read(name, default, lambda v: (BASE_DIR / Path(v).expanduser()).resolve(), "a path")


def http_url(name: str, default: Any = REQUIRED) -> str:
    """Read an ``http(s)://host[:port][/path]`` URL. Trailing slashes are removed."""

    def parse(value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise ValueError
        return value.rstrip("/")

    return _read(name, default, parse, "an http:// or https:// URL")


def keyring(name: str, default: Any = REQUIRED) -> dict[str, bytes]:
    """Read ``id:hex`` pairs separated by commas, each with a key of 32 bytes, newest first.

    The first key encrypts new values; all keys decrypt.
    """

    def parse(value: str) -> dict[str, bytes]:
        pairs = [entry.strip().split(":", 1) for entry in value.split(",") if entry.strip()]
        ring = {key_id: bytes.fromhex(key) for key_id, key in pairs}
        is_valid = all(
            re.fullmatch(r"[A-Za-z0-9_-]{1,16}", k) and len(v) == 32 for k, v in ring.items()
        )
        if not ring or not is_valid or len(ring) != len(pairs):
            raise ValueError
        return ring

    return _read(
        name,
        default,
        parse,
        "id:key pairs separated by commas, newest first, each key with 64 hexadecimal digits",
    )


def database(name: str = "DATABASE_URL") -> dict[str, Any]:
    """Read a ``postgresql://user:password@host:port/name`` URL as Django's connection settings.

    As in libpq, ``?host=/folder`` names the folder of a Unix socket.
    """
    from urllib.parse import parse_qs, unquote

    def parse(value: str) -> dict[str, Any]:
        parts = urlsplit(value)
        # A password with an unencoded / or # ends the host early, and its rest would be taken for the database's name.
        is_cut = any(mark in parts.path[1:] for mark in "/@") or parts.fragment
        if parts.scheme not in ("postgres", "postgresql") or len(parts.path) < 2 or is_cut:
            raise ValueError
        if "%00" in value or not value.isprintable():
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

    expected = (
        "a URL such as postgresql://user:password@host:port/name, with special characters of the password "
        "percent-encoded (/ is %2F, @ is %40, # is %23)"
    )
    return _read(name, REQUIRED, parse, expected)


def redis_url(name: str = "REDIS_URL") -> str:
    """Read a ``redis://``, ``rediss://`` or ``unix://`` URL."""
    expected = (
        "a URL such as redis://:password@host:6379/0 or unix:///folder/redis.sock, with special characters of the "
        "password percent-encoded (/ is %2F, @ is %40, # is %23)"
    )
    return _read(name, REQUIRED, _redis_url, expected)


def redis_urls(name: str, default: list[str]) -> list[str]:
    """Read a list of Redis URLs separated by commas."""

    def parse(value: str) -> list[str]:
        return [_redis_url(entry.strip()) for entry in value.split(",") if entry.strip()]

    return _read(name, default, parse, "URLs such as redis://host:6379/0, separated by commas")


def _redis_url(value: str) -> str:
    parts = urlsplit(value)
    where = parts.path if parts.scheme == "unix" else parts.hostname
    is_cut = parts.fragment or (parts.scheme != "unix" and not re.fullmatch(r"/?\d*", parts.path))
    if parts.scheme not in ("redis", "rediss", "unix") or not where or is_cut:
        raise ValueError
    if parts.port == 0 or "%00" in value or not value.isprintable():
        raise ValueError
    return value


def explain_missing() -> str:
    """Return where the settings were looked for and how to name the data folder, for an error about a setting."""
    folder = path("DATA_DIR", BASE_DIR / "data")
    file = folder / "server.env"
    origin = "DATA_DIR" if _is_set("DATA_DIR") else "the default data folder"
    if not folder.exists():
        found = f"The folder {folder} ({origin}) does not exist."
    elif not folder.is_dir():
        found = f"{folder} ({origin}) is not a folder."
    elif not os.access(file, os.F_OK):
        found = f"The folder {folder} ({origin}) contains no server.env."
        if not os.access(folder, os.X_OK):
            found = f"The folder {folder} ({origin}) may not be read by this system user."
    elif not os.access(file, os.R_OK):
        found = f"{file} may not be read by this system user: run the command as the user that runs the server."
    else:
        return (
            f"The settings were read from the environment and from {file}. If the server got a value from its own "
            "environment, give it to this command too."
        )
    return (
        f"{found} `make run` writes the settings into server.env in its data folder, which it prints at its start. "
        "Name that folder: DATA_DIR=/path/to/folder before the command."
    )
