"""Django's handlers with requests that ignore unusual charsets of the header ``Content-Type``.

Django decodes the query and forms with any codec of Python that the client names. It does so while it creates the
request, before it handles exceptions, so ``charset=hex`` or ``charset=idna`` was a server error at every URL, and
``charset=unicode_escape`` a way to send lone surrogates. Browsers send UTF-8.
"""

import codecs
from typing import Any

from django.core.handlers.asgi import ASGIHandler, ASGIRequest
from django.core.handlers.wsgi import WSGIHandler, WSGIRequest
from django.http import HttpRequest
from django.utils.http import parse_header_parameters

from openhands_site.serving.fixed_urls import WithFixedUrls

CHARSETS = frozenset({"utf-8", "ascii", "iso8859-1", "cp1252"})
"""Python's names of the charsets that a client can choose. They decode every byte."""


class _WithKnownCharset(HttpRequest):
    def _set_content_type_params(self, meta: Any) -> None:
        self.content_type, parameters = parse_header_parameters(meta.get("CONTENT_TYPE", ""))
        self.content_params = parameters
        if is_known(name := parameters.get("charset", "")):
            self.encoding = name


class ThreadRequest(_WithKnownCharset, WSGIRequest):
    """A request that a thread serves."""


class LoopRequest(_WithKnownCharset, ASGIRequest):
    """A request that the event loop serves."""


class ThreadHandler(WithFixedUrls, WSGIHandler):
    """Django's WSGI application."""

    request_class = ThreadRequest


class LoopHandler(WithFixedUrls, ASGIHandler):
    """Django's ASGI application."""

    request_class = LoopRequest


def is_known(charset: str) -> bool:
    """Return whether a client can choose this charset for its query and forms."""
    try:
        return codecs.lookup(charset).name in CHARSETS
    except (LookupError, ValueError):  # an unknown name; a name with NUL
        return False
