"""The views of URLs without variable parts, found by one look in a dictionary."""

from typing import Any

from django.core.handlers.base import BaseHandler
from django.http import HttpRequest
from django.urls import ResolverMatch, get_resolver


class WithFixedUrls(BaseHandler):
    """A handler that remembers the view of each URL without variable parts, such as ``/api/v1/settings``.

    Django tries the patterns in their order, a hundred for a late one. There are at most as many such URLs as
    patterns, so clients cannot fill the memory.
    """

    def resolve_request(self, request: HttpRequest) -> ResolverMatch:
        """Return the view of a request and its arguments, as Django does. Raise ``Http404``."""
        if hasattr(request, "urlconf"):
            return super().resolve_request(request)
        # Kept on the resolver, so that another URL configuration has its own.
        known: dict[str, Any] = vars(get_resolver()).setdefault("fixed_urls", {})
        match: ResolverMatch | None = known.get(request.path_info)
        if match is None:
            match = super().resolve_request(request)
            # The route of a pattern with variable parts, or of a regular expression, differs from the path.
            if request.path_info == f"/{match.route}" and not match.kwargs:
                known[request.path_info] = match
        request.resolver_match = match
        return match
