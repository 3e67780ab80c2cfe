"""Options of a request that a model server may not know: the gateway removes or renames them when the server refuses.

The gateway adds ``stream_options``. The engine (openhands-agent-server 1.58.2) adds the others on its own, by what its
library knows about a model's name. A refused option is remembered for the model at its server, in Redis.
"""

import hashlib
import logging
import re
from typing import Any

from django.core.cache import cache
from redis.exceptions import RedisError

from billing.models import ModelAccess

log = logging.getLogger(__name__)
Json = dict[str, Any]
REMOVABLE = (
    *("stream_options", "reasoning_effort", "prompt_cache_key", "prompt_cache_retention"),
    *("parallel_tool_calls", "thinking", "top_k", "top_p", "temperature"),
    *("max_completion_tokens", "max_tokens"),
)
RENAMED = {"max_completion_tokens": "max_tokens", "max_tokens": "max_completion_tokens"}
"""Options that have another name at older servers, and at OpenAI's models that reason."""
REMEMBERED_SECONDS = 7 * 86_400
"""After this time the options are tried again, because the server may have been upgraded."""
REFUSED_STATUSES = (400, 422)
NAMED_STATUSES = (*REFUSED_STATUSES, 404, 405, 415, 500, 501)
"""Statuses with which servers refuse an option that their message names."""
_ACCEPTED = "accepted"
_VALUED = frozenset(("top_p", "temperature", "max_completion_tokens", "max_tokens"))
"""Options that a message can also name because their value is wrong."""
_REFUSAL = re.compile(
    r"unsupported|not support|unrecogni[sz]ed|unknown|unexpected|extra|forbidden|not permitted|not allowed|deprecated",
    re.IGNORECASE,
)


def add_options(body: Json) -> Json:
    """Return the request body with the option that makes most servers report the usage of a stream."""
    if body.get("stream") is not True:
        return body
    options = body.get("stream_options")
    requested = options if isinstance(options, dict) else {}
    return body | {"stream_options": requested | {"include_usage": True}}


def remove_options(body: Json, names: frozenset[str]) -> Json:
    """Return the request body without the options ``names``, of which some get their other name."""
    kept = {name: value for name, value in body.items() if name not in names}
    for name in names & RENAMED.keys() & body.keys():
        if RENAMED[name] not in names:
            kept.setdefault(RENAMED[name], body[name])
    return kept


def choose_refused(
    body: Json, status: int, text: str, known: frozenset[str] | None
) -> frozenset[str]:
    """Return the options to remove before the request is repeated, because a server refused the request.

    ``text`` is the body of the refusal. ``known`` is the result of ``load_refused``. If the refusal names no option,
    and the server has never accepted ``stream_options``, this is the option to remove.
    """
    if status not in NAMED_STATUSES:
        return frozenset()
    text = text.replace("include_usage", "stream_options")
    is_refusal = _REFUSAL.search(text)
    named = frozenset(
        name
        for name in REMOVABLE
        if name in body
        and re.search(rf"(?<![A-Za-z_]){name}(?![A-Za-z_])", text)
        and (is_refusal or name not in _VALUED)
    )
    is_known = known is not None or "stream_options" not in body
    if named or is_known or status not in REFUSED_STATUSES:
        return named
    return frozenset(("stream_options",))


def load_refused(access: ModelAccess) -> frozenset[str] | None:
    """Return the options that the model's server is known to refuse; None if nothing is known about the server."""
    try:
        names = cache.get(_key(access))
    except RedisError:
        return None
    return frozenset(names) - {_ACCEPTED} if isinstance(names, list) else None


def remember_refused(access: ModelAccess, names: frozenset[str]) -> None:
    """Remember the options that the model's server refuses, which may be none. Safe to repeat."""
    try:
        cache.set(_key(access), [_ACCEPTED, *sorted(names)], timeout=REMEMBERED_SECONDS)
    except RedisError:
        log.warning("The refused options of a model server could not be stored in Redis.")


def _key(access: ModelAccess) -> str:
    identity = f"{access.base_url}\n{access.model}".encode()
    return f"gateway-options:{hashlib.sha256(identity).hexdigest()[:32]}"
