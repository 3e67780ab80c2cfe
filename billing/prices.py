"""What a call costs: tokens times the prices of a million, in integer micro-dollars."""

from dataclasses import dataclass

from billing.models import ModelAccess

MAX_TOKENS = 2**31 - 1
MAX_PRICE_MICROS = 10**12
"""A million dollars for a million tokens: beyond it a price is a slip, and a sum could overflow its column."""
MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Tokens:
    """What one call used. ``cached`` is the part of ``prompt`` that the provider read from its cache."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0

    @classmethod
    def clamped(cls, *, prompt: int, completion: int, cached: int) -> "Tokens":
        """Counts as an upstream told them, brought into the range that can be."""
        prompt = min(max(prompt, 0), MAX_TOKENS)
        return cls(
            prompt=prompt,
            completion=min(max(completion, 0), MAX_TOKENS),
            cached=min(max(cached, 0), prompt),
        )


def cost_micros(tokens: Tokens, access: ModelAccess | None) -> int:
    """The cost in micro-dollars, rounded half up once, over the sum; without access (the demo) nothing."""
    if access is None:
        return 0
    total = (
        (tokens.prompt - tokens.cached) * access.prompt_micros_per_million
        + tokens.cached * access.cached_micros_per_million
        + tokens.completion * access.completion_micros_per_million
    )
    return (total + MILLION // 2) // MILLION
