"""pip's settings, read from its configuration files and from the environment, and their translation for uv.

The order of the sources is pip's own: https://pip.pypa.io/en/stable/topics/configuration/
"""

from __future__ import annotations

import configparser
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

COMMANDS = ("global", "install")
"""Sections of the configuration files, the later one wins."""
_ALIASES = {"default-timeout": "timeout", "pypi-url": "index-url"}
_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Variables with certificates that pip's HTTP library reads and uv does not."""
_NOT_FOR_AN_ENVIRONMENT = ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")
"""Settings that make pip install into another folder than the virtual environment."""


@dataclass(frozen=True)
class PipSettings:
    """The values of pip's options by name, such as ``index-url``. Each value is text, as the user wrote it."""

    values: dict[str, str] = field(default_factory=dict)

    def text(self, name: str) -> str:
        return self.values.get(name, "").strip()

    def texts(self, name: str) -> list[str]:
        """Return the parts of an option that takes several values, which are separated by white space."""
        return self.values.get(name, "").split()

    def is_on(self, name: str) -> bool:
        return self.text(name).lower() in {"1", "true", "yes", "on", "y", "t"}

    def links(self) -> list[str]:
        """Return the URLs and existing paths of ``find-links``. pip ignores a missing path, but uv fails."""
        return [link for link in self.texts("find-links") if "://" in link or Path(link).exists()]


def read_settings(environment: Mapping[str, str] = os.environ) -> PipSettings:
    """Return pip's settings for ``pip install``: ``[global]`` of all files, then ``[install]``, then ``PIP_*``."""
    sections: dict[str, dict[str, str]] = {command: {} for command in COMMANDS}
    for path in configuration_files(environment):
        for command, values in _read_file(path).items():
            sections[command].update(values)
    variables = {
        _option(name[4:]): text for name, text in environment.items() if name[:4] == "PIP_"
    }
    merged: dict[str, str] = {}
    for values in (sections["global"], sections["install"], variables):
        merged.update({name: value for name, value in values.items() if value.strip()})
    return PipSettings(merged)


def configuration_files(environment: Mapping[str, str]) -> list[Path]:
    """Return the paths of pip's configuration files, whether they exist or not. Values of later files win."""
    named = environment.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return []
    home = Path(environment.get("HOME") or Path.home())
    legacy = home / ".pip" / "pip.conf"
    configuration = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    if sys.platform == "darwin":
        folders = ["/Library/Application Support"]
        if (own := home / "Library" / "Application Support" / "pip").is_dir():
            configuration = own.parent
    else:
        folders = (environment.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")
    files = [Path(folder, "pip", "pip.conf") for folder in folders if folder]
    if sys.platform != "darwin":
        files.append(Path("/etc/pip.conf"))
    if not (named and Path(named).exists()):
        files += [legacy, configuration / "pip" / "pip.conf"]
    files.append(Path(sys.prefix, "pip.conf"))
    if named:
        files.append(Path(named))
    return files


def _read_file(path: Path) -> dict[str, dict[str, str]]:
    parser = configparser.RawConfigParser()
    try:
        parser.read(str(path))
    except (configparser.Error, UnicodeDecodeError, OSError):
        return {}  # pip reports an invalid file itself, if pip is needed
    return {
        command: {_option(name): value for name, value in parser.items(command)}
        for command in COMMANDS
        if parser.has_section(command)
    }


def _option(name: str) -> str:
    name = name.lower().replace("_", "-").lstrip("-")
    return _ALIASES.get(name, name)


def environment_for_pip(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return an environment in which pip installs into the virtual environment that runs it."""
    changed = {
        name: value
        for name, value in environment.items()
        if name not in _NOT_FOR_AN_ENVIRONMENT and name != "PYTHONPATH"
    }
    return {**changed, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}


def environment_for_uv(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment with uv's variables set from pip's settings. A ``UV_*`` variable of the user wins."""
    settings = read_settings(environment)
    own = dict(_translate(settings, environment))
    if "UV_INDEX_URL" in environment:
        own.pop("UV_DEFAULT_INDEX", None)
    if "UV_EXTRA_INDEX_URL" in environment:
        own.pop("UV_INDEX", None)
    if "UV_NATIVE_TLS" in environment:
        own.pop("UV_SYSTEM_CERTS", None)
    kept = {name: value for name, value in environment.items() if name not in own}
    given = {name: value for name, value in environment.items() if name.startswith("UV_")}
    result = {**kept, **own, **given, "UV_NO_PROGRESS": "1"}
    # A virtual environment or a folder of modules of the caller does not concern the environment that uv changes.
    for name in ("PYTHONPATH", "VIRTUAL_ENV", "UV_SYSTEM_PYTHON"):
        result.pop(name, None)
    return result


def _translate(settings: PipSettings, environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield uv's variables for pip's settings (https://docs.astral.sh/uv/reference/environment/)."""
    names = {
        "index-url": "UV_DEFAULT_INDEX",
        "client-cert": "SSL_CLIENT_CERT",
        "timeout": "UV_HTTP_TIMEOUT",
        "retries": "UV_HTTP_RETRIES",
    }
    for option, variable in names.items():
        if value := settings.text(option):
            yield variable, value
    if extra := settings.texts("extra-index-url"):
        yield "UV_INDEX", " ".join(extra)
        # pip takes the best version of all indexes. uv would stop at the first index that knows the package.
        yield "UV_INDEX_STRATEGY", "unsafe-best-match"
    if links := settings.links():
        yield "UV_FIND_LINKS", ",".join(links)
    if hosts := settings.texts("trusted-host"):
        yield "UV_INSECURE_HOST", " ".join(hosts)
    if proxy := settings.text("proxy"):
        for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            yield variable, proxy
            yield variable.lower(), proxy
    if settings.text("keyring-provider") == "subprocess":
        yield "UV_KEYRING_PROVIDER", "subprocess"
    if settings.is_on("no-cache-dir"):
        yield "UV_NO_CACHE", "1"
    if certificates := certificate_path(settings, environment):
        yield "SSL_CERT_DIR" if Path(certificates).is_dir() else "SSL_CERT_FILE", certificates
    elif has_system_certificates():
        yield "UV_SYSTEM_CERTS", "1"  # as pip does since 24.2


def arguments_for_uv(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return arguments of ``uv pip install`` for pip's settings that have no variable in uv."""
    settings = read_settings(environment)
    arguments = ["--no-index"] if settings.is_on("no-index") else []
    for option in ("only-binary", "no-binary"):
        for name in settings.text(option).replace(",", " ").split():
            arguments += [f"--{option}", name]
    return arguments


def certificate_path(
    settings: PipSettings, environment: Mapping[str, str] = os.environ
) -> str | None:
    """Return the file or folder of trusted certificates that the user chose, or None for the defaults."""
    paths = [settings.text("cert"), *(environment.get(name, "") for name in _BUNDLES)]
    return next((path for path in paths if path), None)


def has_system_certificates() -> bool:
    """Return whether this system has certificates of its own. A minimal container has none."""
    import ssl

    if sys.platform == "darwin":
        return True
    paths = ssl.get_default_verify_paths()
    if paths.cafile:
        return True
    return bool(paths.capath and any(Path(paths.capath).iterdir()))
