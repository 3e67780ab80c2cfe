"""The token counts that model servers report, in every known place and with every known name."""

import re
from collections.abc import Iterator
from typing import Any

from billing.prices import MAX_TOKENS, Tokens

_PROMPT = ("prompt_tokens", "promptTokenCount", "prompt_eval_count")
"""Names of counts that include cached tokens: OpenAI and all servers with its API, Gemini, Ollama."""
_PROMPT_OR_UNCACHED = ("input_tokens", "inputTokens")
"""Names of counts that include cached tokens in OpenAI's Responses API, but not at Anthropic and Bedrock."""
_COMPLETION = (
    "completion_tokens",
    "output_tokens",
    "outputTokens",
    "candidatesTokenCount",
    "eval_count",
)
_CACHE_READ = ("cache_read_input_tokens", "cacheReadInputTokens", "cacheReadInputTokenCount")
_CACHE_WRITE = (
    "cache_creation_input_tokens",
    "cacheWriteInputTokens",
    "cacheWriteInputTokenCount",
)
_CACHED = (
    "cached_tokens",  # Moonshot, Together
    "prompt_cache_hit_tokens",  # DeepSeek
    "cachedContentTokenCount",  # Gemini
    "num_cached_tokens",  # vLLM
    "cached_prompt_tokens",
    *_CACHE_READ,
)
_DETAILS = ("prompt_tokens_details", "input_tokens_details", "prompt_token_details")
_TOTAL = ("total_tokens", "totalTokens", "totalTokenCount")
_USAGE = ("usage", "usageMetadata", "usage_metadata", "token_usage", "tokenUsage")
_NUMBER = re.compile(r"\s*([0-9]{1,20})(?:\.[0-9]*)?\s*")


class UsageReport:
    """The counts of one response, collected from the whole response or from the chunks of a stream.

    Servers that report several times in a stream report sums, so the last count that is not zero applies. Each count
    is collected on its own, because Anthropic reports the prompt at the beginning and the completion at the end.
    """

    def __init__(self) -> None:
        self._prompt: int | None = None
        self._completion: int | None = None
        self._cached = 0

    @property
    def is_present(self) -> bool:
        """Whether the response reported any count, even if all were zero."""
        return self._prompt is not None or self._completion is not None

    def read(self, body: Any) -> None:
        """Read a whole response or one chunk."""
        if isinstance(body, dict):
            for usage in _find_reports(body):
                self._add(usage)

    def tokens(self, *, estimated: Tokens) -> Tokens:
        """Return the collected counts, limited to the valid range. An estimate replaces a count that is missing."""
        return Tokens.clamp(
            prompt=estimated.prompt if self._prompt is None else self._prompt,
            completion=estimated.completion if self._completion is None else self._completion,
            cached=self._cached,
        )

    @property
    def is_zero(self) -> bool:
        """Whether every reported count is zero."""
        return not (self._prompt or self._completion)

    def _add(self, usage: dict[str, Any]) -> None:
        cached = _first(usage, _CACHED) or _first_in(usage, _DETAILS, _CACHED)
        prompt = _first(usage, _PROMPT)
        if prompt is None:
            prompt = _first(usage, _PROMPT_OR_UNCACHED)
            if prompt is not None and not any(name in usage for name in _DETAILS):
                # Anthropic counts tokens that it read from or wrote to its cache separately.
                prompt += (_first(usage, _CACHE_READ) or 0) + (_first(usage, _CACHE_WRITE) or 0)
        completion = _first(usage, _COMPLETION)
        total = _first(usage, _TOTAL)
        if prompt is None and completion is None:
            return
        if prompt is None and total is not None and completion is not None:
            prompt = max(total - completion, 0)
        elif prompt is not None:
            rest = (total or 0) - prompt - (completion or 0)
            separate = (_first(usage, _CACHE_READ) or 0) + (_first(usage, _CACHE_WRITE) or 0)
            if rest > 0 and rest == separate:  # proxies that copy Anthropic's count
                prompt += separate
            elif rest > 0:  # Gemini and xAI do not count the reasoning
                completion = (completion or 0) + rest
            elif not total and (thoughts := _first(usage, ("thoughtsTokenCount",))):
                completion = (completion or 0) + thoughts
        self._prompt = _choose(prompt, self._prompt)
        self._completion = _choose(completion, self._completion)
        self._cached = cached or self._cached


def _choose(new: int | None, old: int | None) -> int | None:
    """Return the new count, or the old one if the new one is missing or zero."""
    return old if new is None or (new == 0 and old is not None) else new


def _find_reports(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the objects of a body or chunk that can contain counts, the most trusted last."""
    timings = body.get("timings")  # llama.cpp
    if isinstance(timings, dict) and not isinstance(body.get("usage"), dict):
        prompt = (_count(timings.get("prompt_n")) or 0) + (_count(timings.get("cache_n")) or 0)
        yield {
            "prompt_tokens": prompt,
            "completion_tokens": timings.get("predicted_n"),
            "cached_tokens": timings.get("cache_n"),
        }
    yield body  # Ollama
    choices = body.get("choices")
    # Such as message (Anthropic), x_groq, response (OpenAI), meta (Cohere), metadata and metrics (Bedrock), result
    # (Cloudflare). The content of the answer has other names.
    places: list[Any] = [value for name, value in body.items() if name not in _USAGE]
    if isinstance(choices, list):
        for choice in choices:
            if isinstance(choice, dict):
                places += [choice.get("delta"), choice.get("message"), choice]
    places.append(body)
    for place in places:
        if not isinstance(place, dict):
            continue
        for name in _USAGE:
            usage = place.get(name)
            if isinstance(usage, list):
                usage = next((part for part in usage if isinstance(part, dict)), None)
            if isinstance(usage, dict):
                nested = usage.get("tokens")  # Cohere
                yield nested if isinstance(nested, dict) else usage
        nested = place.get("tokens")
        if isinstance(nested, dict):
            yield nested


def _first(usage: dict[str, Any], names: tuple[str, ...]) -> int | None:
    counts = (_count(usage.get(name)) for name in names)
    return next((count for count in counts if count is not None), None)


def _first_in(usage: dict[str, Any], places: tuple[str, ...], names: tuple[str, ...]) -> int | None:
    for place in places:
        details = usage.get(place)
        if isinstance(details, dict) and (count := _first(details, names)) is not None:
            return count
    return None


def _count(value: Any) -> int | None:
    """Return a count, which some servers send as a float or as a text; None for anything else."""
    if isinstance(value, str) and (match := _NUMBER.fullmatch(value)):
        value = int(match[1])
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # The comparison is false for NaN.
    return int(min(value, MAX_TOKENS)) if value >= 0 else None


def repair_usage(body: dict[str, Any]) -> bool:
    """Turn counts that are texts or fractions into integers, in place; return whether anything was changed.

    The engine (openhands-agent-server 1.58.2) fails a call whose counts have fractions.
    """
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return False
    repaired = {
        name: _count(value)
        for name, value in usage.items()
        if isinstance(value, str | float) and name.endswith("_tokens")
    }
    body["usage"] = {
        **{name: value for name, value in usage.items() if name not in repaired},
        **{name: value for name, value in repaired.items() if value is not None},
    }
    return bool(repaired)
