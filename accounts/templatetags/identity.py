"""What templates ask of identity."""

from typing import Any

from django import template

from accounts.services import identity

register = template.Library()


@register.inclusion_tag("accounts/_providers.html")
def provider_buttons(target: str = "") -> dict[str, Any]:
    """A button for each provider that one may sign in with."""
    return {"providers": identity.enabled_providers(), "next": target}
