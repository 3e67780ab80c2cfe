"""The ASGI application of the ``realtime`` role: WebSockets, and the HTTP routes that stream or wait for events.

All other HTTP routes belong to the ``web`` role. ``asgi`` decides which route belongs to which role.
"""

from typing import Any

from lib.api import dumps
from lib.problems import problem_body
from lib.routes import url_pattern
from openhands_site import asgi
from openhands_site.routing import is_held

probes = url_pattern(lambda facts: facts.called_by == "probe")


async def http(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Serve the routes of this role. Return 421 for all other routes, to reveal a load balancer with a wrong setup."""
    path = scope["path"]
    is_event_stream = is_held(path, scope["query_string"])  # streams and long polls of events
    if (
        is_event_stream
        or probes.fullmatch(path)
        or asgi.application_for(path) is not asgi.in_threads
    ):
        await asgi.http(scope, receive, send)
        return
    body = dumps(
        problem_body(
            status=421,
            code="misdirected",
            detail="This process serves only WebSockets and streams. Configure the load balancer to send "
            "this path to a web process.",
        )
    )
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": 421, "headers": headers})
    await send({"type": "http.response.body", "body": body})


application = asgi.protocols(http)
"""The application of the ``realtime`` role."""
