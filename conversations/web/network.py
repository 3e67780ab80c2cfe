"""The settings page of sandboxes' network profile, and the words for profiles and decisions on all pages."""

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from accounts.active import active_organization
from accounts.permissions import permissions_in, require
from accounts.requests import AuthenticatedRequest
from conversations import services
from conversations.models import Conversation, EgressDecision
from conversations.web.forms import NetworkForm
from conversations.web.isolation import build_server_isolation
from lib.forms import render_form
from lib.problems import Problem

PROFILES: dict[str, tuple[str, str]] = {
    "public": (
        "Any public host",
        "Agents can reach every host on the public internet, but no private, local or reserved addresses.",
    ),
    "list": (
        "Only listed hosts",
        "Agents can reach only listed hosts. If another host is refused, the conversation asks whether to allow it.",
    ),
    "none": (
        "No hosts",
        "Agents can reach only this server: the model and the API. Lists of hosts have no effect.",
    ),
    "open": (
        "Full network",
        "Agents can use any protocol and reach private networks. Single connections are not logged.",
    ),
}
"""By profile: its name and its meaning."""
REASONS = {
    "gateway": "this server",
    "public": "public host",
    "listed": "listed host",
    "private-named": "named by an administrator",
    "not-listed": "not listed",
    "denied": "refused by a rule",
    "private-address": "private address",
    "open": "full network",
    "profile-none": "the profile allows no hosts",
    "unresolvable": "no such host",
    "unreachable": "not reachable",
    "malformed": "malformed request",
}
"""By reason of a decision: its words."""
NEWEST_DECISIONS = 20


@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def sandbox_settings(request: AuthenticatedRequest) -> HttpResponse:
    """Show and save the network profile and the listed hosts of the active organization's sandboxes."""
    user, organization = request.user, active_organization(request)
    require(user, organization.pk, "organization.view")
    row = services.get_egress_policy(organization_id=organization.pk)
    initial = {"profile": row.profile, "hosts": "\n".join(row.hosts)}
    form = NetworkForm(request.POST if request.method == "POST" else None, initial=initial)
    if form.is_bound:
        try:
            require(user, organization.pk, "egress.edit")
            if form.is_valid():
                services.set_egress_policy(organization=organization, by=user, **form.cleaned_data)
                messages.success(
                    request, "Saved. Running sandboxes follow the new profile at once."
                )
                return redirect(f"{reverse('settings-sandboxes')}?organization={organization.pk}")
        except Problem as refusal:
            form.refuse(refusal)
    site = services.site_egress()
    offered = set(PROFILES)
    # The full network stays in the list of an organization that has it, so that its page shows the choice.
    if row.profile != "open" and services.explain_no_open_network():
        offered.remove("open")
    context = {
        "organization": organization,
        "row": row,
        "site": site,
        "site_profile": PROFILES[site.profile],
        "profiles": [(value, *words) for value, words in PROFILES.items() if value in offered],
        "server": build_server_isolation(is_staff=user.is_staff),
        "may_edit": "egress.edit" in permissions_in(user, organization.pk),
        "hosts_example": "pypi.org\n*.example.com",
    }
    return render_form(request, "conversations/sandboxes.html", form, context)


def build_network(conversation: Conversation) -> dict[str, Any]:
    """Return the network rules of a conversation and its newest decisions, in words, for a page."""
    state = services.describe_egress(conversation=conversation)
    decisions = EgressDecision.objects.filter(conversation=conversation).order_by("-at", "-pk")
    name, meaning = PROFILES[state.profile]
    return {
        "state": state,
        "name": name,
        "meaning": meaning,
        "decisions": [
            (decision, REASONS.get(decision.reason, decision.reason))
            for decision in decisions[:NEWEST_DECISIONS]
        ],
    }
