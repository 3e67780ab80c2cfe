"""Validation and masking of the setting ``mcp_config``, the agent's MCP servers.

The value is ``{"sse_servers": […], "shttp_servers": […], "stdio_servers": […]}``. An item of the first
two lists is a URL or an object ``{"url", "api_key"?, "timeout"?}``. An item of the third list is an object ``{"name",
"command", "args"?, "env"?}``. The API keys and the values in ``env`` are secret.
"""

import itertools
import re
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from lib.masks import MASK, is_mask

KINDS = ("sse_servers", "stdio_servers", "shttp_servers")
SERVERS_MAX = 50
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SECRET_NAME = re.compile(r"key|token|secret|passw|auth|cred|session|signature", re.IGNORECASE)
_ORDINARY = re.compile(r"[A-Za-z]+(?:[-_ ./:][A-Za-z]+)*|[\d.,:]+|[~.]?/[\w./ -]*|https?://[^@?]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_KEY: dict[str, Any] = {"type": "string", "maxLength": 2_000, "nullable": True}
_REMOTE: dict[str, Any] = {
    "type": "object",
    "required": ["url"],
    "properties": {
        "url": {"type": "string", "maxLength": 2_000},
        "api_key": _KEY,
        "timeout": {"type": "integer", "minimum": 1, "maximum": 3_600, "nullable": True},
    },
}
_REMOTES = {
    "type": "array",
    "maxItems": SERVERS_MAX,
    "items": {"oneOf": [{"type": "string", "maxLength": 2_000}, _REMOTE]},
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "sse_servers": _REMOTES,
        "shttp_servers": _REMOTES,
        "stdio_servers": {
            "type": "array",
            "maxItems": SERVERS_MAX,
            "items": {
                "type": "object",
                "required": ["name", "command"],
                "properties": {
                    "name": {"type": "string", "maxLength": 64},
                    "command": {"type": "string", "maxLength": 500},
                    "args": {"type": "array", "items": {"type": "string", "maxLength": 2_000}},
                    "env": {
                        "type": "object",
                        "additionalProperties": {"type": "string", "maxLength": 4_000},
                    },
                },
            },
        },
    },
}


def clean(config: Any) -> dict[str, list[Any]]:
    """Return the validated configuration, which contains all three lists.

    Raise ``ValueError`` with a message for the user if the configuration is not valid.
    """
    if not isinstance(config, dict) or set(config) - set(KINDS):
        raise ValueError(f"enter an object with the lists {', '.join(KINDS)}.")
    by_kind = {kind: config.get(kind) or [] for kind in KINDS}
    if not all(isinstance(servers, list) for servers in by_kind.values()):
        raise ValueError(f"each of {', '.join(KINDS)} must be a list.")
    if sum(map(len, by_kind.values())) > SERVERS_MAX:
        raise ValueError(f"enter at most {SERVERS_MAX} servers.")
    cleaners = {
        "sse_servers": _clean_remote,
        "shttp_servers": _clean_remote,
        "stdio_servers": _clean_stdio,
    }
    by_kind = {
        kind: [cleaners[kind](server) for server in servers] for kind, servers in by_kind.items()
    }
    names = [server["name"] for server in by_kind["stdio_servers"]]
    if len(set(names)) != len(names):
        raise ValueError("two stdio servers have the same name. Rename one of them.")
    return by_kind


def mask(config: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return the configuration for responses, with every secret replaced by a mask."""
    return {kind: [_mask_server(server) for server in servers] for kind, servers in config.items()}


def unmask(config: Any, *, stored: dict[str, list[Any]] | None) -> Any:
    """Return the configuration, with masks replaced by the stored secrets of servers that have not changed.

    A null keeps the stored value: of a list of servers, and of a server's key, arguments and variables. In a new or
    changed server, a mask stays, and ``clean`` raises an error for it.
    """
    if not isinstance(config, dict) or not stored:
        return config
    # A remote server has changed if its URL differs, a stdio server if its name, command or arguments differ.
    # Otherwise a user who cannot read a stored key could send the key to a server of their own.
    known = {_identity(server): server for servers in stored.values() for server in servers}
    programs = {
        (server["name"], server["command"]): server for server in stored.get("stdio_servers", ())
    }
    return {kind: _unmask_list(kind, config[kind], known, programs, stored) for kind in config}


def _unmask_list(
    kind: str,
    servers: Any,
    known: dict[tuple[str, ...], Any],
    programs: dict[tuple[str, str], Any],
    stored: dict[str, list[Any]],
) -> Any:
    if servers is None:
        return stored.get(kind)
    if not isinstance(servers, list):
        return servers
    return [_unmask_server(_keep_arguments(server, programs), known) for server in servers]


def _keep_arguments(server: Any, programs: dict[tuple[str, str], Any]) -> Any:
    """Return a stdio server with its stored arguments in place of null."""
    if not isinstance(server, dict) or "args" not in server or server["args"] is not None:
        return server
    stored = programs.get((str(server.get("name")), str(server.get("command")))) or {}
    return server | {"args": stored.get("args")}


def _identity(server: Any) -> tuple[str, ...]:
    if isinstance(server, str):
        return ("url", server)
    if "url" in server:
        return ("url", str(server["url"]))
    program = (str(server.get("command")), str(server.get("args") or []))
    return ("stdio", str(server.get("name")), *program)


def secret_values(config: dict[str, list[Any]]) -> set[str]:
    """Return the texts that must not appear in logs: keys, values of ``env``, and secrets in arguments and URLs.

    Ordinary values of ``env``, such as ``debug`` or ``8080``, are left out, because they occur in other text: words,
    numbers and paths, unless the name of the variable says that it is a secret.
    """
    found: set[str] = set()
    for server in (server for servers in config.values() for server in servers):
        fields: dict[str, Any] = {"url": server} if isinstance(server, str) else server
        found.add(fields.get("api_key") or "")
        found |= {
            value
            for name, value in (fields.get("env") or {}).items()
            if _SECRET_NAME.search(name) or not _ORDINARY.fullmatch(value)
        }
        arguments = fields.get("args") or []
        for text in (fields.get("url") or "", *arguments):
            found |= _secrets_in_url(text)
        for option, value in itertools.pairwise(arguments):
            if option.startswith("-") and "=" not in option and _SECRET_NAME.search(option):
                found.add(value)
        for option, is_set, value in (argument.partition("=") for argument in arguments):
            if is_set and _SECRET_NAME.search(option):
                found.add(value)
    return found - {""}


def _secrets_in_url(text: str) -> set[str]:
    """Return the password and the values of secret query parameters of a URL."""
    try:
        url = urlsplit(text)
        query = parse_qsl(url.query)
    except ValueError:
        return set()
    if not url.netloc:
        return set()
    password = unquote(url.password or "")
    return {password, *(value for name, value in query if _SECRET_NAME.search(name))}


def _mask_server(server: Any) -> Any:
    if isinstance(server, str):
        return server
    masked = dict(server)
    if masked.get("api_key"):
        masked["api_key"] = MASK
    if masked.get("env"):
        masked["env"] = dict.fromkeys(masked["env"], MASK)
    return masked


def _unmask_server(server: Any, known: dict[tuple[str, ...], Any]) -> Any:
    if not isinstance(server, dict):
        return server
    stored = known.get(_identity(server))
    if not isinstance(stored, dict):
        return server
    result = dict(server)
    stored_env = stored.get("env") or {}
    for name in ("api_key", "env"):
        if name in result and result[name] is None and name in stored:
            result[name] = stored[name]
    if result.get("api_key") == MASK and stored.get("api_key"):
        result["api_key"] = stored["api_key"]
    if isinstance(result.get("env"), dict):
        result["env"] = {
            name: stored_env.get(name, value) if value in (MASK, None) else value
            for name, value in result["env"].items()
        }
    return result


def _clean_remote(server: Any) -> Any:
    is_bare = isinstance(server, str)
    fields = {"url": server} if is_bare else server
    if not isinstance(fields, dict) or set(fields) - {"url", "api_key", "timeout"}:
        raise ValueError("a server must be a URL or an object with `url`, `api_key` and `timeout`.")
    url, key, timeout = fields.get("url"), fields.get("api_key"), fields.get("timeout")
    if not isinstance(url, str) or len(url) > 2_000 or not url.isprintable():
        raise ValueError("a server needs a URL of up to 2000 printable characters.")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ValueError("the URL of a server must start with http:// or https://.") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("the URL of a server must start with http:// or https://.")
    # URLs are not masked in responses, so a password in a URL would be readable.
    if parts.username or parts.password:
        raise ValueError("a URL must not contain a password. Enter the password as `api_key`.")
    if is_bare:
        return url
    result: dict[str, Any] = {"url": url}
    if key:
        if not isinstance(key, str) or len(key) > 2_000 or not key.isprintable():
            raise ValueError("`api_key` must have up to 2000 printable characters.")
        result["api_key"] = _refuse_mask(key, "`api_key`")
    if timeout is not None:
        if type(timeout) is not int or not 1 <= timeout <= 3_600:
            raise ValueError("`timeout` must be a whole number of seconds from 1 to 3600.")
        result["timeout"] = timeout
    return result


def _clean_stdio(server: Any) -> dict[str, Any]:
    if not isinstance(server, dict) or set(server) - {"name", "command", "args", "env"}:
        raise ValueError(
            "a stdio server must be an object with `name`, `command`, `args` and `env`."
        )
    name, command = server.get("name"), server.get("command")
    args, env = server.get("args") or [], server.get("env") or {}
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError("the name of a stdio server must have 1 to 64 letters, digits, - and _.")
    if not isinstance(command, str) or not _is_text(command, 500) or not command.strip():
        raise ValueError("a stdio server needs a command of up to 500 characters.")
    if not isinstance(args, list) or not all(_is_text(a, 2_000) for a in args):
        raise ValueError("`args` must be a list of texts of up to 2000 characters.")
    if not isinstance(env, dict) or len(env) > 100:
        raise ValueError("`env` must be an object with up to 100 variables.")
    for variable, value in env.items():
        if not _VARIABLE.fullmatch(variable) or not _is_text(value, 4_000):
            raise ValueError("`env` must map names of variables to texts of up to 4000 characters.")
        _refuse_mask(value, f"the value of {variable} in `env`")
    result: dict[str, Any] = {"name": name, "command": command}
    if args:
        result["args"] = args
    if env:
        result["env"] = env
    return result


def _is_text(value: Any, longest: int) -> bool:
    """Return whether a value is a text of at most ``longest`` characters without NUL and lone surrogates.

    Texts with these characters cannot be encrypted or passed to a program.
    """
    if not isinstance(value, str) or len(value) > longest or "\0" in value:
        return False
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _refuse_mask(text: str, name: str) -> str:
    if is_mask(text):
        raise ValueError(f"{name} is a mask, not a secret. Enter the secret again.")
    return text
