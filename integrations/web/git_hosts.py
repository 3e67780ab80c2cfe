"""The page of Git hosts: connect GitHub with a token, and disconnect it."""

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
from accounts.services import provider_tokens
from integrations import services
from lib.problems import Problem


@sensitive_post_parameters("token")
@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def git_hosts(request: HttpRequest) -> HttpResponse:
    """What is connected, and the form for a token."""
    user: Any = request.user
    organization = active_organization(request)
    permissions.require(user, organization.pk, "integrations.view")
    context: dict[str, Any] = {"host": request.POST.get("host", "").strip()}
    status = 200
    if request.method == "POST":
        try:
            permissions.require(user, organization.pk, "integrations.edit")
            if request.POST.get("intent") == "disconnect":
                provider_tokens.remove_provider_token(
                    user=user, organization=organization, provider="github"
                )
                messages.success(request, "GitHub is disconnected; the token is forgotten.")
                return redirect("git-hosts")
            _, owner = services.connect(
                user=user,
                organization=organization,
                provider="github",
                token=request.POST.get("token", ""),
                host=context["host"],
            )
            messages.success(request, f"GitHub is connected as {owner.login}.")
            return redirect("git-hosts")
        except Problem as refusal:
            context["error"], status = refusal.detail, refusal.status
    rows = provider_tokens.provider_tokens(user_id=user.pk, organization_id=organization.pk)
    context["token"] = next((row for row in rows if row.provider == "github"), None)
    return render(request, "integrations/git_hosts.html", context, status=status)
