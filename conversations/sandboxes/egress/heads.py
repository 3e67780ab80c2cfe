"""Heads of HTTP/1.1 messages: the destination of a request, and the headers that a proxy passes on (RFC 9110, 7.6)."""

import re
from dataclasses import dataclass

import h11

from conversations.sandboxes.egress.hosts import BadHost, normalize_host
from conversations.sandboxes.egress.policy import GATEWAY_NAME, Gateway
from conversations.sandboxes.egress.refusals import malformed

Message = h11.Request | h11.InformationalResponse | h11.Response
Headers = list[tuple[bytes, bytes]]
_ABSOLUTE = re.compile(r"http://([^/?#]*)([/?][^#]*)?", re.IGNORECASE)
_AUTHORITY = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?")
_HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
_FRAMING = frozenset((b"transfer-encoding", b"content-length"))
_FORWARDING = re.compile(rb"proxy-.*|x-forwarded-.*|forwarded|x-real-ip")


@dataclass(frozen=True)
class Route:
    """The destination of a request and the target for the server there: its path and query."""

    host: str
    port: int
    target: str


def parse_authority(text: str, default_port: int | None) -> tuple[str, int]:
    """Return the normal host and the port of ``host:port``. Raise ``Refused`` if it is malformed."""
    match = _AUTHORITY.fullmatch(text)
    if match is None or not match[1]:
        raise malformed("The destination is not a host with a port, such as example.com:443.")
    port = int(match[2]) if match[2] else default_port
    if port is None or not 0 < port < 65536:
        raise malformed("The destination has no port between 1 and 65535.")
    try:
        return normalize_host(match[1]), port
    except BadHost as error:
        raise malformed(str(error)) from error


def parse_route(request: h11.Request, *, behind_gateway: bool) -> Route:
    """Return the destination of a request that is not CONNECT. Raise ``Refused`` if it is malformed.

    ``behind_gateway`` means that the client believes to speak with the gateway itself, so its targets are paths.
    """
    target = request.target.decode()
    if behind_gateway and (target.startswith("/") or target == "*"):
        return Route(GATEWAY_NAME, 80, target)
    if target.startswith("/"):
        raise malformed(
            "This is a proxy: the request needs a whole URL, such as http://example.com/."
        )
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise malformed(
            "The request is not for an http:// URL. Other protocols need the method CONNECT."
        )
    if "@" in match[1]:
        raise malformed("The URL may not contain a user name or password.")
    host, port = parse_authority(match[1], 80)
    if behind_gateway and host != GATEWAY_NAME:
        raise malformed(f"This connection is only for {GATEWAY_NAME}.")
    path = match[2] or ("*" if request.method == b"OPTIONS" else "/")
    return Route(host, port, path if path.startswith(("/", "*")) else f"/{path}")


def check_framing(request: h11.Request) -> None:
    """Raise ``Refused`` if programs could disagree about the end of the request's body (RFC 9112, 6.1)."""
    names = {name for name, _ in request.headers}
    if names >= _FRAMING:
        raise malformed("A request may not have both Content-Length and Transfer-Encoding.")
    if request.http_version < b"1.1" and b"transfer-encoding" in names:
        raise malformed("An HTTP/1.0 request may not have Transfer-Encoding.")
    if request.method == b"CONNECT" and names & _FRAMING:
        raise malformed("A CONNECT request may not have a body.")
    if sum(name == b"host" for name, _ in request.headers) > 1:
        raise malformed("A request may not have two Host headers.")


def has_body(request: h11.Request) -> bool:
    """Return whether a request announces a body, which may be empty."""
    return any(name in _FRAMING for name, _ in request.headers)


def wants_websocket(request: h11.Request) -> bool:
    """Return whether a request asks for a WebSocket. Other upgrades are not passed on."""
    upgrades = [value.strip().lower() for name, value in request.headers if name == b"upgrade"]
    return upgrades == [b"websocket"] and request.method == b"GET" and not has_body(request)


def request_for_server(request: h11.Request, route: Route, gateway: Gateway | None) -> h11.Request:
    """Return the request as the server gets it. ``Host`` comes from the URL or the gateway, never from the client."""
    host = f"[{route.host}]" if ":" in route.host else route.host
    authority = host if route.port == 80 else f"{host}:{route.port}"
    headers = [(b"Host", (gateway.authority if gateway else authority).encode())]
    headers += end_to_end(request, without=(b"host",))
    if wants_websocket(request):
        headers += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    else:
        headers += [(b"Connection", b"close")]
    return h11.Request(method=request.method, target=route.target, headers=headers)


def end_to_end(message: Message, *, without: tuple[bytes, ...] = ()) -> Headers:
    """Return the headers that a proxy passes on. The framing of the body stays, even if ``Connection`` names it."""
    named = {
        item.strip().lower()
        for name, value in message.headers
        if name == b"connection"
        for item in value.split(b",")
    }
    dropped = (named | _HOP_BY_HOP | set(without)) - _FRAMING
    return [
        (raw, value)
        for raw, value in message.headers.raw_items()
        if raw.lower() not in dropped and not _FORWARDING.fullmatch(raw.lower())
    ]
