"""The shape of the setting ``mcp_config``: which servers, and which of their parts are secret.

``{"sse_servers": […], "shttp_servers": […], "stdio_servers": […]}``: the first two hold addresses, or objects
``{"url", "api_key"?, "timeout"?}``; the last ``{"name", "command", "args"?, "env"?}``. Keys and the values of
``env`` are secret.
"""

import re
from typing import Any
from urllib.parse import urlsplit

from lib.masks import MASK, is_mask

KINDS = ("sse_servers", "stdio_servers", "shttp_servers")
SERVERS_MAX = 50
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
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


def checked(config: Any) -> dict[str, list[Any]]:
    """The configuration with all three lists. Raises ``ValueError`` with a sentence."""
    if not isinstance(config, dict) or set(config) - set(KINDS):
        raise ValueError("an object with the lists " + ", ".join(KINDS))
    found = {kind: config.get(kind) or [] for kind in KINDS}
    if not all(isinstance(servers, list) for servers in found.values()):
        raise ValueError("servers are lists")
    if sum(map(len, found.values())) > SERVERS_MAX:
        raise ValueError(f"at most {SERVERS_MAX} servers")
    checks = {"sse_servers": _remote, "shttp_servers": _remote, "stdio_servers": _stdio}
    found = {kind: [checks[kind](server) for server in servers] for kind, servers in found.items()}
    names = [server["name"] for server in found["stdio_servers"]]
    if len(set(names)) != len(names):
        raise ValueError("two stdio servers have one name")
    return found


def masked(config: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The configuration as it may be told: every secret part is a mask."""
    return {kind: [_masked(server) for server in servers] for kind, servers in config.items()}


def unmasked(config: Any, *, stored: dict[str, list[Any]] | None) -> Any:
    """The configuration with masks replaced by the stored secrets of the same server.

    The same server has the same address, or the same name, command and arguments: whoever may write settings
    must not send a stored key elsewhere. Masks without such a server stay, and ``checked`` refuses them.
    """
    if not isinstance(config, dict) or not stored:
        return config
    known = {_identity(server): server for servers in stored.values() for server in servers}
    return {
        kind: [_unmasked(server, known) for server in servers]
        if isinstance(servers, list)
        else servers
        for kind, servers in config.items()
    }


def _identity(server: Any) -> tuple[str, ...]:
    if isinstance(server, str):
        return ("url", server)
    if "url" in server:
        return ("url", str(server["url"]))
    program = (str(server.get("command")), str(server.get("args") or []))
    return ("stdio", str(server.get("name")), *program)


def _masked(server: Any) -> Any:
    if isinstance(server, str):
        return server
    shown = dict(server)
    if shown.get("api_key"):
        shown["api_key"] = MASK
    if shown.get("env"):
        shown["env"] = dict.fromkeys(shown["env"], MASK)
    return shown


def _unmasked(server: Any, known: dict[tuple[str, ...], Any]) -> Any:
    if not isinstance(server, dict):
        return server
    before = known.get(_identity(server))
    if not isinstance(before, dict):
        return server
    whole = dict(server)
    if whole.get("api_key") == MASK and before.get("api_key"):
        whole["api_key"] = before["api_key"]
    if isinstance(whole.get("env"), dict):
        held = before.get("env") or {}
        whole["env"] = {
            name: held.get(name, value) if value == MASK else value
            for name, value in whole["env"].items()
        }
    return whole


def _remote(server: Any) -> Any:
    is_bare = isinstance(server, str)
    fields = {"url": server} if is_bare else server
    if not isinstance(fields, dict) or set(fields) - {"url", "api_key", "timeout"}:
        raise ValueError("a server is an address, or an object with url, api_key and timeout")
    url, key, timeout = fields.get("url"), fields.get("api_key"), fields.get("timeout")
    if not isinstance(url, str) or len(url) > 2_000 or not url.isprintable():
        raise ValueError("a server needs an address")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ValueError("a server needs an http:// or https:// address") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a server needs an http:// or https:// address")
    if parts.username or parts.password:
        raise ValueError("an address holds no password; give it as api_key")
    if is_bare:
        return url
    found: dict[str, Any] = {"url": url}
    if key:
        if not isinstance(key, str) or len(key) > 2_000 or not key.isprintable():
            raise ValueError("an api_key has up to 2000 printable characters")
        found["api_key"] = _no_mask(key, "api_key")
    if timeout is not None:
        if type(timeout) is not int or not 1 <= timeout <= 3_600:
            raise ValueError("a timeout is a whole number of seconds from 1 to 3600")
        found["timeout"] = timeout
    return found


def _stdio(server: Any) -> dict[str, Any]:
    if not isinstance(server, dict) or set(server) - {"name", "command", "args", "env"}:
        raise ValueError("a stdio server is an object with name, command, args and env")
    name, command = server.get("name"), server.get("command")
    args, env = server.get("args") or [], server.get("env") or {}
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError("a stdio server's name has letters, digits, - and _, up to 64")
    if not isinstance(command, str) or not _is_text(command, 500) or not command.strip():
        raise ValueError("a stdio server needs a command of up to 500 characters")
    if not isinstance(args, list) or not all(_is_text(a, 2_000) for a in args):
        raise ValueError("args is a list of texts")
    if not isinstance(env, dict) or len(env) > 100:
        raise ValueError("env is an object")
    for variable, value in env.items():
        if not _VARIABLE.fullmatch(variable) or not _is_text(value, 4_000):
            raise ValueError("env has names of variables and texts")
        _no_mask(value, f"env {variable}")
    found: dict[str, Any] = {"name": name, "command": command}
    if args:
        found["args"] = args
    if env:
        found["env"] = env
    return found


def _is_text(value: Any, longest: int) -> bool:
    """Whether this can be sealed and given to a program: no NUL, no lone surrogate."""
    if not isinstance(value, str) or len(value) > longest or "\0" in value:
        return False
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _no_mask(text: str, name: str) -> str:
    if is_mask(text):
        raise ValueError(f"{name} is a mask, not a secret. Give the secret again")
    return text
