"""Model servers that are known by the first part of a model's name (``openai/gpt-5.1``), as clients name models."""

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
"""The OpenAI-compatible address of each."""
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
"""Offered in lists; any other model may be named too."""
PLAIN = ("openai/", "litellm_proxy/")
"""Prefixes that say only how a server of one's own is spoken to."""


def located(model: str, base_url: str) -> tuple[str, str] | None:
    """The model's name at its server, and the server's address; None where nothing says which server.

    A given address wins; without one, the first part of the name must be known.
    """
    if base_url:
        for prefix in PLAIN:
            if model.startswith(prefix) and base_url not in SERVERS.values():
                return model.removeprefix(prefix), base_url
        return model, base_url
    first, _, rest = model.partition("/")
    return (rest, SERVERS[first]) if rest and first in SERVERS else None


def named(model: str, base_url: str) -> tuple[str, str]:
    """The other way: how clients know a model, and its address, which is empty for a known server."""
    for first, address in SERVERS.items():
        if _same(address, base_url):
            return f"{first}/{model}", ""
    return model, base_url


def named_access(access: ModelAccess | None) -> tuple[str, str]:
    """How clients know the model in force, and its address; without model access it is the demo model."""
    return named(access.model, access.base_url) if access else (DEMO, "")


def models_for(access: ModelAccess | None) -> list[str]:
    """The names of models that are offered: known ones, the one in force, and the demo model."""
    return sorted({DEMO, *MODELS, named_access(access)[0]})


def _same(one: str, other: str) -> bool:
    left, right = urlsplit(one), urlsplit(other)
    return (left.scheme, left.netloc, left.path) == (right.scheme, right.netloc, right.path)
