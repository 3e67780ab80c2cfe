"""Middleware that serves the single-page web client of OpenHands from the folder ``OH_WEB_CLIENT_DIR``.

The files and routes of the client take precedence, and this server's own pages move below ``/desk``. Without the
setting, the middleware does nothing.
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

PAGES_PREFIX = "/desk"
ROUTES = re.compile(
    r"/(?:accept-tos|conversations(?:/.*)?|microagent-management|launch"
    r"|settings(?:/(?:mcp|user|integrations|app|billing|secrets|api-keys))?)?"
)
"""Paths at which the client is served although this server has pages there too."""
NOT_CLIENT = (
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
"""Path prefixes below which an unknown path returns 404 and not the client."""
IMMUTABLE = "public, max-age=31536000, immutable"
_INLINE = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL | re.IGNORECASE)


class WebClient:
    """Middleware that serves the client's files at the client's paths, and this server's pages below ``/desk``."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if not settings.WEB_CLIENT_DIR:
            return self.get_response(request)
        path = request.path_info
        if path == PAGES_PREFIX or path.startswith(f"{PAGES_PREFIX}/"):
            return self._serve_own_page(request)
        if request.method in ("GET", "HEAD"):
            client = read_client_files(settings.WEB_CLIENT_DIR)
            if file := client.get(path):
                return _serve_file(path, file)
            if ROUTES.fullmatch(path) or _is_unknown(path):
                return _serve_index(client["/index.html"])
        return self.get_response(request)

    def _serve_own_page(self, request: HttpRequest) -> HttpResponseBase:
        """Serve a page of this server below ``PAGES_PREFIX``. Links in the page get the same prefix."""
        previous = get_script_prefix()
        request.path_info = request.path_info.removeprefix(PAGES_PREFIX) or "/"
        set_script_prefix(f"{PAGES_PREFIX}/")
        try:
            return self.get_response(request)
        finally:
            set_script_prefix(previous)


def _is_unknown(path: str) -> bool:
    if path.startswith(NOT_CLIENT):
        return False
    try:
        resolve(path)
    except (Resolver404, Http404):
        return True
    return False


@cache
def read_client_files(folder: Path) -> dict[str, Path]:
    """Return the client's files by URL path. Raise ``FileNotFoundError`` if there is no ``index.html``.

    The list is read once per process, so a new build is served after a restart. Only listed files are served, so
    a path with ``..`` or a symbolic link cannot reach other files.
    """
    root = folder.resolve()
    files = {}
    for file in root.rglob("*"):
        if file.is_file() and file.resolve().is_relative_to(root):
            files[f"/{file.relative_to(root).as_posix()}"] = file
    if "/index.html" not in files:
        raise FileNotFoundError(
            f"OH_WEB_CLIENT_DIR={folder} does not contain index.html. Set it to the folder of a built client."
        )
    return files


def _serve_file(path: str, file: Path) -> HttpResponseBase:
    if path == "/index.html":
        return _serve_index(file)
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    response = FileResponse(file.open("rb"), content_type=kind)
    is_hashed = path.startswith("/assets/")  # the build puts a hash of the content into these names
    response.headers["Cache-Control"] = IMMUTABLE if is_hashed else "no-cache"
    return response


def _serve_index(file: Path) -> HttpResponse:
    page = file.read_bytes()
    response = HttpResponse(page, content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = build_content_policy(page)
    return response


@cache
def build_content_policy(page: bytes) -> str:
    """Return a content security policy that allows the inline scripts of this page, by their hashes, and no others."""
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
