"""The pages of organizations: the list, an organization with its members, and the page of an invitation link."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from accounts import active, limits
from accounts.models import Invitation, Membership, Organization, ServiceAccount
from accounts.permissions import permissions_in, require
from accounts.requests import AuthenticatedRequest
from accounts.roles import RANKS
from accounts.services import invitations
from accounts.services import organizations as services
from accounts.web.forms.organizations import (
    InvitationForm,
    InviteForm,
    MemberForm,
    OrganizationForm,
    RoleForm,
)
from lib.forms import PageForm, render_form
from lib.problems import Problem

ROWS_MAX = 500
"""The maximum number of members, invitations or service accounts that a page lists."""


@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def organizations(request: AuthenticatedRequest) -> HttpResponse:
    """List the user's organizations, mark the active one, and create an organization."""
    form = OrganizationForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        try:
            new = services.create_organization(user=request.user, name=form.cleaned_data["name"])
            messages.success(request, f"Created the organization “{new.name}”. You are its owner.")
            return redirect("organization", organization_id=new.pk)
        except Problem as refusal:
            form.refuse(refusal)
    rows = request.user.memberships.select_related("organization").order_by("created_at")
    context = {"memberships": rows, "active": active.active_organization(request)}
    return render_form(request, "accounts/organizations.html", form, context)


@login_required
@never_cache
@require_http_methods(["GET", "HEAD"])
def organization(request: AuthenticatedRequest, organization_id: UUID) -> HttpResponse:
    """Show an organization with its members, invitations and service accounts, as the user's role allows."""
    return _render(request, _get_organization(request, organization_id), PageForm())


@login_required
@never_cache
@require_POST
def act(request: AuthenticatedRequest, organization_id: UUID, action: str) -> HttpResponse:
    """Carry out one of ``ACTIONS``. After an error, show the page again with the message of the error."""
    organization = _get_organization(request, organization_id)
    if action not in ACTIONS:
        raise Http404
    permission, form_class, carry_out = ACTIONS[action]
    form = form_class(request.POST)
    try:
        require(request.user, organization.pk, permission)
        if form.is_valid():
            response = carry_out(request, organization, form.cleaned_data)
            return response or redirect("organization", organization_id=organization.pk)
    except Problem as refusal:
        form.refuse(refusal)
    return _render(request, organization, form)


@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def invitation(request: AuthenticatedRequest, link: str) -> HttpResponse:
    """Show the invitation to which a link leads; on POST, join the organization. A GET only shows the invitation."""
    try:
        if request.method == "POST":
            membership = invitations.accept_invitation(token=link, user=request.user)
            active.choose(request, membership.organization)
            messages.success(request, f"You are now a member of “{membership.organization.name}”.")
            return redirect("organization", organization_id=membership.organization_id)
        row = invitations.find_invitation(link)
    except Problem as refusal:
        # A member may open the link again, for example with the back button: link to the organization.
        joined = invitations.find_joined(token=link, user=request.user)
        context = {"sentence": refusal.detail, "joined": joined}
        return render(request, "accounts/invitation_used.html", context, status=refusal.status)
    return render(request, "accounts/invitation.html", {"invitation": row})


def _get_organization(request: AuthenticatedRequest, organization_id: UUID) -> Organization:
    return get_object_or_404(Organization.objects.visible_to(request.user), pk=organization_id)


def _render(
    request: AuthenticatedRequest,
    organization: Organization,
    form: PageForm,
    *,
    status: int = 200,
    **context: Any,
) -> HttpResponse:
    """Render the page of an organization. ``form`` is the submitted form; the page shows its values and errors."""
    allowed = permissions_in(request.user, organization.pk)
    own = Membership.objects.filter(organization=organization, user_id=request.user.pk).first()
    is_rename, is_invite = isinstance(form, OrganizationForm), isinstance(form, InviteForm)
    context |= {
        "form_is_drawn": (is_rename and "organization.edit" in allowed)
        or (is_invite and "invitations.edit" in allowed and not organization.personal_of_id),
        "organization": organization,
        "own": own,
        "may": {name.replace(".", "_") for name in allowed},
        "roles": _roles_up_to(own),
        "is_active": active.active_organization(request).pk == organization.pk,
        "rename": form if is_rename else OrganizationForm(initial={"name": organization.name}),
        "invite": form if is_invite else InviteForm(),
    }
    if "members.view" in allowed:
        members = organization.memberships.select_related("user", "user__service_account")
        context["members"] = members.order_by("created_at")[:ROWS_MAX]
    if "invitations.view" in allowed:
        rows = Invitation.objects.visible_to(request.user).filter(organization=organization).open()
        context["invitations"] = rows.order_by("-created_at")[:ROWS_MAX]
    if "service_accounts.view" in allowed:
        programs = ServiceAccount.objects.visible_to(request.user).filter(organization=organization)
        context["programs"] = programs.filter(revoked_at=None).order_by("-created_at")[:ROWS_MAX]
    return render_form(request, "accounts/organization.html", form, context, status=status)


def _roles_up_to(own: Membership | None) -> list[tuple[str, str]]:
    """Return the roles that a member may give, as pairs of value and label: all roles up to the member's own rank."""
    rank = RANKS[own.role] if own else -1
    return [(str(role), role.label) for role in Membership.Role if RANKS[role] <= rank]


# --- Actions of the forms -----------------------------------------------------------


Data = dict[str, Any]


def _rename(request: AuthenticatedRequest, organization: Organization, data: Data) -> None:
    services.rename_organization(organization=organization, name=data["name"])
    messages.success(request, "The organization was renamed.")


def _switch(request: AuthenticatedRequest, organization: Organization, _data: Data) -> HttpResponse:
    active.choose(request, organization)
    messages.success(request, f"You now work in “{organization.name}”.")
    return redirect("organizations")


def _invite(request: AuthenticatedRequest, organization: Organization, data: Data) -> HttpResponse:
    if data.get("email"):
        limits.check_mail(request, recipient=data["email"])
    row, link = invitations.invite(organization=organization, by=request.user, **data)
    context = {"new": row, "link": link}
    context["is_mailed"] = invitations.mail_invitation(invitation=row, link=link)
    # Not a redirect: this response is the only page that can show the link.
    return _render(request, organization, PageForm(), status=201, **context)


def _revoke(request: AuthenticatedRequest, organization: Organization, data: Data) -> None:
    rows = Invitation.objects.visible_to(request.user).filter(organization=organization)
    row = get_object_or_404(rows.select_related("organization"), pk=data["invitation"])
    invitations.revoke_invitation(invitation=row)
    messages.success(request, "The invitation was revoked. Its link no longer works.")


def _change_role(request: AuthenticatedRequest, organization: Organization, data: Data) -> None:
    services.change_role(
        organization=organization, by=request.user, user_id=data["member"], role=data["role"]
    )
    messages.success(request, "The role was changed.")


def _remove(request: AuthenticatedRequest, organization: Organization, data: Data) -> None:
    services.remove_member(organization=organization, by=request.user, user_id=data["member"])
    messages.success(
        request,
        "The member was removed, and the member's API keys for this organization were revoked.",
    )


def _leave(request: AuthenticatedRequest, organization: Organization, _data: Data) -> HttpResponse:
    services.leave_organization(organization=organization, user=request.user)
    messages.success(request, f"You left “{organization.name}”.")
    return redirect("organizations")


def _transfer(request: AuthenticatedRequest, organization: Organization, data: Data) -> None:
    services.transfer_organization(
        organization=organization, by=request.user, user_id=data["member"]
    )
    messages.success(request, "Ownership was transferred. You are now an admin.")


Action = Callable[[AuthenticatedRequest, Organization, Data], HttpResponse | None]
ACTIONS: dict[str, tuple[str, type[PageForm], Action]] = {
    "rename": ("organization.edit", OrganizationForm, _rename),
    "switch": ("organization.view", PageForm, _switch),
    "invite": ("invitations.edit", InviteForm, _invite),
    "take-back": ("invitations.edit", InvitationForm, _revoke),
    "role": ("members.edit", RoleForm, _change_role),
    "remove": ("members.edit", MemberForm, _remove),
    "leave": ("organization.leave", PageForm, _leave),
    "transfer": ("organization.transfer", MemberForm, _transfer),
}
"""The actions of the page by name: the required permission, the form, and the function that carries it out."""
