"""What templates ask of identity."""

from typing import Any

from django import template

from accounts.services import identity_providers

register = template.Library()
# In this order: most browsers name others too.
BROWSERS = (
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("Firefox/", "Firefox"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
    ("curl/", "curl"),
)
SYSTEMS = (
    ("Windows", "Windows"),
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Macintosh", "Mac"),
    ("CrOS", "ChromeOS"),
    ("Linux", "Linux"),
)


@register.filter
def browser(user_agent: str) -> str:
    """What a user agent calls itself, as people do: "Firefox on Linux"; its own words where they are unknown."""
    name, system = (
        next((word for mark, word in known if mark in user_agent), "")
        for known in (BROWSERS, SYSTEMS)
    )
    if not name:
        return user_agent[:60] or "Unknown browser"
    return f"{name} on {system}" if system else name


@register.inclusion_tag("accounts/_providers.html")
def provider_buttons(target: str = "") -> dict[str, Any]:
    """A button for each provider that one may sign in with."""
    return {"providers": identity_providers.enabled_providers(), "next": target}
