"""The active organization: the organization whose data a request reads and changes.

It is the first of these that is set: the organization that the request names, the organization of the API key, the
organization that the browser session stores, the user's personal organization.
"""

from typing import Any
from uuid import UUID

from django.http import Http404, HttpRequest

from accounts.models import Organization

SESSION_KEY = "organization"
HEADER = "X-Organization"


def active_organization(request: Any, requested_id: Any = None) -> Organization:
    """Return the active organization of a request.

    The first of these that is set decides: ``requested_id``, the query parameter ``organization``, the header
    ``X-Organization``, the organization of the API key, the organization in the session, the user's personal
    organization. Raise ``Http404`` if the request names an organization by an id that is not a UUID, or an
    organization to which the caller has no access.
    """
    user: Any = request.user
    visible = Organization.objects.visible_to(user)
    if organization_id := requested_organization_id(request, requested_id):
        organization = visible.filter(pk=organization_id).first()
        if organization is None:
            raise Http404
        return organization
    session = getattr(request, "session", {})
    if chosen_id := session.get(SESSION_KEY):
        organization = visible.filter(pk=chosen_id, suspended_at=None).first()
        if organization is not None:
            return organization
        # The user left the organization, or it was suspended: fall back to the personal one.
        del session[SESSION_KEY]
    personal: Organization = user.personal_organization
    return personal


def requested_organization_id(request: Any, requested_id: Any = None) -> UUID | None:
    """Return the id of the organization that the request names, or None.

    The first of these that is set decides: ``requested_id``, the query string, the header, the API key. This function
    does not check whether the caller has access to the organization. Raise ``Http404`` if the id is not a UUID.
    """
    text = requested_id or request.GET.get("organization") or request.headers.get(HEADER)
    text = text or request.user.bound_organization_id
    return _parse_id(text) if text else None


def choose(request: HttpRequest, organization: Organization) -> None:
    """Store an organization in the session as the active organization of the pages. Safe to repeat."""
    request.session[SESSION_KEY] = str(organization.pk)


def _parse_id(text: Any) -> UUID:
    try:
        return text if isinstance(text, UUID) else UUID(str(text))
    except ValueError as error:
        raise Http404 from error
