"""The to-do page that the demo model writes, in a real browser."""

from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from billing.gateway.demo.workbench import MATERIAL
from tests import prepare

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_todo_page_adds_ticks_filters_deletes_and_keeps_tasks(tmp_path: Path):
    page_file = tmp_path / "todo.html"
    page_file.write_bytes((MATERIAL / "todo.html").read_bytes())
    errors: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=prepare.chromium(), args=["--no-sandbox"]
        )
        page = browser.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(page_file.as_uri())
        expect(page.get_by_text("Nothing here.")).to_be_visible()
        for text in ("Buy milk", "<b>Call Bob</b>", "   "):
            page.get_by_placeholder("What needs to be done?").fill(text)
            page.keyboard.press("Enter")
        expect(page.locator("#list label")).to_have_text(["Buy milk", "<b>Call Bob</b>"])
        page.get_by_label("Buy milk", exact=True).check()
        expect(page.get_by_text("1 task left")).to_be_visible()

        page.reload()
        page.get_by_role("button", name="Open", exact=True).click()
        expect(page.locator("#list label")).to_have_text(["<b>Call Bob</b>"])
        page.get_by_role("button", name="Done", exact=True).click()
        expect(page.locator("#list label")).to_have_text(["Buy milk"])
        page.get_by_role("button", name="Delete: Buy milk").click()
        page.get_by_role("button", name="All", exact=True).click()
        expect(page.locator("#list label")).to_have_text(["<b>Call Bob</b>"])
        browser.close()
    assert errors == []
