"""A page of a running server in Chromium, for a user who is signed in."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.test import Client
from playwright.sync_api import Page, sync_playwright

from tests import prepare


@contextmanager
def open_site_page(url: str, client: Client, **context: Any) -> Iterator[Page]:
    """Open ``/`` of a server as the user of a test client; ``context`` are options of the browser's context.

    At the end, no script has failed and no error is in the console.
    """
    name = settings.SESSION_COOKIE_NAME
    problems: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=prepare.chromium(),
            args=["--no-sandbox", "--disable-background-networking"],
        )
        opened = browser.new_context(**context)
        opened.add_cookies([{"name": name, "value": client.cookies[name].value, "url": url}])
        page = opened.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: line.type == "error" and problems.append(line.text))
        page.goto(f"{url}/")
        yield page
        browser.close()
    assert problems == []
