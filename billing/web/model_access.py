"""The pages with the model server of a user's conversations, and with the one that an organization lends."""

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from accounts import permissions
from accounts.active import active_organization
from accounts.models import Organization
from accounts.requests import AuthenticatedRequest
from billing import services
from billing.gateway import checking, listing
from billing.models import ModelAccess
from billing.web import model_servers
from billing.web.forms import DemoForm, ModelAccessForm, to_dollars
from lib.forms import render_form
from lib.problems import Problem

PRESETS = [
    ("OpenAI", "https://api.openai.com/v1", "gpt-5.1"),
    ("OpenRouter", "https://openrouter.ai/api/v1", "anthropic/claude-sonnet-4.5"),
    ("Ollama on this machine", "http://127.0.0.1:11434/v1", "qwen3-coder"),
    ("LiteLLM proxy", "http://127.0.0.1:4000/v1", ""),
]


@sensitive_post_parameters("api_key")
@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def model_settings(request: AuthenticatedRequest) -> HttpResponse:
    """Show and save the user's model server, test it with short calls, or return to the demo model."""
    user, organization = request.user, active_organization(request)
    permissions.require(user, organization.pk, "model_access.view")
    access = services.get_model_access(organization_id=organization.pk, user_id=user.pk)
    form = ModelAccessForm(
        request.POST if request.method == "POST" else None, initial=_initial(access)
    )
    found: tuple[str, ...] = ()
    if form.is_bound:
        try:
            permissions.require(user, organization.pk, "model_access.edit")
            # The button has its own form, so a valid DemoForm means that the user pressed it.
            if DemoForm(request.POST).is_valid():
                services.clear_model_access(organization_id=organization.pk, user_id=user.pk)
                messages.success(
                    request,
                    "Conversations use the demo model again. The URL and the API key of your model server were "
                    "deleted.",
                )
                return redirect("settings-model")
            if form.is_valid():
                access = _save(request, organization, form)
                if form.cleaned_data["intent"] == "test":
                    result = checking.check_model_access(access)
                    notify = messages.warning if result.warnings else messages.success
                    notify(request, result.text)
                else:
                    messages.success(request, "Saved. Conversations use this model from now on.")
                _report_models(request, access)
                return redirect("settings-model")
        except checking.ModelCheckFailed as problem:
            form.refuse(problem)
            found = listing.list_models(access).names if access else ()
        except Problem as problem:
            form.refuse(problem)
    context: dict[str, Any] = {"access": access, "found_models": found}
    context |= _servers(request, model_servers.Place(organization, lends=False))
    return render_form(request, "billing/model.html", form, context)


def _report_models(request: AuthenticatedRequest, access: ModelAccess) -> None:
    """Add a message that lists the server's models, and a warning if ``/v1`` is missing or the model is not listed."""
    found = listing.list_models(access)
    if found.reason:
        better = listing.suggest_base_url(access)
        advice = f" The server has its API at {better}. Enter this URL." if better else ""
        messages.warning(request, f"{found.describe()}{advice}")
    elif found.names and access.model not in found.names:
        messages.warning(request, f"“{access.model}” is not listed. {found.describe()}")
    else:
        messages.info(request, found.describe())


@sensitive_post_parameters("api_key")
@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def organization_model(request: AuthenticatedRequest, organization_id: UUID) -> HttpResponse:
    """Show and save the model server that an organization lends to conversations that several members steer."""
    visible = Organization.objects.visible_to(request.user)
    organization = get_object_or_404(visible, pk=organization_id)
    permissions.require(request.user, organization.pk, "organization_settings.view")
    access = services.get_model_access(organization_id=organization.pk, user_id=None)
    form = ModelAccessForm(
        request.POST if request.method == "POST" else None, initial=_initial(access)
    )
    if form.is_bound:
        try:
            permissions.require(request.user, organization.pk, "organization_settings.edit")
            if DemoForm(request.POST).is_valid():
                services.clear_model_access(organization_id=organization.pk, user_id=None)
                messages.success(request, "The organization lends no model any more.")
                return redirect("organization-model", organization_id=organization.pk)
            if form.is_valid():
                access = services.save_model_access(
                    organization=organization, user=None, **form.build_arguments()
                )
                if form.cleaned_data["intent"] == "test":
                    result = checking.check_model_access(access)
                    notify = messages.warning if result.warnings else messages.success
                    notify(request, result.text)
                else:
                    messages.success(
                        request, "Saved. Conversations that several members steer use this model."
                    )
                return redirect("organization-model", organization_id=organization.pk)
        except Problem as problem:
            form.refuse(problem)
    context: dict[str, Any] = {"access": access, "organization": organization}
    context |= _servers(request, model_servers.Place(organization, lends=True))
    return render_form(request, "billing/model.html", form, context)


def _servers(request: AuthenticatedRequest, place: model_servers.Place) -> dict[str, Any]:
    """Return the context of the known servers, without those on this machine that the user could not use.

    Only without JavaScript, the page itself looks for servers on this machine.
    """
    presets = [preset for preset in PRESETS if services.may_set(request.user, preset[1])]
    return {"presets": presets} | model_servers.describe_servers(
        request, place, look="look" in request.GET
    )


def _save(
    request: AuthenticatedRequest, organization: Organization, form: ModelAccessForm
) -> ModelAccess:
    return services.save_model_access(
        organization=organization, user=request.user, **form.build_arguments()
    )


def _initial(access: ModelAccess | None) -> dict[str, str]:
    if access is None:
        return {}
    return {
        "base_url": access.base_url,
        "model": access.model,
        "prompt_price": to_dollars(access.prompt_micros_per_million),
        "completion_price": to_dollars(access.completion_micros_per_million),
        "cached_price": to_dollars(access.cached_micros_per_million),
    }
