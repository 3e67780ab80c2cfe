"""The part of the model pages with the model servers on this machine: find them, use a model, and allow a server."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from accounts import permissions
from accounts.active import active_organization
from accounts.models import Organization
from accounts.requests import AuthenticatedRequest
from accounts.sign_in import second_step
from billing import services
from billing.gateway import checking, local_servers
from billing.gateway.server_kinds import FoundServer
from billing.models import AllowedModelServer, ModelAccess
from billing.web.forms import ModelServerForm
from lib import url_guard
from lib.problems import Problem
from lib.routes import RouteFacts


class NoSuchServer(Problem):
    """The model server that the button names was not found."""

    status = 409
    code = "model-server-not-found"
    sentence = (
        "The model server does not answer any more, or no longer has this model. Check that it is running, and look "
        "for model servers again."
    )


class NeedsSecondFactor(Problem):
    """The session lacks the second factor that the admin site requires too."""

    status = 403
    code = "second-factor-needed"
    sentence = (
        "Allowing a model server for all users needs a second factor, like the admin site. Turn it on under Settings, "
        "Second factor, and sign in with it."
    )


@dataclass(frozen=True)
class Place:
    """The model page on which model servers are shown: a user's, or an organization's if ``lends`` is true."""

    organization: Organization
    lends: bool

    @property
    def url(self) -> str:
        if self.lends:
            return reverse("organization-model", args=[self.organization.pk])
        return reverse("settings-model")

    @property
    def part_url(self) -> str:
        """The URL of the part of the page with the model servers."""
        url = reverse("model-servers")
        return f"{url}?{urlencode({'organization': self.organization.pk})}" if self.lends else url


@RouteFacts(cost="spend")
@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def model_servers(request: AuthenticatedRequest) -> HttpResponse:
    """Return the found servers as a part of the page; on POST, carry out an action and return to the page.

    Administrators see all model servers at the usual ports, and other users those that an administrator has allowed.
    """
    place = _read_place(request)
    if request.method != "POST":
        return render(request, "billing/_servers.html", describe_servers(request, place, look=True))
    form = ModelServerForm(request.POST)
    try:
        if not form.is_valid():
            raise NoSuchServer
        ACTIONS[form.cleaned_data["action"]](request, place, form.cleaned_data)
    except checking.ModelCheckFailed as problem:
        messages.error(request, f"{problem.detail} The model was not changed.")
    except Problem as problem:
        messages.error(request, problem.detail)
    return redirect(place.url)


def describe_servers(request: AuthenticatedRequest, place: Place, *, look: bool) -> dict[str, Any]:
    """Return the template context of the servers. Without ``look``, nothing is asked and the page shows a button."""
    manages = services.may_manage_servers(request.user)
    allowed = services.list_allowed_servers()
    is_off = url_guard.refuses_this_machine()
    is_shown = manages or (bool(allowed) and url_guard.is_by_permission())
    context: dict[str, Any] = {
        "place": place,
        "manages": manages,
        "may_lend": not place.organization.personal_of_id
        and "organization_settings.edit"
        in permissions.permissions_in(request.user, place.organization.pk),
        "is_off": is_off,
        "is_shown": is_shown,
        "is_open_to_all": url_guard.is_open_to_all(),
        "ports": local_servers.list_ports(),
        "look": look,
    }
    if not look or is_off or not is_shown:
        return context
    found = _find(request, allowed)
    allowed_ports = {server.port for server in allowed}
    access = services.get_model_access(
        organization_id=place.organization.pk, user_id=None if place.lends else request.user.pk
    )
    return context | {
        "access": access,
        "servers": [
            {
                "found": server,
                "is_allowed": server.port in allowed_ports,
                "current": _model_in_use(server, access),
            }
            for server in found
        ],
        "silent": [s for s in allowed if s.port not in {server.port for server in found}],
    }


def _find(request: HttpRequest, allowed: list[AllowedModelServer]) -> list[FoundServer]:
    """Return the model servers that the user may see. A user who manages no servers causes no other requests."""
    again = "again" in request.GET
    if services.may_manage_servers(request.user):
        return local_servers.find_servers(again=again)
    ports = [port for port in local_servers.list_ports() if port in {s.port for s in allowed}]
    return local_servers.find_servers(ports, again=again)


def _model_in_use(server: FoundServer, access: ModelAccess | None) -> str:
    if access is None or url_guard.loopback_port(access.base_url) != server.port:
        return ""
    return access.model


def _read_place(request: AuthenticatedRequest) -> Place:
    """Return the page that the request comes from. Raise ``Http404`` for an organization that is not visible."""
    given = (request.POST if request.method == "POST" else request.GET).get("organization", "")
    if not given:
        organization = active_organization(request)
        permissions.require(request.user, organization.pk, "model_access.view")
        return Place(organization, lends=False)
    try:
        organization_id = UUID(given)
    except ValueError as error:
        raise Http404 from error
    visible = Organization.objects.visible_to(request.user)
    organization = get_object_or_404(visible, pk=organization_id)
    permissions.require(request.user, organization.pk, "organization_settings.view")
    return Place(organization, lends=True)


# --- Actions of the buttons -----------------------------------------------------------


def _use(request: AuthenticatedRequest, place: Place, data: dict[str, Any]) -> None:
    """Test a found model and, if the test succeeds, use it for the user or let the organization lend it.

    Lending it also allows its server for all users, because members of the organization use it then.
    """
    permission = "organization_settings.edit" if place.lends else "model_access.edit"
    permissions.require(request.user, place.organization.pk, permission)
    server = _find_one(request, data["port"])
    if not any(model.name == data["model"] and not model.unfit for model in server.models):
        raise NoSuchServer
    allows = place.lends and url_guard.is_by_permission() and not _is_allowed(server.port)
    if allows:
        _require_manager(request)
    tested = ModelAccess(
        organization=place.organization,
        user=request.user,
        base_url=server.base_url,
        model=data["model"],
    )
    # Tested before it is saved, so that a model that does not work replaces none that does.
    result = checking.check_model_access(tested)
    local_servers.forget_servers()  # the model is loaded now, so its context is known
    if allows:
        _allow(request, place, data)
    services.save_model_access(
        organization=place.organization,
        user=None if place.lends else request.user,
        base_url=server.base_url,
        model=data["model"],
        api_key="",
    )
    who = f"{place.organization.name} lends" if place.lends else "Conversations use"
    messages.success(
        request, f"{who} {data['model']} of {server.name} from now on. {result.sentence}"
    )
    if result.warnings:
        messages.warning(request, " ".join(result.warnings))


def _allow(request: AuthenticatedRequest, place: Place, data: dict[str, Any]) -> None:
    """Allow a found server for all users."""
    _require_manager(request)
    server = _find_one(request, data["port"])
    services.allow_model_server(port=server.port, name=server.kind, by=request.user)
    messages.success(request, f"All users may now use {server.name} at {server.address}.")


def _disallow(request: AuthenticatedRequest, place: Place, data: dict[str, Any]) -> None:
    """Take the permission for a server back, also if the server does not run now."""
    _require_manager(request)
    services.disallow_model_server(port=data["port"])
    messages.success(
        request,
        f"Only administrators may use the model server at port {data['port']} now. Conversations of other users that "
        "use it get an error from their next model call on.",
    )


ACTIONS = {"use": _use, "allow": _allow, "disallow": _disallow}


def _require_manager(request: AuthenticatedRequest) -> None:
    if not services.may_manage_servers(request.user):
        raise permissions.MissingPermission(
            "Only an administrator of this server can allow model servers on this machine."
        )
    if not second_step.allows_admin_site(request):
        raise NeedsSecondFactor


def _is_allowed(port: int) -> bool:
    return any(server.port == port for server in services.list_allowed_servers())


def _find_one(request: AuthenticatedRequest, port: int) -> FoundServer:
    """Return the server at a port, if the user may see it and it answers now. Raise ``NoSuchServer``."""
    may_see = services.may_manage_servers(request.user) or _is_allowed(port)
    if url_guard.refuses_this_machine() or not may_see or port not in local_servers.list_ports():
        raise NoSuchServer
    for server in local_servers.search([port]):
        return server
    raise NoSuchServer
