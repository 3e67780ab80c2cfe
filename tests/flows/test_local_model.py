"""A model server on this machine is found and used with one click, in a real browser with the real engine."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from billing.gateway import local_servers
from tests import prepare
from tests.fakes.ollama import FakeOllama
from tests.fakes.stack import Stack, figure

pytestmark = [
    *(pytest.mark.browser, pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(300)),
]
PASSWORD = "correct horse battery"
MODEL = "qwen3-coder:30b"
_MAKE_STAFF = """\
import sys, django
django.setup()
from django.contrib.auth.models import Permission
from accounts import services
user = services.create_user(email="desk@example.com", password=sys.argv[1], is_staff=True)
user.user_permissions.add(Permission.objects.get(codename="add_allowedmodelserver"))
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=prepare.chromium(),
            args=["--no-sandbox", "--disable-background-networking"],
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, stack: Stack) -> Iterator[Page]:
    """The model page, opened by a staff user who manages model servers."""
    stack.python(_MAKE_STAFF, PASSWORD)
    context = browser.new_context()
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{stack.url}/settings/model")
    page.get_by_label("E-mail").fill("desk@example.com")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{stack.url}/settings/model")
    yield page
    context.close()
    assert not errors


def test_ollama_is_found_and_used_with_one_click_and_a_conversation_runs_with_it(page, stack):
    expect(page.get_by_text("No model server answers")).to_be_visible()
    with FakeOllama(port=stack.model_port) as ollama:
        heading = page.get_by_role("heading", name="Ollama 0.12.6")
        for _ in range(5):  # on a loaded machine, the time of a search may not be enough
            page.wait_for_timeout(1000 * local_servers.PAUSE_SECONDS)
            page.get_by_role("button", name="Look again").click()
            page.get_by_text("Looking for model servers").wait_for(state="detached")
            if heading.is_visible():
                break
        expect(heading).to_be_visible()

        page.get_by_role("button", name=f"Use {MODEL}").click()

        expect(page.get_by_text(f"Conversations use {MODEL} of Ollama 0.12.6")).to_be_visible()
        expect(page.get_by_text("The context of the model has 4,096 tokens")).to_be_visible()
        expect(page.get_by_text("In use")).to_be_visible()
        ollama.requests.clear()
        page.goto(stack.url)
        page.get_by_label("Your request").fill(
            "!run echo from the local model > proof.txt; cat proof.txt\n!finish Done"
        )
        page.keyboard.press("Control+Enter")
        page.wait_for_url("**/conversations/*")
        expect(page.locator("[data-chip]")).to_have_text("Finished", timeout=120_000)
        terminal = page.locator(".terminal pre", has_text="from the local model")
        expect(terminal.first).to_be_visible()
        agent_requests = [r["body"] for r in ollama.requests if r["body"].get("tools")]

    assert {body["model"] for body in agent_requests} == {MODEL}
    figure("the first request of an agent", bytes=len(str(agent_requests[0])))
