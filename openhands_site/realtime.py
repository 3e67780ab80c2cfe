"""The ``realtime`` role: sockets, and the addresses that stream or wait. The rest of HTTP belongs to ``web``.

The same code and settings as ``asgi``; which address belongs where is said there, once.
"""

from typing import Any

from lib.api import dumps
from lib.problems import problem_body
from lib.routes import addresses
from openhands_site import asgi
from openhands_site.routing import is_held

probes = addresses(lambda facts: facts.called_by == "probe")


async def http(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer what belongs to this role; refuse the rest with 421, which a balancer's operator will notice."""
    path = scope["path"]
    is_ours = is_held(path, scope["query_string"])  # streams and long polls of events
    if is_ours or probes.fullmatch(path) or asgi.application_of(path) is not asgi.in_threads:
        await asgi.http(scope, receive, send)
        return
    body = dumps(
        problem_body(
            status=421,
            code="misdirected",
            detail="This process serves sockets and streams only. The balancer in front should send "
            "this address to web.",
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
"""Every address of this role."""
