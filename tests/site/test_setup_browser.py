"""The card with the setup checklist in Chromium, with the real checks of a running server."""

import os
from pathlib import Path

import pytest
from django.conf import settings
from playwright.sync_api import expect, sync_playwright

from accounts import services as accounts
from openhands_site.doctor import latest
from tests import prepare

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(240),
    pytest.mark.django_db(transaction=True),
]
SHOTS = os.environ.get("OH_SHOTS", "")
"""A folder for screenshots, for people who change the pages. The tests need none."""


@pytest.fixture
def root(transactional_db):
    return accounts.create_user(
        email="root@example.com", password="correct horse battery", is_staff=True, is_superuser=True
    )


@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1280), pytest.param("dark", 390, marks=pytest.mark.slow)]
)
def test_card_completes_itself_and_works_by_keyboard(
    live_server, client, root, monkeypatch, scheme, width
):
    monkeypatch.setattr(latest._Cache, "until", 0.0)
    monkeypatch.setattr(settings, "PUBLIC_URL", "http://127.0.0.1:9")
    client.force_login(root)
    cookie = client.cookies[settings.SESSION_COOKIE_NAME].value
    problems: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=prepare.chromium(),
            args=["--no-sandbox", "--disable-background-networking"],
        )
        context = browser.new_context(
            viewport={"width": width, "height": 844}, color_scheme=scheme, has_touch=width < 500
        )
        name, url = settings.SESSION_COOKIE_NAME, live_server.url
        context.add_cookies([{"name": name, "value": cookie, "url": url}])
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: line.type == "error" and problems.append(line.text))
        page.goto(f"{live_server.url}/")
        card = page.get_by_role("region", name="Set up this server")
        expect(card).to_contain_text("0 of 6 done")
        doctor = card.locator('[data-step="doctor"]')

        # The card is fetched again when the checks have run. This server is not at PUBLIC_URL, which doctor reports.
        expect(doctor).to_contain_text("warning", timeout=30_000)
        expect(page.locator("[data-setup-status]")).to_contain_text("ook at")
        doctor.locator("summary").press("Enter")
        expect(doctor.get_by_text("agents are not isolated", exact=False)).to_be_visible()
        backup = card.locator('[data-step="backup"]')
        backup.locator("summary").press("Enter")
        copy = backup.get_by_role("button", name="Copy").first
        expect(copy).to_be_visible()
        for box in (copy, card.get_by_role("link", name="Connect").first):
            frame = box.bounding_box()
            assert frame is not None
            assert frame["x"] + frame["width"] <= width
            assert frame["height"] >= (40 if width < 500 else 32)
        scrolls = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        assert not page.evaluate(scrolls)
        if SHOTS:
            page.screenshot(path=Path(SHOTS, f"setup-{scheme}-{width}.png"), full_page=True)

        backup.get_by_role("button", name="I keep a copy").press("Enter")
        expect(card).to_contain_text("1 of 6 done")
        expect(backup).to_contain_text("Done:")
        card.get_by_role("button", name="Hide").press("Enter")
        expect(page.get_by_text("You find it under Settings, Setup.")).to_be_visible()
        expect(card).to_have_count(0)
        browser.close()
    assert problems == []
