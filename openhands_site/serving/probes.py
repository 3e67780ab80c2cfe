"""Probes and metrics respond to every ``Host`` header, because orchestrators call a process by its own address."""

from collections.abc import Callable
from functools import cache
from re import Pattern
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings

from lib.routes import url_pattern

REPLACED = (b"host", b"x-forwarded-host")


@cache
def probe_paths() -> Pattern[str]:
    """Return a pattern of the URL paths of probes and metrics. Cached, because it reads the whole URL configuration."""
    return url_pattern(lambda facts: facts.called_by == "probe")


def public_host() -> str:
    """Return the host and port of ``PUBLIC_URL``, or the first allowed host if that is not allowed."""
    public = urlsplit(settings.PUBLIC_URL)
    names = [name for name in settings.ALLOWED_HOSTS if name and name[0] not in ".*"]
    if "*" in settings.ALLOWED_HOSTS or public.hostname in names or not names:
        return public.netloc
    return names[0]


class ProbesOfAnyHost:
    """ASGI middleware that replaces the ``Host`` of a probe, whatever it is, by this server's own.

    A probe uses no host: it creates no link and sets no cookie. Kubernetes sends the pod's address, load balancers send
    nothing, an address with a port or a name of their own.
    """

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if probe_paths().fullmatch(scope["path"]):
            headers = [pair for pair in scope["headers"] if pair[0] not in REPLACED]
            headers.append((b"host", public_host().encode("latin-1")))
            scope = scope | {"headers": headers}
        await self.application(scope, receive, send)


class ProbesOfAnyHostOfEnviron:
    """WSGI middleware that replaces the ``Host`` of a probe as ``ProbesOfAnyHost`` does."""

    def __init__(self, application: Callable[..., Any]) -> None:
        self.application = application

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if probe_paths().fullmatch(environ.get("PATH_INFO", "")):
            environ.pop("HTTP_X_FORWARDED_HOST", None)
            environ["HTTP_HOST"] = public_host()
        return self.application(environ, start_response)
