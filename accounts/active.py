"""Selection of the organization that a request works in.

The order is: an organization named by the request, the API key's organization, the organization chosen in the
session, the user's personal organization.
"""

from typing import Any
from uuid import UUID

from django.http import Http404, HttpRequest

from accounts.models import Organization

SESSION_KEY = "organization"
HEADER = "X-Organization"


def active_organization(request: Any, requested_id: Any = None) -> Organization:
    """Return the organization that a request works in.

    ``requested_id``, the query parameter ``organization`` and the header ``X-Organization`` name it, in this
    order. Without them, use the API key's organization, then the session's, then the user's personal one.
    Raise ``Http404`` if the caller may not see the named organization or if its id is not a UUID.
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
    """Return the organization id named by the argument, the request or the API key; None if there is no id.

    Does not check whether the caller may see the organization. Raise ``Http404`` if the id is not a UUID.
    """
    text = requested_id or request.GET.get("organization") or request.headers.get(HEADER)
    text = text or request.user.bound_organization_id
    return _parse_id(text) if text else None


def choose(request: HttpRequest, organization: Organization) -> None:
    """Store in the session the organization that pages work in from now on. Safe to repeat."""
    request.session[SESSION_KEY] = str(organization.pk)


def _parse_id(text: Any) -> UUID:
    try:
        return text if isinstance(text, UUID) else UUID(str(text))
    except ValueError as error:
        raise Http404 from error
