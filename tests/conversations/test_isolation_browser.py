"""The box with the isolation of a sandbox in a real browser, with Django's live server and the fake engine."""

import os
from pathlib import Path

import pytest
from django.conf import settings
from django.utils import timezone
from playwright.sync_api import expect, sync_playwright

from conversations import services
from conversations.sandboxes.bubblewrap.description import describe_isolation
from conversations.sandboxes.bubblewrap.support import Support
from conversations.sandboxes.provider import Limits, Usage
from tests import prepare

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(240),
]
SHOTS = os.environ.get("OH_SHOTS", "")
"""A folder for screenshots, for people who change the pages. The tests need none."""
ISOLATED = describe_isolation(
    Support(bwrap="/usr/bin/bwrap", is_usable=True, landlock_abi=7, has_seccomp=True),
    limits=Limits(memory_bytes=4_096_000_000, processes=512, disk_bytes=10_240_000_000),
    landlock_abi=7,
    has_own_uid=False,
)


@pytest.fixture
def path(transactional_db, alice, sandboxes) -> str:
    """Return the path of a conversation whose sandbox runs isolated."""
    sandboxes.isolation = ISOLATED
    conversation = services.create_conversation(user=alice, title="Install the packages")
    services.start_conversation(conversation_id=conversation.pk)
    return f"/conversations/{conversation.pk}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_box_shows_the_meaning_and_the_current_usage(
    live_server, client, alice, path, sandboxes, scheme, width
):
    client.force_login(alice)
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
        context.add_cookies(
            [{"name": settings.SESSION_COOKIE_NAME, "value": cookie, "url": live_server.url}]
        )
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"{live_server.url}{path}")
        chip = page.locator("details.isolation > summary")
        box = page.locator(".isolation-box")
        expect(chip).to_contain_text("Isolated")
        expect(box).to_be_hidden()

        # The sandbox was measured after the page was sent.
        sandboxes.usage = Usage(
            timezone.now(), memory_bytes=612_000_000, processes=23, disk_bytes=148_000_000
        )
        chip.press("Enter")

        expect(box).to_contain_text("a sandbox of its own")
        for words in ("612 of 4,096 MB", "23 of 512", "148 of 10,240 MB"):
            expect(box).to_contain_text(words)
        expect(box.get_by_label("Not in force")).to_have_count(1)
        frame = box.bounding_box()
        assert frame is not None
        assert frame["x"] >= 0
        assert frame["x"] + frame["width"] <= width
        scrolls = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        assert not page.evaluate(scrolls)
        if SHOTS:
            page.screenshot(path=Path(SHOTS, f"isolation-{scheme}-{width}.png"))
        page.keyboard.press("Escape")
        expect(box).to_be_hidden()
        expect(chip).to_be_focused()
        browser.close()
    assert problems == []
