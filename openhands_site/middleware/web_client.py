"""The single-page client of others on our origin, when ``OH_WEB_CLIENT_DIR`` names its built folder.

Its files and its routes win; our own pages move below ``/desk``. Without the setting nothing here is in the way.
"""

import base64
import hashlib
import mimetypes
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from django.conf import settings
from django.http import FileResponse, HttpRequest, HttpResponse, HttpResponseBase
from django.http.response import Http404
from django.urls import Resolver404, get_script_prefix, resolve, set_script_prefix

DESK = "/desk"
ROUTES = re.compile(
    r"/(?:accept-tos|conversations(?:/.*)?|microagent-management|launch"
    r"|settings(?:/(?:mcp|user|integrations|app|billing|secrets|api-keys))?)?"
)
"""Addresses that the client answers although we have pages there."""
NEVER = (
    "/api/",
    "/assets/",
    "/static/",
    "/mcp/",
    "/internal/",
    "/integration/",
    "/feedback/",
    "/slack/",
    "/socket.io",
    "/sockets/",
    "/ws/",
)
"""Where an address that nobody knows is 404 and not the client."""
FOREVER = "public, max-age=31536000, immutable"
_INLINE = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL | re.IGNORECASE)


class WebClient:
    """Answers the client's addresses with its files, and ours below ``/desk``."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if not settings.WEB_CLIENT_DIR:
            return self.get_response(request)
        path = request.path_info
        if path == DESK or path.startswith(f"{DESK}/"):
            return self._desk(request)
        if request.method in ("GET", "HEAD"):
            client = client_in(settings.WEB_CLIENT_DIR)
            if file := client.get(path):
                return _file(path, file)
            if ROUTES.fullmatch(path) or _is_unknown(path):
                return _index(client["/index.html"])
        return self.get_response(request)

    def _desk(self, request: HttpRequest) -> HttpResponseBase:
        """One of our own pages; addresses that it links to stay below the desk."""
        before = get_script_prefix()
        request.path_info = request.path_info.removeprefix(DESK) or "/"
        set_script_prefix(f"{DESK}/")
        try:
            return self.get_response(request)
        finally:
            set_script_prefix(before)


def _is_unknown(path: str) -> bool:
    if path.startswith(NEVER):
        return False
    try:
        resolve(path)
    except (Resolver404, Http404):
        return True
    return False


@cache
def client_in(folder: Path) -> dict[str, Path]:
    """The client's files by address. Only what is listed here is ever served: no address reaches past it.

    Read once a process: a new build is served after a restart.
    """
    root = folder.resolve()
    found = {}
    for file in root.rglob("*"):
        if file.is_file() and file.resolve().is_relative_to(root):
            found[f"/{file.relative_to(root).as_posix()}"] = file
    if "/index.html" not in found:
        raise FileNotFoundError(f"OH_WEB_CLIENT_DIR={folder} holds no index.html")
    return found


def _file(path: str, file: Path) -> HttpResponseBase:
    if path == "/index.html":
        return _index(file)
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    response = FileResponse(file.open("rb"), content_type=kind)
    is_hashed = path.startswith("/assets/")
    response.headers["Cache-Control"] = FOREVER if is_hashed else "no-cache"
    return response


def _index(file: Path) -> HttpResponse:
    page = file.read_bytes()
    response = HttpResponse(page, content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = policy_of(page)
    return response


@cache
def policy_of(page: bytes) -> str:
    """A content policy that lets a client's page work: its own inline scripts, by hash, and nobody else's."""
    hashes = [
        f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'"
        for script in _INLINE.findall(page)
        if script.strip()
    ]
    return "; ".join(
        (
            "default-src 'self'",
            "img-src 'self' data: blob: https:",
            "font-src 'self' data:",
            "style-src 'self' 'unsafe-inline'",
            " ".join(("script-src 'self'", *hashes)),
            "connect-src 'self'",
            "worker-src 'self' blob:",
            "frame-src 'self' blob:",
            "object-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        )
    )
