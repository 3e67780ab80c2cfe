"""The values of settings that conversations have too."""

from django.db.models import TextChoices


class ConfirmationPolicy(TextChoices):
    """When an agent asks before it acts."""

    NEVER = "never", "Never ask"
    ALWAYS = "always", "Always ask"
    RISKY = "risky", "Ask when risky"


class SecurityAnalyzer(TextChoices):
    """How the risk of an action is judged: by the model itself, by a list of patterns, or not at all."""

    LLM = "llm", "The model"
    PATTERN = "pattern", "A list of patterns"
    NONE = "none", "Nobody: it asks before everything"
