"""Search for model servers on this machine: requests to fixed ports of the loopback addresses, without credentials.

All ports are asked at the same time and within ``TOTAL_SECONDS``. Only recognized model servers are reported, so the
search tells nothing about other programs. Redirects are not followed, and answers have a maximum size.
"""

import asyncio
import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

import httpx2
from asgiref.sync import async_to_sync
from django.conf import settings
from django.core.cache import cache
from redis.exceptions import RedisError

from billing.gateway import server_kinds
from billing.gateway.server_kinds import DETAIL_PATHS, MODELS_PATH, FoundModel, FoundServer
from lib import http, url_guard

HOSTS = ("127.0.0.1", "::1")
TOTAL_SECONDS = 0.9
"""The maximum duration of a search."""
ANSWER_BYTES = 1_048_576
CACHED_SECONDS = 60
"""How long a result is used again."""
PAUSE_SECONDS = 1
"""The minimum time between two searches, also if somebody asks for a new one."""
CONTEXT_MIN = 64_000
"""The context in tokens that Ollama's documentation recommends for agents (``docs/context-length.mdx``)."""
FIRST_REQUEST = 7_000
"""The tokens of the engine's first request in a conversation (1.58.0: 33 kB with five tools, counted by cl100k)."""
CONTEXT_REMEDIES = {
    server_kinds.OLLAMA: f"Set OLLAMA_CONTEXT_LENGTH={CONTEXT_MIN} where Ollama runs, and start Ollama again.",
    server_kinds.LM_STUDIO: "Load the model in LM Studio with a longer context length.",
    "llama.cpp": f"Start llama-server with --ctx-size {CONTEXT_MIN}.",
    "vLLM": f"Start vLLM with --max-model-len {CONTEXT_MIN}, if the model allows it.",
}
_OLLAMA_PORT = re.compile(r":(\d{1,5})/?$")


def list_ports() -> list[int]:
    """Return the ports at which model servers are looked for: the setting, and the port in ``OLLAMA_HOST``.

    The ports of this server itself are left out.
    """
    ports = list(settings.MODEL_SERVER_PORTS)
    # Ollama's own variable, such as 0.0.0.0:11500 or http://127.0.0.1:11500.
    if ports and (given := _OLLAMA_PORT.search(os.environ.get("OLLAMA_HOST", ""))):
        ports.insert(0, int(given[1]))
    own = {urlsplit(url).port for url in (settings.PUBLIC_URL, settings.GATEWAY_URL)}
    return [port for port in dict.fromkeys(ports) if port not in own and 0 < port < 65_536]


def find_servers(ports: Iterable[int] | None = None, *, again: bool = False) -> list[FoundServer]:
    """Return the model servers on this machine, by the order of the ports.

    Without ``ports``, look at those of ``list_ports``. A result is cached for ``CACHED_SECONDS``. With ``again``, look
    again, unless the last search was less than ``PAUSE_SECONDS`` ago. Never raises.
    """
    chosen = list(list_ports() if ports is None else ports)
    found = _load(chosen, PAUSE_SECONDS if again else CACHED_SECONDS)
    return search(chosen) if found is None else found


def recent_servers() -> list[FoundServer] | None:
    """Return the result of the last search by ``find_servers`` without a new search, or None if there is none."""
    return _load(list_ports(), CACHED_SECONDS)


def search(ports: Iterable[int]) -> list[FoundServer]:
    """Ask the ports now, and store the result in the cache. Never raises; see ``find_servers``."""
    chosen = list(ports)
    found = async_to_sync(_search)(chosen) if chosen else []
    with contextlib.suppress(RedisError):
        entry = {"at": time.time(), "found": [asdict(server) for server in found]}
        cache.set(_key(chosen), entry, timeout=CACHED_SECONDS)
    return found


def forget_servers() -> None:
    """Drop the result of the last search, because the servers have changed."""
    with contextlib.suppress(RedisError):
        cache.delete(_key(list_ports()))


def warn_of_short_context(base_url: str, model: str) -> str:
    """Return a warning if a server on this machine has loaded a model with a context that is too short for agents.

    Return "" if the context is long enough or unknown. The server is asked now, because it chooses the context when it
    loads the model.
    """
    port = url_guard.loopback_port(base_url)
    if port is None or port not in list_ports():
        return ""
    names = (model, f"{model}:latest")
    for server in search([port]):
        for found in server.models:
            if found.name in names and 0 < found.context < CONTEXT_MIN:
                remedy = CONTEXT_REMEDIES.get(server.kind, "Load the model with a longer context.")
                return (
                    f"The context of the model has {found.context:,} tokens, and the first request of an agent needs "
                    f"about {FIRST_REQUEST:,}. For long tasks it should have at least {CONTEXT_MIN:,}. {remedy}"
                )
    return ""


async def _search(ports: list[int]) -> list[FoundServer]:
    async with http.async_client(
        seconds=TOTAL_SECONDS, guarded=False, headers={"Accept-Encoding": "identity"}
    ) as client:
        found: dict[tuple[str, int], FoundServer] = {}
        targets = [(host, port) for port in ports for host in HOSTS]
        tasks = [asyncio.create_task(_ask(client, host, port, found)) for host, port in targets]
        # A server without details is reported if the time ends before they arrive.
        _, late = await asyncio.wait(tasks, timeout=TOTAL_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    servers = _without_twins(found[key] for key in targets if key in found)
    # Other programs have empty lists of something too.
    return [server for server in servers if server.models or server.kind != server_kinds.OTHER]


async def _ask(
    client: httpx2.AsyncClient, host: str, port: int, found: dict[tuple[str, int], FoundServer]
) -> None:
    """Recognize the server at a port and add it to ``found``, first without its details."""
    root = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    answers = {MODELS_PATH: await _get(client, root + MODELS_PATH)}
    kind = server_kinds.recognize_list(answers[MODELS_PATH])
    if kind is None:
        return
    found[host, port] = server_kinds.describe_server(kind, answers, host=host, port=port)
    unmarked = (*DETAIL_PATHS[server_kinds.OLLAMA], *DETAIL_PATHS[server_kinds.LM_STUDIO])
    paths = unmarked if kind == server_kinds.OTHER else DETAIL_PATHS.get(kind, ())
    details = await asyncio.gather(*(_get(client, root + path) for path in paths))
    answers |= {path: answer for path, answer in zip(paths, details, strict=True) if answer}
    found[host, port] = server_kinds.describe_server(kind, answers, host=host, port=port)


async def _get(client: httpx2.AsyncClient, url: str) -> Any:
    """Return the JSON at a URL, or None if there is no such answer for any reason."""
    try:
        async with client.stream("GET", url) as response:
            if response.status_code != 200:
                return None
            raw = b""
            # Not decompressed: a short answer could otherwise become a very long one.
            async for piece in response.aiter_raw():
                raw += piece
                if len(raw) > ANSWER_BYTES:
                    return None
        return json.loads(raw)
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, RecursionError):
        return None


def _without_twins(servers: Iterable[FoundServer]) -> list[FoundServer]:
    """Leave out a server at ``::1`` that also answers at ``127.0.0.1``."""
    kept: dict[int, FoundServer] = {}
    for server in servers:
        kept.setdefault(server.port, server)
    return list(kept.values())


def _load(ports: list[int], seconds: float) -> list[FoundServer] | None:
    try:
        entry = cache.get(_key(ports))
        if not isinstance(entry, dict) or not 0 <= time.time() - entry["at"] < seconds:
            return None
        return [
            FoundServer(**row | {"models": tuple(FoundModel(**model) for model in row["models"])})
            for row in entry["found"]
        ]
    except (RedisError, LookupError, TypeError):  # also an entry of another release
        return None


def _key(ports: list[int]) -> str:
    # Loopback is another machine on each host.
    return f"model-servers:{socket.gethostname()}:{','.join(map(str, sorted(ports)))}"
