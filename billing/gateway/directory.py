"""Known model servers. Clients name a server in the first part of a model name, such as ``openai/gpt-5.1``."""

from urllib.parse import urlsplit

from billing.models import ModelAccess

DEMO = "demo"
SERVERS = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com/v1",
    "gemini": "https://generativelanguage.googleapis.com/v1beta/openai",
    "mistral": "https://api.mistral.ai/v1",
    "deepseek": "https://api.deepseek.com/v1",
    "groq": "https://api.groq.com/openai/v1",
    "openrouter": "https://openrouter.ai/api/v1",
}
"""The base URL of each known server's OpenAI-compatible API."""
MODELS = (
    "anthropic/claude-haiku-4-5",
    "anthropic/claude-opus-4-1",
    "anthropic/claude-sonnet-4-5",
    "deepseek/deepseek-chat",
    "deepseek/deepseek-reasoner",
    "gemini/gemini-2.5-flash",
    "gemini/gemini-2.5-pro",
    "groq/openai/gpt-oss-120b",
    "mistral/devstral-medium-latest",
    "openai/gpt-5",
    "openai/gpt-5-mini",
    "openai/gpt-5.1",
    "openrouter/anthropic/claude-sonnet-4.5",
    "openrouter/qwen/qwen3-coder",
)
"""Models that clients offer in lists. Users may enter any other model too."""
PROTOCOL_PREFIXES = ("openai/", "litellm_proxy/")
"""Prefixes that only select the protocol of a client library. They are not part of the model's name at its server."""


def locate_model(model: str, base_url: str) -> tuple[str, str] | None:
    """Return the model's name at its server, and the server's base URL. If the server is unknown, return None.

    If ``base_url`` is empty, the first part of the name must be a known server.
    """
    if base_url:
        for prefix in PROTOCOL_PREFIXES:
            if model.startswith(prefix) and base_url not in SERVERS.values():
                return model.removeprefix(prefix), base_url
        return model, base_url
    first, _, rest = model.partition("/")
    return (rest, SERVERS[first]) if rest and first in SERVERS else None


def format_model(model: str, base_url: str) -> tuple[str, str]:
    """Return a model's name as clients write it, and its server's base URL, which is empty for a known server."""
    for first, server_url in SERVERS.items():
        if _is_same_url(server_url, base_url):
            return f"{first}/{model}", ""
    return model, base_url


def format_access(access: ModelAccess | None) -> tuple[str, str]:
    """Return the name and base URL of a user's model as clients write them. None stands for the demo model."""
    return format_model(access.model, access.base_url) if access else (DEMO, "")


def list_models(access: ModelAccess | None) -> list[str]:
    """Return the model names that clients offer: known models, the user's model and the demo model."""
    return sorted({DEMO, *MODELS, format_access(access)[0]})


def _is_same_url(one: str, other: str) -> bool:
    left, right = urlsplit(one), urlsplit(other)
    return (left.scheme, left.netloc, left.path) == (right.scheme, right.netloc, right.path)
