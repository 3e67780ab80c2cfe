"""The active organization: the organization in which a request works.

It is the first of these: the organization that the request names, the organization of the API key, the organization
that the browser session stores, the user's personal organization.
"""

from typing import Any
from uuid import UUID

from django.http import Http404, HttpRequest

from accounts.models import Organization

SESSION_KEY = "organization"
HEADER = "X-Organization"


def active_organization(request: Any, requested_id: Any = None) -> Organization:
    """Return the active organization of a request.

    ``requested_id`` takes precedence, then the query parameter ``organization``, the header ``X-Organization``, the
    organization of the API key, the organization in the session, and the user's personal organization. Raise
    ``Http404`` if the id is not a UUID or the caller has no access to this organization.
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
    """Return the organization id from ``requested_id``, the query string, the header or the API key, or None.

    The caller's access to the organization is not checked. Raise ``Http404`` if the id is not a UUID.
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
