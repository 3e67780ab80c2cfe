"""One port: plain HTTP by Django in a few threads, what streams or waits on the event loop, sockets by Channels.

The path decides where a request goes: ``MOUNTED``, then the routes that stream (``lib.routes``), then the threads.
"""

import os
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "openhands_site.settings")
on_loop = get_asgi_application()

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402 - models need the set-up above
from django.conf import settings  # noqa: E402
from django.core.handlers.wsgi import WSGIHandler  # noqa: E402
from django.utils.module_loading import import_string  # noqa: E402

from compat.v0.sockets import SocketIO  # noqa: E402
from conversations.realtime.held import HeldResponses  # noqa: E402
from lib.connections import KeepsConnection  # noqa: E402
from lib.routes import addresses  # noqa: E402
from openhands_site.middleware.headers import SocketHeaders  # noqa: E402
from openhands_site.routing import is_held, websocket_urlpatterns  # noqa: E402
from openhands_site.serving.addresses import ClientAddress  # noqa: E402
from openhands_site.serving.bodies import BodyLimit  # noqa: E402
from openhands_site.serving.origins import OriginGate  # noqa: E402
from openhands_site.serving.threads import Threads  # noqa: E402

MOUNTED: dict[str, str] = {
    "/socket.io": "compat.v0.sockets.refuse_polling",
}
"""ASGI applications of their own below a path (``"/x": "module.attribute"``), imported at the first request."""
in_threads = Threads(KeepsConnection(WSGIHandler()), threads=settings.WEB_THREADS)
held = HeldResponses(in_threads)
streaming = addresses(lambda facts: facts.streams)
"""Routes that must not hold one of the few threads."""


def application_of(path: str) -> Any:
    """Who answers an address."""
    for prefix, name in MOUNTED.items():
        if path == prefix or path.startswith(f"{prefix}/"):
            return import_string(name)
    return on_loop if streaming.fullmatch(path) else in_threads


async def http(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Pass a request on to whoever answers its address."""
    if is_held(scope["path"], scope["query_string"]):
        await held(scope, receive, send)
        return
    await application_of(scope["path"])(scope, receive, send)


# Existing clients' Socket.IO beside Channels: what is not below /socket.io passes through.
sockets = SocketHeaders(OriginGate(SocketIO(URLRouter(websocket_urlpatterns))))


def protocols(http: Any) -> ProtocolTypeRouter:
    """Everything around HTTP that roles have in common: sockets, limits, the caller's address."""
    return ProtocolTypeRouter(
        {"http": ClientAddress(BodyLimit(http)), "websocket": ClientAddress(BodyLimit(sockets))}
    )


application = protocols(http)
"""Every address of the server."""
