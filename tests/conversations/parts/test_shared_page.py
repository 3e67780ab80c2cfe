"""A public link in a real browser: up to the pinned event, without secrets, gone once revoked."""

import os
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone
from playwright.sync_api import expect, sync_playwright

from accounts import services as accounts
from conversations import services
from lib.redaction import HIDDEN
from tests import prepare
from tests.conversations.parts.conftest import KEY

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(240),
]


@pytest.fixture
def made(alice, story):
    """A link to the first eight events, and Alice's key."""
    share, token = services.create_share(
        user=alice,
        conversation=story,
        expires_at=timezone.now() + timedelta(days=1),
        through_seq=8,
    )
    return share, token, accounts.issue_api_key(user=alice, name="x")[1]


def test_a_link_shows_up_to_its_event_and_then_nothing(live_server, made, story, tmp_path):
    share, token, key = made
    url = f"{live_server.url}/shared/{token}"
    revoke = f"{live_server.url}/api/v1/conversations/{story.pk}/shares/{share.pk}"
    export = f"{live_server.url}/api/v1/conversations/{story.pk}/trajectory?format=html"
    troubles, asked = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=prepare.chromium(), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda message: troubles.append(message.text))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)

        steps = page.locator("article")
        expect(page.locator("#count")).to_have_text("8 of 8")
        expect(steps.nth(7)).to_contain_text(f"The key is {HIDDEN} and nothing else")
        assert KEY not in page.content()
        assert "Later" not in page.content()
        assert page.title() == story.title
        assert page.locator("main img, main script").count() == 0
        page.get_by_role("button", name="Previous event").click()
        expect(steps.nth(7)).to_be_hidden()
        page.get_by_role("button", name="Next event").click()
        expect(steps.nth(7)).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        if folder := os.environ.get("OH_SHOTS"):
            page.screenshot(path=Path(folder) / "shared.png")
        assert (troubles, set(asked)) == ([], {url})

        saved = tmp_path / "replay.html"
        saved.write_bytes(
            page.request.get(export, headers={"Authorization": f"Bearer {key}"}).body()
        )
        page.goto(saved.as_uri())
        expect(page.locator("#count")).to_have_text("10 of 10")
        assert troubles == []

        answer = page.request.delete(revoke, headers={"Authorization": f"Bearer {key}"})
        assert answer.status == 200
        gone = page.goto(url)
        assert gone
        assert gone.status == 404
        assert "I have begun" not in page.content()
        browser.close()
