"""Choices that settings and conversations share."""

from django.db.models import TextChoices


class ConfirmationPolicy(TextChoices):
    """When an agent asks the user to confirm an action."""

    NEVER = "never", "Never ask"
    ALWAYS = "always", "Always ask"
    RISKY = "risky", "Ask when risky"


class SecurityAnalyzer(TextChoices):
    """How the risk of an action is rated: by the model, by a list of patterns, or not at all."""

    LLM = "llm", "The model"
    PATTERN = "pattern", "A list of patterns"
    NONE = "none", "None: the agent asks before every action"
