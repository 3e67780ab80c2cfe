"""The ASGI application, which serves everything on one port.

Plain HTTP requests run in a few threads, routes that stream or wait run on the event loop, and Channels handles
WebSockets. The path selects the handler: first ``MOUNTED``, then the streaming routes (``lib.routes``), then the
threads.
"""

import os
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "openhands_site.settings")
django.setup(set_prefix=False)

from channels.routing import ProtocolTypeRouter  # noqa: E402 - models need the set-up above
from django.conf import settings  # noqa: E402
from django.utils.module_loading import import_string  # noqa: E402

from compat.v0.sockets import SocketIO  # noqa: E402
from conversations.realtime.held import HeldResponses  # noqa: E402
from lib.connections import PersistentConnection  # noqa: E402
from lib.open_files import raise_limit  # noqa: E402
from lib.routes import url_pattern  # noqa: E402
from openhands_site.middleware.headers import SocketHeaders  # noqa: E402
from openhands_site.routing import is_held, route_socket  # noqa: E402
from openhands_site.serving.addresses import ClientAddress  # noqa: E402
from openhands_site.serving.arriving_bodies import ArrivingBodies  # noqa: E402
from openhands_site.serving.bodies import BodyLimit  # noqa: E402
from openhands_site.serving.charsets import LoopHandler, ThreadHandler  # noqa: E402
from openhands_site.serving.open_streams import RoomForSockets, RoomForStreams  # noqa: E402
from openhands_site.serving.origins import OriginCheck  # noqa: E402
from openhands_site.serving.probes import ProbesOfAnyHost  # noqa: E402
from openhands_site.serving.threads import Threads  # noqa: E402

raise_limit()  # here too, because Daphne and ``runserver`` import only this module
MOUNTED: dict[str, str] = {
    "/socket.io": "compat.v0.sockets.refuse_polling",
}
"""Separate ASGI applications by path prefix (``"/x": "module.attribute"``), imported at the first request."""
on_loop = LoopHandler()
in_threads = Threads(PersistentConnection(ThreadHandler()), threads=settings.WEB_THREADS)
held = RoomForStreams(HeldResponses(in_threads))
"""The application for requests whose response stays open, such as event streams and long polls."""
streaming = url_pattern(lambda facts: facts.streams)
"""A pattern of the URL paths whose requests must not occupy one of the few threads."""


def application_for(path: str) -> Any:
    """Return the ASGI application that serves a path."""
    for prefix, name in MOUNTED.items():
        if path == prefix or path.startswith(f"{prefix}/"):
            return import_string(name)
    return on_loop if streaming.fullmatch(path) else in_threads


async def http(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Pass an HTTP request to the application that serves its path."""
    if is_held(scope["path"], scope["query_string"]):
        await held(scope, receive, send)
        return
    await application_for(scope["path"])(scope, receive, send)


# SocketIO handles the paths below /socket.io and passes all other sockets on.
sockets = RoomForSockets(SocketHeaders(OriginCheck(SocketIO(route_socket))))


def protocols(http: Any) -> ProtocolTypeRouter:
    """Return the complete ASGI application of a role; ``http`` is the part that serves HTTP.

    All roles share the WebSockets, the size limits, and the middleware that finds the client's address.
    """
    return ProtocolTypeRouter(
        {
            "http": ProbesOfAnyHost(ClientAddress(ArrivingBodies(BodyLimit(http)))),
            "websocket": ClientAddress(BodyLimit(sockets)),
        }
    )


application = protocols(http)
"""The application of the ``web`` role, which serves every URL."""
