"""A public link in a browser: the log up to the pinned event without secrets, and 404 after revocation."""

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
def share_and_key(alice, story):
    """Return a link to the first eight events, its token, and an API key of Alice."""
    share, token = services.create_share(
        user=alice,
        conversation=story,
        expires_at=timezone.now() + timedelta(days=1),
        through_seq=8,
    )
    return share, token, accounts.issue_api_key(user=alice, name="x")[1]


def test_link_shows_the_log_up_to_its_event_and_gets_404_after_revocation(
    live_server, share_and_key, story, tmp_path
):
    share, token, key = share_and_key
    url = f"{live_server.url}/shared/{token}"
    revoke = f"{live_server.url}/api/v1/conversations/{story.pk}/shares/{share.pk}"
    export = f"{live_server.url}/api/v1/conversations/{story.pk}/trajectory?format=html"
    errors, requested_urls = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=prepare.chromium(), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text))
        page.on("request", lambda request: requested_urls.append(request.url))
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
        assert (errors, set(requested_urls)) == ([], {url})

        saved = tmp_path / "replay.html"
        saved.write_bytes(
            page.request.get(export, headers={"Authorization": f"Bearer {key}"}).body()
        )
        page.goto(saved.as_uri())
        expect(page.locator("#count")).to_have_text("10 of 10")
        assert errors == []

        answer = page.request.delete(revoke, headers={"Authorization": f"Bearer {key}"})
        assert answer.status == 200
        revoked = page.goto(url)
        assert revoked
        assert revoked.status == 404
        assert "I have begun" not in page.content()
        browser.close()
