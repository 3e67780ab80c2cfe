"""In which organization a request works: named by it, else its key's, else chosen in the session, else one's own."""

from typing import Any
from uuid import UUID

from django.http import Http404, HttpRequest

from accounts.models import Organization

SESSION_KEY = "organization"
HEADER = "X-Organization"


def active_organization(request: Any, wanted: Any = None) -> Organization:
    """The organization that ``wanted``, ``?organization=`` or ``X-Organization`` names, among the caller's.

    None of them: that of the API key, else the one chosen on the pages, else the personal one. A choice of
    which one is no member any more is forgotten. Raises ``Http404`` for one that the caller may not see.
    """
    user: Any = request.user
    visible = Organization.objects.visible_to(user)
    if named := named_organization(request, wanted):
        found = visible.filter(pk=named).first()
        if found is None:
            raise Http404
        return found
    session = getattr(request, "session", {})
    if chosen := session.get(SESSION_KEY):
        found = visible.filter(pk=chosen, suspended_at=None).first()
        if found is not None:
            return found
        del session[SESSION_KEY]
    own: Organization = user.personal_organization
    return own


def named_organization(request: Any, wanted: Any = None) -> UUID | None:
    """The one that ``wanted``, the request or else its key names, seen or not. Raises ``Http404`` for what is no id."""
    named = wanted or request.GET.get("organization") or request.headers.get(HEADER)
    named = named or request.user.bound_organization_id
    return _uuid(named) if named else None


def choose(request: HttpRequest, organization: Organization) -> None:
    """Remember in the session where the pages work from now on. Safe to repeat."""
    request.session[SESSION_KEY] = str(organization.pk)


def _uuid(text: Any) -> UUID:
    try:
        return text if isinstance(text, UUID) else UUID(str(text))
    except ValueError as error:
        raise Http404 from error
