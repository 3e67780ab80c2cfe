"""The cost of model calls: tokens times the price per million tokens, in integer micro-dollars."""

from dataclasses import dataclass

from billing.models import ModelAccess

MAX_TOKENS = 2**31 - 1
MAX_PRICE_MICROS = 10**12
"""The highest price of a million tokens, a million dollars. With a higher price, the column of a sum could overflow."""
MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one call. ``cached`` is the part of ``prompt`` that the provider read from its cache."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0

    @classmethod
    def clamp(cls, *, prompt: int, completion: int, cached: int) -> "Tokens":
        """Return the counts that a model server reported, limited to the valid range."""
        prompt = min(max(prompt, 0), MAX_TOKENS)
        return cls(
            prompt=prompt,
            completion=min(max(completion, 0), MAX_TOKENS),
            cached=min(max(cached, 0), prompt),
        )


def cost_micros(tokens: Tokens, access: ModelAccess | None) -> int:
    """Return the cost of a call in micro-dollars. For the demo model (``access`` is None), it is 0."""
    if access is None:
        return 0
    total = (
        (tokens.prompt - tokens.cached) * access.prompt_micros_per_million
        + tokens.cached * access.cached_micros_per_million
        + tokens.completion * access.completion_micros_per_million
    )
    # Round half up, and only once: rounding each part could make the sum wrong by more than half a micro-dollar.
    return (total + MILLION // 2) // MILLION
