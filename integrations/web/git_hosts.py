"""The page "Git hosts", where a user connects and disconnects GitHub."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import redirect
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from accounts import permissions
from accounts.active import active_organization
from accounts.requests import AuthenticatedRequest
from accounts.services import provider_tokens
from integrations import services
from integrations.web.forms import ConnectForm, DisconnectForm
from lib.forms import render_form
from lib.problems import Problem


@sensitive_post_parameters("token")
@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def git_hosts(request: AuthenticatedRequest) -> HttpResponse:
    """Show whether GitHub is connected, and connect or disconnect it with the forms of the page."""
    user, organization = request.user, active_organization(request)
    permissions.require(user, organization.pk, "integrations.view")
    form = ConnectForm(request.POST if request.method == "POST" else None)
    if form.is_bound:
        try:
            permissions.require(user, organization.pk, "integrations.edit")
            # The button has its own form, so a valid DisconnectForm means that the user pressed it.
            if DisconnectForm(request.POST).is_valid():
                provider_tokens.remove_provider_token(
                    user=user, organization=organization, provider="github"
                )
                messages.success(request, "GitHub is disconnected, and the token is deleted.")
                return redirect("git-hosts")
            if form.is_valid():
                _, owner = services.connect(
                    user=user,
                    organization=organization,
                    provider_name="github",
                    token=form.cleaned_data["token"],
                    host_name=form.cleaned_data["host"],
                )
                messages.success(request, f"GitHub is connected as {owner.login}.")
                return redirect("git-hosts")
        except Problem as problem:
            form.refuse(problem)
    rows = provider_tokens.provider_tokens(user_id=user.pk, organization_id=organization.pk)
    context = {"token": next((row for row in rows if row.provider == "github"), None)}
    return render_form(request, "integrations/git_hosts.html", form, context)
