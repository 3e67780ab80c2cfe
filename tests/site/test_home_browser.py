"""The home page in Chromium: the card with the setup checklist, by the real checks of a server, and the suggestions."""

import os
from pathlib import Path

import pytest
from django.conf import settings
from playwright.sync_api import expect

from accounts import services as accounts
from billing.gateway.demo.offers import EXAMPLES
from openhands_site.doctor import latest
from tests.site_page import open_site_page

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
    viewport = {"width": width, "height": 844}
    with open_site_page(
        live_server.url, client, viewport=viewport, color_scheme=scheme, has_touch=width < 500
    ) as page:
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


def test_suggestion_fills_the_message_box_and_starts_nothing(live_server, client, root):
    client.force_login(root)
    with open_site_page(live_server.url, client) as page:
        page.get_by_role("link", name="Find primes").click()
        box = page.get_by_label("Your request")
        expect(box).to_have_value(EXAMPLES[0].request.english)
        expect(box).to_be_focused()
        assert page.url == f"{live_server.url}/"
