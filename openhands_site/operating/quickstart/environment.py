"""The settings of a quickstart: its own values, those of its environment, and the file ``server.env`` with both."""

import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from lib import env
from openhands_site.operating import supervisor
from openhands_site.operating.quickstart import ports

KEYS = ("SECRET_KEY", "ENCRYPTION_KEYS", "TOKEN_PEPPERS")
KEPT = ("ENGINE_DIR", "OH_ENGINE_PYTHON", "AGENT_PYTHON", "SANDBOX_DIR", "OH_WEB_CLIENT_DIR")
"""Folders and programs that later starts use again unless their environment names others."""
NOT_SAVED = re.compile("KEY|SECRET|PASSWORD|PEPPER|TOKEN|^DATA_DIR$|^DATABASE_POOL_SIZE$")
"""Settings of the environment that are not written to ``server.env``: secrets, and what differs by command."""


@dataclass
class Environment:
    """The environment from which this process and the roles read their settings."""

    data_dir: Path | None
    """The data folder that an option names."""
    given: dict[str, str] = field(init=False)
    """The environment of this start, without the values of ``.env``, which every command reads itself."""
    own: dict[str, str] = field(default_factory=dict, init=False)
    """Values for settings that the environment does not set."""

    def __post_init__(self) -> None:
        self.given = dict(os.environ)
        env.load_file(env.BASE_DIR / ".env")

    @property
    def folder(self) -> Path:
        """The data folder: the option, else ``DATA_DIR``, else ``data`` in the project."""
        if self.data_dir is not None:
            return self.data_dir.expanduser().resolve()
        folder: Path = env.path("DATA_DIR", env.BASE_DIR / "data").resolve()
        return folder

    @property
    def path(self) -> Path:
        """The file with the settings."""
        return self.folder / "server.env"

    @property
    def public_url(self) -> str:
        """The URL of the server in messages, without a slash at its end."""
        return os.environ["PUBLIC_URL"].rstrip("/")

    def prepare(self, host: str, port: int, console: supervisor.Console) -> None:
        """Set ``own`` to values for the required settings. Use the keys that ``server.env`` contains again.

        ``write`` later drops the values that the environment already sets.
        """
        stored = read_file(self.path)
        url = f"http://127.0.0.1:{port}"
        public = urlsplit(os.environ.get("PUBLIC_URL") or url)
        names = ["127.0.0.1", "localhost", *ports.own_names(host), public.hostname or ""]
        hosts = [
            f"[{name}]" if ":" in name else name for name in dict.fromkeys(filter(None, names))
        ]
        origins = [
            f"{public.scheme}://{public.netloc}",
            *(f"http://{h}:{port}" for h in hosts),
        ]
        self.own = {
            "SECRET_KEY": stored.get("SECRET_KEY") or secrets.token_urlsafe(48),
            "ENCRYPTION_KEYS": stored.get("ENCRYPTION_KEYS") or f"k1:{secrets.token_hex(32)}",
            "TOKEN_PEPPERS": stored.get("TOKEN_PEPPERS") or f"p1:{secrets.token_hex(32)}",
            "PUBLIC_URL": url,
            "GATEWAY_URL": url,
            "ALLOWED_HOSTS": ",".join(hosts),
            "ALLOWED_ORIGINS": ",".join(dict.fromkeys(origins)),
            "UPSTREAM_ALLOW_PRIVATE": "single-user",
            "ACCESS_LOG": "problems",
        }
        self.own |= {name: stored[name] for name in KEPT if name in stored}
        is_new = not any(name in stored for name in KEYS)
        if is_new and (self.folder / "postgresql").exists():
            console.step(
                "Keys",
                "server.env is missing, so new keys were created. Existing API keys and stored secrets cannot be "
                "used any more. To keep them, stop the server and restore server.env from a backup.",
            )
        elif is_new:
            console.step("Keys", f"created in {self.path}")
        os.environ["DATA_DIR"] = str(self.folder)

    def write(self) -> None:
        """Set the values of ``own`` and write them to ``server.env`` for other commands."""
        self.own = {name: value for name, value in self.own.items() if not is_set(name)}
        self._write_file({})
        os.environ.update(self.own)

    def save_given(self) -> None:
        """Add the settings that the environment of this start sets to ``server.env``.

        Otherwise ``doctor`` and other commands would not find the database, the engine or the sandboxes of this server.
        The next start uses only those in ``KEPT`` again. Call it when the settings are loaded: only names that they
        have read are written.
        """
        names = env.names_read() | {*KEPT}
        names |= {f"{name}_FILE" for name in names}
        given = {
            name: self.given[name]
            for name in sorted(names & self.given.keys())
            if self.given[name] and "\n" not in self.given[name] and not NOT_SAVED.search(name)
        }
        self._write_file(given)

    def _write_file(self, given: dict[str, str]) -> None:
        """Replace ``server.env`` atomically, so no command reads an incomplete file. Only its owner can read it."""
        fresh = self.path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        lines = [
            (
                "# Written by `manage.py quickstart`. Back up SECRET_KEY, ENCRYPTION_KEYS and TOKEN_PEPPERS: without "
                "them, stored secrets and API keys cannot be used."
            )
        ]
        lines += [f"{name}='{value}'" for name, value in (_keys_of(self.path) | self.own).items()]
        if given:
            lines.append("# From the environment of the last start:")
            lines += [f"{name}='{value}'" for name, value in given.items()]
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write("\n".join(lines) + "\n")
            # A power failure after the replacement must not leave an empty file.
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.path)


def is_set(name: str) -> bool:
    """Return whether the environment or ``.env`` sets a variable, directly or through ``NAME_FILE``."""
    return bool(os.environ.get(name) or os.environ.get(f"{name}_FILE"))


def read_file(path: Path) -> dict[str, str]:
    """Return the variables of a file such as ``server.env``, or none if it is missing."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip().strip("'") for name, value in pairs}


def _keys_of(path: Path) -> dict[str, str]:
    """Return the keys in ``server.env``. They stay in the file even if the environment of this run sets other keys."""
    return {name: value for name, value in read_file(path).items() if name in KEYS}
