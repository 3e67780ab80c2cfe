"""The card with the setup checklist on the home page of administrators."""

from typing import Any

from django import template
from django.template.context import Context
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from accounts.permissions import is_administrator
from openhands_site.doctor.latest import cached_report
from openhands_site.setup.steps import find_open_checklist

register = template.Library()


@register.filter
def sentence_case(text: str) -> str:
    """Return a text that begins with a capital letter, unless it begins with an address, a name or a number."""
    first = text.split(" ", 1)[0]
    return text[:1].upper() + text[1:] if first.isalpha() else text


@register.filter
def code_marks(text: str) -> SafeString:
    """Return a text as HTML, with the parts between backquotes as code."""
    parts = text.split("`")
    return format_html_join(
        "",
        "{}",
        (
            (format_html("<code>{}</code>", part) if n % 2 else part,)
            for n, part in enumerate(parts)
        ),
    )


@register.inclusion_tag("site/_setup_slot.html", takes_context=True)
def setup_card(context: Context) -> dict[str, Any]:
    """Render the checklist if the user is an administrator with open steps. Does not wait for any check."""
    request = context["request"]
    if context.get("narrowed") or not is_administrator(request.user):
        return {}
    checklist = find_open_checklist(request.user, cached_report())
    return {"checklist": checklist, "back": "home", "csrf_token": context.get("csrf_token")}
