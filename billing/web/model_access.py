"""The page of billing: which model server a user's conversations use."""

from decimal import Decimal
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from accounts import permissions
from accounts.active import active_organization
from billing import services
from billing.gateway import checking
from billing.models import ModelAccess
from lib.problems import Problem

PRESETS = [
    ("OpenAI", "https://api.openai.com/v1", "gpt-5.1"),
    ("OpenRouter", "https://openrouter.ai/api/v1", "anthropic/claude-sonnet-4.5"),
    ("Ollama on this machine", "http://127.0.0.1:11434/v1", "qwen3-coder"),
    ("LiteLLM proxy", "http://127.0.0.1:4000/v1", ""),
]
FIELDS = ("base_url", "model", "prompt_price", "completion_price", "cached_price")
LABELS = {"base_url": "Address", "model": "Model", "api_key": "API key"}
MICROS = 1_000_000


class UnreadablePrice(Problem):
    """A price that is not an amount of dollars."""

    status = 422
    code = "unreadable-price"


@sensitive_post_parameters("api_key")
@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def model_settings(request: HttpRequest) -> HttpResponse:
    """Address, name, key and prices of the model; a test call; and the way back to the demo model."""
    user, organization = request.user, active_organization(request)
    permissions.require(user, organization.pk, "model_access.view")
    access = services.model_access_of(organization_id=organization.pk, user_id=user.pk)
    context: dict[str, Any] = {"form": _form_of(access)}
    status = 200
    if request.method == "POST":
        intent = request.POST.get("intent", "save")
        try:
            permissions.require(user, organization.pk, "model_access.edit")
            if intent == "demo":
                services.clear_model_access(organization_id=organization.pk, user_id=user.pk)
                messages.success(
                    request, "Conversations use the demo model again; the key is gone."
                )
                return redirect("settings-model")
            context["form"] = {name: request.POST.get(name, "").strip() for name in FIELDS}
            access = services.save_model_access(
                organization=organization, user=user, **_wanted(request.POST)
            )
            if intent == "test":
                messages.success(request, checking.check_model_access(access))
            else:
                messages.success(request, "Saved. New conversations use this model.")
            return redirect("settings-model")
        except Problem as refusal:
            context["error"], status = _in_words(refusal.detail), refusal.status
    context |= {"access": access, "presets": PRESETS}
    return render(request, "billing/model.html", context, status=status)


def _in_words(detail: str) -> str:
    """A refusal for people: programs read a field's name before it, people its label."""
    name, colon, rest = detail.partition(": ")
    return f"{LABELS[name]}: {rest}" if colon and name in LABELS else detail


def _form_of(access: ModelAccess | None) -> dict[str, str]:
    if access is None:
        return dict.fromkeys(FIELDS, "")
    return {
        "base_url": access.base_url,
        "model": access.model,
        "prompt_price": dollars(access.prompt_micros_per_million),
        "completion_price": dollars(access.completion_micros_per_million),
        "cached_price": dollars(access.cached_micros_per_million),
    }


def _wanted(posted: Any) -> dict[str, Any]:
    """The service's arguments: an empty key field keeps the stored key, a ticked box removes it."""
    api_key: str | None = posted.get("api_key", "").strip() or None
    if posted.get("remove_key"):
        api_key = ""
    cached = posted.get("cached_price", "").strip()
    return {
        "base_url": posted.get("base_url", ""),
        "model": posted.get("model", ""),
        "api_key": api_key,
        "prompt_micros_per_million": micros(posted.get("prompt_price", "")),
        "completion_micros_per_million": micros(posted.get("completion_price", "")),
        "cached_micros_per_million": micros(cached) if cached else None,
    }


def micros(text: str) -> int:
    """Micro-dollars of an amount in dollars, exactly; an empty text is nothing.

    Raises ``UnreadablePrice``, also below a micro-dollar.
    """
    try:
        amount = Decimal(text.strip().removeprefix("$") or "0") * MICROS
    except ArithmeticError:  # not a number, or larger than any
        amount = Decimal("NaN")
    if not amount.is_finite() or amount < 0 or amount != amount.to_integral_value():
        raise UnreadablePrice("Prices are dollars for a million tokens, such as 2.50.")
    return int(amount)


def dollars(amount: int) -> str:
    """An amount of micro-dollars in dollars, without needless zeros: ``2.5`` or ``0.000001``."""
    whole, part = divmod(amount, MICROS)
    return f"{whole}.{part:06d}".rstrip("0").rstrip(".")
