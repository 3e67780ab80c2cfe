"""The pages of organizations: the list, one with its members and invitations, and joining by a link."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from accounts import active
from accounts.models import Invitation, Membership, Organization, ServiceAccount
from accounts.permissions import permissions_in, require
from accounts.roles import RANKS
from accounts.services import organizations as verbs
from lib.problems import Problem

LISTED = 500


class BadForm(Problem):
    """A form that no page of ours sends."""

    code = "bad-form"
    sentence = "This form cannot be used as it is. Load the page again."


@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def organizations(request: HttpRequest) -> HttpResponse:
    """The organizations one belongs to, which of them one works in, and a form for another."""
    context: dict[str, Any] = {}
    status = 200
    if request.method == "POST":
        try:
            made = verbs.create_organization(user=request.user, name=request.POST.get("name", ""))
            messages.success(request, f"“{made.name}” is made. You own it.")
            return redirect("organization", organization_id=made.pk)
        except Problem as refusal:
            context = {"error": refusal.detail, "name": request.POST.get("name", "")}
            status = refusal.status
    rows = request.user.memberships.select_related("organization").order_by("created_at")
    context |= {"memberships": rows, "active": active.active_organization(request)}
    return render(request, "accounts/organizations.html", context, status=status)


@login_required
@never_cache
@require_http_methods(["GET", "HEAD"])
def organization(request: HttpRequest, organization_id: UUID) -> HttpResponse:
    """One organization: who belongs to it, who is invited, and what one may do about it."""
    return _shown(request, _found(request, organization_id))


@login_required
@never_cache
@require_POST
def act(request: HttpRequest, organization_id: UUID, action: str) -> HttpResponse:
    """Carry out one of ``ACTIONS``; a refusal shows the page again with its sentence."""
    found = _found(request, organization_id)
    verb = ACTIONS.get(action)
    if verb is None:
        raise Http404
    permission, carry_out = verb
    try:
        require(request.user, found.pk, permission)
        answer = carry_out(request, found)
    except Problem as refusal:
        return _shown(request, found, error=refusal.detail, status=refusal.status)
    return answer or redirect("organization", organization_id=found.pk)


@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def invitation(request: HttpRequest, link: str) -> HttpResponse:
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


def _found(request: HttpRequest, organization_id: UUID) -> Organization:
    return get_object_or_404(Organization.objects.visible_to(request.user), pk=organization_id)


def _shown(
    request: HttpRequest, found: Organization, *, status: int = 200, **context: Any
) -> HttpResponse:
    held = permissions_in(request.user, found.pk)
    user: Any = request.user
    own = Membership.objects.filter(organization=found, user_id=user.pk).first()
    context |= {
        "organization": found,
        "own": own,
        "may": {name.replace(".", "_") for name in held},
        "roles": _roles_up_to(own),
        "is_active": active.active_organization(request).pk == found.pk,
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
    return render(request, "accounts/organization.html", context, status=status)


def _roles_up_to(own: Membership | None) -> list[tuple[str, str]]:
    """The roles that a member may give."""
    rank = RANKS[own.role] if own else -1
    return [(str(role), role.label) for role in Membership.Role if RANKS[role] <= rank]


# --- What the forms do --------------------------------------------------------------


def _member_of(request: HttpRequest) -> UUID:
    try:
        return UUID(request.POST.get("member", ""))
    except ValueError as error:
        raise BadForm from error


def _role_of(request: HttpRequest) -> str:
    role = request.POST.get("role", "")
    if role not in Membership.Role.values:
        raise BadForm
    return role


def _rename(request: HttpRequest, found: Organization) -> None:
    verbs.rename_organization(organization=found, name=request.POST.get("name", ""))
    messages.success(request, "Renamed.")


def _switch(request: HttpRequest, found: Organization) -> HttpResponse:
    active.choose(request, found)
    messages.success(request, f"You work in “{found.name}” now.")
    return redirect("organizations")


def _invite(request: HttpRequest, found: Organization) -> HttpResponse:
    numbers = [request.POST.get(name, "") for name in ("days", "max_uses")]
    if not all(text.isascii() and text.isdigit() and len(text) < 5 for text in numbers):
        raise BadForm
    made, link = verbs.invite(
        organization=found,
        by=request.user,
        role=_role_of(request),
        email=request.POST.get("email", ""),
        days=int(numbers[0]),
        max_uses=int(numbers[1]),
    )
    mailed = verbs.mail_invitation(invitation=made, link=link)
    return _shown(request, found, status=201, made=made, link=link, mailed=mailed)


def _take_back(request: HttpRequest, found: Organization) -> None:
    rows = Invitation.objects.visible_to(request.user).filter(organization=found)
    try:
        wanted = UUID(request.POST.get("invitation", ""))
    except ValueError as error:
        raise BadForm from error
    row = get_object_or_404(rows.select_related("organization"), pk=wanted)
    verbs.revoke_invitation(invitation=row)
    messages.success(request, "The invitation is taken back.")


def _role(request: HttpRequest, found: Organization) -> None:
    verbs.change_role(
        organization=found, by=request.user, user_id=_member_of(request), role=_role_of(request)
    )
    messages.success(request, "The role is changed.")


def _remove(request: HttpRequest, found: Organization) -> None:
    verbs.remove_member(organization=found, by=request.user, user_id=_member_of(request))
    messages.success(request, "Removed. Keys and open windows of this member stopped working here.")


def _leave(request: HttpRequest, found: Organization) -> HttpResponse:
    verbs.leave_organization(organization=found, user=request.user)
    messages.success(request, f"You left “{found.name}”.")
    return redirect("organizations")


def _transfer(request: HttpRequest, found: Organization) -> None:
    verbs.transfer_organization(organization=found, by=request.user, user_id=_member_of(request))
    messages.success(request, "Handed over. You are an admin now.")


ACTIONS: dict[str, tuple[str, Callable[[HttpRequest, Organization], HttpResponse | None]]] = {
    "rename": ("organization.edit", _rename),
    "switch": ("organization.view", _switch),
    "invite": ("invitations.edit", _invite),
    "take-back": ("invitations.edit", _take_back),
    "role": ("members.edit", _role),
    "remove": ("members.edit", _remove),
    "leave": ("organization.leave", _leave),
    "transfer": ("organization.transfer", _transfer),
}
"""What a form may ask for: the permission it needs, and how it is done."""
