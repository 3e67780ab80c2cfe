"""Template tags for user agents and identity providers."""

from typing import Any

from django import template

from accounts.services import identity_providers

register = template.Library()
# The order matters: Edge and Opera also name Chrome and Safari, and Chrome also names Safari.
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
    """Return a short name of a user agent, such as "Firefox on Linux".

    For an unknown user agent, return its first 60 characters.
    """
    name, system = (
        next((label for mark, label in labels if mark in user_agent), "")
        for labels in (BROWSERS, SYSTEMS)
    )
    if not name:
        return user_agent[:60] or "Unknown browser"
    return f"{name} on {system}" if system else name


@register.inclusion_tag("accounts/_providers.html")
def provider_buttons(target: str = "") -> dict[str, Any]:
    """Render a sign-in button for each enabled identity provider. ``target`` is the page to open afterwards."""
    return {"providers": identity_providers.enabled_providers(), "next": target}
