"""A page with the scripts of the site in Chromium, without a server behind it. Requests to other addresses fail."""

import mimetypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Page, Route, sync_playwright

from openhands_site.middleware.headers import CONTENT_POLICY
from tests import prepare

ORIGIN = "http://scripts.test"
FOLDERS = ("static/", "tests/js/", "bench/markdown/")
STRICT_POLICY = f"{CONTENT_POLICY}; require-trusted-types-for 'script'; trusted-types 'none'"
"""The policy of the site, and no way to set markup or code from texts."""
_HTML = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Scripts</title>
<link rel="stylesheet" href="/static/css/tokens.css"><link rel="stylesheet" href="/static/css/base.css">
<link rel="stylesheet" href="/static/css/conversation.css"></head>
<body data-icons="/static/img/icons.svg"><main class="story"></main>
<script type="module" src="/tests/js/page.js"></script></body></html>"""


@dataclass
class ScriptPage:
    """A page of Chromium, with the addresses that it asked for outside of its own files, and its errors."""

    page: Page
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def ran(self) -> list[str]:
        """Return the scripts that ran, the violations of the policy, and the requests to other addresses."""
        return [*self.page.evaluate("scripts.ran"), *self.requests, *self.errors]


@contextmanager
def open_script_page(*, policy: str = STRICT_POLICY) -> Iterator[ScriptPage]:
    """Open the page with a content security policy; "" is none, so that every script of a text could run."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=prepare.chromium(),
            args=["--no-sandbox", "--disable-background-networking"],
        )
        context = browser.new_context(viewport={"width": 1000, "height": 900})
        opened = ScriptPage(context.new_page())
        opened.page.on("pageerror", lambda error: opened.errors.append(str(error)))
        opened.page.on("dialog", lambda dialog: opened.errors.append(f"dialog {dialog.message}"))
        context.route("**/*", lambda route: _answer(route, policy, opened))
        opened.page.goto(f"{ORIGIN}/")
        # Not `wait_for_function`, whose polling the policy forbids.
        opened.page.wait_for_selector("main[data-ready]", state="attached")
        yield opened
        browser.close()


def _answer(route: Route, policy: str, opened: ScriptPage) -> None:
    """Answer a request with a file of the project; note and refuse all others."""
    address = urlsplit(route.request.url)
    path = address.path.removeprefix("/")
    headers = {"Content-Security-Policy": policy} if policy else {}
    if address.netloc == "scripts.test" and not path:
        route.fulfill(body=_HTML, content_type="text/html", headers=headers)
    elif address.netloc == "scripts.test" and path == "favicon.ico":
        route.fulfill(status=404)
    elif address.netloc == "scripts.test" and path.startswith(FOLDERS):
        kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
        route.fulfill(body=Path(prepare.ROOT, path).read_bytes(), content_type=kind)
    else:
        opened.requests.append(f"request {route.request.url}")
        route.abort()
