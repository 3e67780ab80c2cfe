"""Middleware that compresses texts with gzip: pages, JSON, the OpenAPI document and exports.

Compression makes a secret guessable by someone who controls another part of the same response and sees its length
(BREACH). Therefore responses with a secret stay uncompressed, and Django adds random bytes to all others. ADR 23
explains the rules.
"""

import re

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.middleware.gzip import GZipMiddleware

MINIMUM_BYTES = 600
"""Shorter responses fit into one packet together with their headers."""
TEXTS = re.compile(
    r"text/(?!event-stream)[\w.+-]+"
    r"|application/(?:[\w.]+\+)?(?:json|xml|yaml)|application/(?:javascript|vnd\.oai\.openapi)"
    r"|image/svg\+xml",
    re.IGNORECASE,
)
"""Content types that are worth compressing. Archives and images are compressed already; event streams must not wait."""
_REFUSED = re.compile(r"\bgzip\s*;\s*q=0(?:\.0*)?\s*(?:,|$)", re.IGNORECASE)
_KEY = re.compile(rb'"session_api_key":\s*"')
"""A conversation's key, which records of the OpenHands protocols contain."""


class Compression(GZipMiddleware):
    """Django's middleware with rules for the responses that it may compress."""

    def process_response(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        """Compress a response if the client accepts gzip and the rules of this module allow it."""
        if not _is_compressible(request, response):
            return response
        if _REFUSED.search(request.META.get("HTTP_ACCEPT_ENCODING", "")):
            request.META["HTTP_ACCEPT_ENCODING"] = ""
        return super().process_response(request, response)


def _is_compressible(request: HttpRequest, response: HttpResponseBase) -> bool:
    # Keys, links and codes are shown once, in the response to the request that creates them.
    if request.method not in ("GET", "HEAD") or response.status_code in (204, 206, 304):
        return False
    if not TEXTS.fullmatch(response.headers.get("Content-Type", "").partition(";")[0].strip()):
        return False
    if "no-transform" in response.headers.get("Cache-Control", "").lower():
        return False
    content = getattr(response, "content", None)  # a stream has none
    return content is None or (len(content) >= MINIMUM_BYTES and not _KEY.search(content))
