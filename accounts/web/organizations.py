"""The pages of organizations: the list, one with its members and invitations, and joining by a link."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from accounts import active
from accounts.models import Invitation, Membership, Organization, ServiceAccount
from accounts.permissions import permissions_in, require
from accounts.requests import AuthenticatedRequest
from accounts.roles import RANKS
from accounts.services import organizations as verbs
from accounts.web.forms.organizations import (
    InvitationForm,
    InviteForm,
    MemberForm,
    OrganizationForm,
    RoleForm,
)
from lib.forms import PageForm, render_form
from lib.problems import Problem

LISTED = 500


@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def organizations(request: AuthenticatedRequest) -> HttpResponse:
    """The organizations one belongs to, which of them one works in, and a form for another."""
    form = OrganizationForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        try:
            made = verbs.create_organization(user=request.user, name=form.cleaned_data["name"])
            messages.success(request, f"“{made.name}” is made. You own it.")
            return redirect("organization", organization_id=made.pk)
        except Problem as refusal:
            form.refuse(refusal)
    rows = request.user.memberships.select_related("organization").order_by("created_at")
    context = {"memberships": rows, "active": active.active_organization(request)}
    return render_form(request, "accounts/organizations.html", form, context)


@login_required
@never_cache
@require_http_methods(["GET", "HEAD"])
def organization(request: AuthenticatedRequest, organization_id: UUID) -> HttpResponse:
    """One organization: who belongs to it, who is invited, and what one may do about it."""
    return _shown(request, _found(request, organization_id), PageForm())


@login_required
@never_cache
@require_POST
def act(request: AuthenticatedRequest, organization_id: UUID, action: str) -> HttpResponse:
    """Carry out one of ``ACTIONS``; a refusal shows the page again with its sentence."""
    found = _found(request, organization_id)
    if action not in ACTIONS:
        raise Http404
    permission, form_class, carry_out = ACTIONS[action]
    form = form_class(request.POST)
    try:
        require(request.user, found.pk, permission)
        if form.is_valid():
            answer = carry_out(request, found, form.cleaned_data)
            return answer or redirect("organization", organization_id=found.pk)
    except Problem as refusal:
        form.refuse(refusal)
    return _shown(request, found, form)


@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def invitation(request: AuthenticatedRequest, link: str) -> HttpResponse:
    """What an invitation's link leads to; the button joins, opening the page does not."""
    try:
        found = verbs.find_invitation(link)
        if request.method == "POST":
            own = verbs.accept_invitation(token=link, user=request.user)
            active.choose(request, own.organization)
            messages.success(request, f"You belong to “{own.organization.name}” now.")
            return redirect("organization", organization_id=own.organization_id)
    except Problem as refusal:
        context = {"sentence": refusal.detail}
        return render(request, "accounts/invitation_used.html", context, status=refusal.status)
    return render(request, "accounts/invitation.html", {"invitation": found})


def _found(request: AuthenticatedRequest, organization_id: UUID) -> Organization:
    return get_object_or_404(Organization.objects.visible_to(request.user), pk=organization_id)


def _shown(
    request: AuthenticatedRequest,
    found: Organization,
    form: PageForm,
    *,
    status: int = 200,
    **context: Any,
) -> HttpResponse:
    """Render the page; ``form`` is the one that was sent, whose errors and values are shown."""
    held = permissions_in(request.user, found.pk)
    own = Membership.objects.filter(organization=found, user_id=request.user.pk).first()
    is_rename, is_invite = isinstance(form, OrganizationForm), isinstance(form, InviteForm)
    context |= {
        "organization": found,
        "own": own,
        "may": {name.replace(".", "_") for name in held},
        "roles": _roles_up_to(own),
        "is_active": active.active_organization(request).pk == found.pk,
        "rename": form if is_rename else OrganizationForm(initial={"name": found.name}),
        "invite": form if is_invite else InviteForm(),
    }
    if "members.view" in held:
        members = found.memberships.select_related("user", "user__service_account")
        context["members"] = members.order_by("created_at")[:LISTED]
    if "invitations.view" in held:
        rows = Invitation.objects.visible_to(request.user).filter(organization=found).open()
        context["invitations"] = rows.order_by("-created_at")[:LISTED]
    if "service_accounts.view" in held:
        programs = ServiceAccount.objects.visible_to(request.user).filter(organization=found)
        context["programs"] = programs.filter(revoked_at=None).order_by("-created_at")[:LISTED]
    return render_form(request, "accounts/organization.html", form, context, status=status)


def _roles_up_to(own: Membership | None) -> list[tuple[str, str]]:
    """The roles that a member may give."""
    rank = RANKS[own.role] if own else -1
    return [(str(role), role.label) for role in Membership.Role if RANKS[role] <= rank]


# --- What the forms do --------------------------------------------------------------


Data = dict[str, Any]


def _rename(request: AuthenticatedRequest, found: Organization, data: Data) -> None:
    verbs.rename_organization(organization=found, name=data["name"])
    messages.success(request, "Renamed.")


def _switch(request: AuthenticatedRequest, found: Organization, _data: Data) -> HttpResponse:
    active.choose(request, found)
    messages.success(request, f"You work in “{found.name}” now.")
    return redirect("organizations")


def _invite(request: AuthenticatedRequest, found: Organization, data: Data) -> HttpResponse:
    made, link = verbs.invite(organization=found, by=request.user, **data)
    mailed = verbs.mail_invitation(invitation=made, link=link)
    return _shown(request, found, PageForm(), status=201, made=made, link=link, mailed=mailed)


def _take_back(request: AuthenticatedRequest, found: Organization, data: Data) -> None:
    rows = Invitation.objects.visible_to(request.user).filter(organization=found)
    row = get_object_or_404(rows.select_related("organization"), pk=data["invitation"])
    verbs.revoke_invitation(invitation=row)
    messages.success(request, "The invitation is taken back.")


def _role(request: AuthenticatedRequest, found: Organization, data: Data) -> None:
    verbs.change_role(
        organization=found, by=request.user, user_id=data["member"], role=data["role"]
    )
    messages.success(request, "The role is changed.")


def _remove(request: AuthenticatedRequest, found: Organization, data: Data) -> None:
    verbs.remove_member(organization=found, by=request.user, user_id=data["member"])
    messages.success(request, "Removed. Keys and open windows of this member stopped working here.")


def _leave(request: AuthenticatedRequest, found: Organization, _data: Data) -> HttpResponse:
    verbs.leave_organization(organization=found, user=request.user)
    messages.success(request, f"You left “{found.name}”.")
    return redirect("organizations")


def _transfer(request: AuthenticatedRequest, found: Organization, data: Data) -> None:
    verbs.transfer_organization(organization=found, by=request.user, user_id=data["member"])
    messages.success(request, "Handed over. You are an admin now.")


Act = Callable[[AuthenticatedRequest, Organization, Data], HttpResponse | None]
ACTIONS: dict[str, tuple[str, type[PageForm], Act]] = {
    "rename": ("organization.edit", OrganizationForm, _rename),
    "switch": ("organization.view", PageForm, _switch),
    "invite": ("invitations.edit", InviteForm, _invite),
    "take-back": ("invitations.edit", InvitationForm, _take_back),
    "role": ("members.edit", RoleForm, _role),
    "remove": ("members.edit", MemberForm, _remove),
    "leave": ("organization.leave", PageForm, _leave),
    "transfer": ("organization.transfer", MemberForm, _transfer),
}
"""What the page's forms do: the permission that an action needs, its form, and how it is done."""
