"""The pages in a real browser, on the running server with the real engine."""

import re
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests import prepare
from tests.fakes.stack import Stack, Talk, figure
from tests.waiting import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.engine, pytest.mark.timeout(300)]
PASSWORD = "correct horse battery"
expect.set_options(timeout=30_000)
PHONE = {"width": 390, "height": 844}
_SET_PASSWORD = """\
import sys, django
django.setup()
from accounts.models import User
user = User.objects.get(email="owner@example.com")
user.set_password(sys.argv[1])
user.save()
"""
_SETUP_LINK = """\
import django
django.setup()
from accounts import services
print(services.create_setup_link(email="first@example.com"))
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


@pytest.fixture(scope="module")
def signed_in(browser: Browser, stack: Stack) -> dict:
    """The cookies of the owner, after signing in with the form."""
    stack.python(_SET_PASSWORD, PASSWORD)
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{stack.url}/settings")
    page.get_by_label("E-mail").fill("owner@example.com")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{stack.url}/settings")
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture
def open_page(browser: Browser, signed_in: dict):
    """A function that opens pages, signed in as the owner. Errors that a page reports fail the test."""
    errors: list[str] = []
    contexts: list[BrowserContext] = []

    def make(**options) -> Page:
        context = browser.new_context(storage_state=signed_in, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "console",
            lambda message: (
                errors.append(message.text) if "Content Security" in message.text else None
            ),
        )
        page.set_default_timeout(60_000)
        return page

    yield make
    for context in contexts:
        context.close()
    assert not errors, errors


def create_running(stack: Stack, **body: str) -> Iterator[Talk]:
    """Create a conversation, wait until its sandbox runs, yield it, and delete it at the end."""
    talk = stack.owner.converse(title="Seen in a browser", **body)
    talk.wait_ready()
    yield talk
    talk.owner.call("DELETE", talk.path)  # because the number of sandboxes is limited


@pytest.fixture(scope="module")
def talk(stack: Stack) -> Iterator[Talk]:
    """The conversation that most tests share."""
    yield from create_running(stack)


@pytest.fixture
def fresh(stack: Stack) -> Iterator[Talk]:
    """A conversation for one test."""
    yield from create_running(stack)


@pytest.fixture
def asking(stack: Stack) -> Iterator[Talk]:
    """A conversation whose agent asks before every action."""
    yield from create_running(stack, confirmation_policy="always")


def visit(page: Page, talk: Talk) -> None:
    page.goto(f"{talk.stack.url}/conversations/{talk.id}")
    page.wait_for_selector("[data-ready]")


def expect_status(page: Page, word: str, *, seconds: float = 90) -> None:
    expect(page.locator("[data-chip]")).to_have_text(word, timeout=seconds * 1000)


def say(page: Page, text: str) -> None:
    page.get_by_label("Message to the agent").fill(text)
    page.keyboard.press("Enter")


def read_seqs(page: Page) -> list[int]:
    """Return the ``seq`` of each row of the story, in the order on the page."""
    return page.eval_on_selector_all(
        "[data-story] > .item", "rows => rows.map(row => Number(row.dataset.seq))"
    )


def assert_story_is_complete(page: Page, talk: Talk) -> None:
    """Assert that the page shows every row once and in order, and the same rows after a reload."""
    rows = read_seqs(page)
    texts = page.locator("[data-story] > .item").all_inner_texts()
    assert rows == sorted(set(rows))
    page.reload()
    page.wait_for_selector("[data-ready]")
    page.wait_for_function(
        "count => document.querySelectorAll('[data-story] > .item').length >= count", arg=len(rows)
    )
    assert read_seqs(page) == rows
    assert len(texts) == len(rows)
    assert [event["seq"] for event in talk.events()] == list(
        range(1, talk.record()["last_seq"] + 1)
    )


def test_setup_link_leads_to_a_finished_run(browser, stack):
    path = stack.python(_SETUP_LINK).strip()
    context = browser.new_context()
    page = context.new_page()
    page.goto(stack.url + path)
    expect(page.get_by_label("E-mail")).to_have_value("first@example.com")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url(f"{stack.url}/")
    expect(page.get_by_text("You are using the demo model.")).to_be_visible()

    page.get_by_label("Your request").fill(
        "Write hello.py that prints 'hello from the page' and run it"
    )
    began = time.monotonic()
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/conversations/*")
    page_seconds = time.monotonic() - began
    page.wait_for_selector("[data-story] .tool", timeout=90_000)
    first_step_seconds = time.monotonic() - began
    expect_status(page, "Finished")
    finished_seconds = time.monotonic() - began

    terminal = page.locator(".terminal pre", has_text="hello from the page")
    expect(terminal.first).to_be_visible()
    expect(
        page.locator(".step[data-tool=file] .source, .step[data-tool=file] .diff").first
    ).to_contain_text("hello from the page")
    expect(page.locator(".finish")).to_be_visible()
    expect(page.locator("[data-usage]")).to_contain_text("tokens")
    expect(page.locator("#pane-changes .change-path")).to_have_text(["hello.py"])
    page.get_by_role("tab", name="Files").click()
    page.locator(".tree button", has_text="hello.py").click()
    expect(page.locator("#pane-files .source")).to_contain_text("hello from the page")
    figure(
        "a request from the home page",
        seconds_to_page=round(page_seconds, 2),
        seconds_to_first_step=round(first_step_seconds, 2),
        seconds_to_finished=round(finished_seconds, 2),
    )

    page.goto(stack.url)
    expect(page.locator("[data-recent] .chip")).to_have_text(["Finished"])
    context.close()


def test_action_is_rejected_and_approved_on_the_page(asking, open_page):
    page = open_page()
    visit(page, asking)
    say(page, "Go\n!risk HIGH\n!run echo first\n!run echo second > second.txt\n!finish Done")

    expect_status(page, "Waiting for you")
    question = page.get_by_label("The agent asks for approval")
    expect(question).to_contain_text("echo first")
    expect(question).to_contain_text("High risk")
    question.get_by_label("Reason for a rejection").fill("Not that one")
    question.get_by_role("button", name="Reject").click()
    expect(page.locator(".step[data-state=rejected]")).to_contain_text("Not that one")
    expect(question).to_contain_text("echo second")
    question.get_by_role("button", name="Approve").click()
    expect_status(page, "Finished")
    expect(question).to_have_count(0)
    assert "first" not in " ".join(page.locator(".terminal pre").all_inner_texts())


def test_agent_is_stopped_and_continues_after_a_message(talk, open_page):
    page = open_page()
    visit(page, talk)
    say(page, "Go\n!run sleep 60\n!finish Done")
    page.wait_for_selector(".step[data-state=running]")
    stopped = page.locator(".step[data-state=stopped]").count()
    page.get_by_role("button", name="Stop").click()
    expect_status(page, "Stopped", seconds=20)
    expect(page.locator(".step[data-state=stopped]")).to_have_count(stopped + 1)
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    say(page, "Go on\n!say Here I am again")
    expect(page.locator(".said-agent").last).to_contain_text("Here I am again")


@pytest.mark.slow
def test_page_loses_no_row_and_needs_no_reload_when_web_is_killed(fresh, open_page):
    page = open_page()
    visit(page, fresh)
    page.evaluate("window.marker = 'the same page'")
    steps = "\n".join(f"!run sleep 0.4; echo step {i}" for i in range(12))
    say(page, f"Go\n{steps}\n!finish All twelve")
    page.wait_for_selector(".step")
    for _ in range(2):
        fresh.stack.kill("web")
        page.wait_for_selector("[data-link]:not([hidden])", timeout=15_000)
        fresh.stack.wait_web()
        page.wait_for_selector("[data-link][hidden]", state="attached", timeout=30_000)
    expect_status(page, "Finished")
    expect(page.locator(".finish")).to_contain_text("All twelve")

    assert page.evaluate("window.marker") == "the same page"
    assert page.locator(".step[data-tool=terminal]").count() == 12
    assert_story_is_complete(page, fresh)


def test_page_polls_when_sockets_are_refused(talk, open_page):
    page = open_page()
    page.route_web_socket(re.compile("/ws/"), lambda socket: socket.close())
    page.add_init_script(
        "window.WebSocket = class { constructor() { setTimeout(() => this.onclose({ code: 1006 })) } close() {} }"
    )
    visit(page, talk)
    expect(page.locator("[data-link]")).to_have_text("Updating every 2 seconds", timeout=30_000)
    say(page, "Go\n!run echo by polling\n!finish Polled")
    expect(page.locator(".finish").last).to_contain_text("Polled")
    expect(page.locator(".terminal pre").last).to_contain_text("by polling")


def test_failed_message_can_be_sent_again(talk, open_page):
    page = open_page()
    visit(page, talk)
    page.route(
        "**/messages",
        lambda route: route.fulfill(
            status=402, json={"error": "Out of funds.", "code": "out-of-funds"}
        ),
    )
    say(page, "Please\n!say Thank you")
    expect(page.locator(".said-user.failed")).to_contain_text("Out of funds.")
    page.unroute("**/messages")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".said-agent").last).to_contain_text("Thank you")
    assert talk.deliveries().count("Please\n!say Thank you") == 1
    expect(page.locator(".said-user", has_text="Thank you")).to_have_count(1)


def test_html_in_messages_is_shown_as_text(talk, open_page):
    page = open_page()
    visit(page, talk)
    hostile = (
        "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    )
    say(
        page,
        f"{hostile}\n!run echo '{hostile.replace(chr(39), '')}'\n!say {hostile} [a](javascript:document.title='owned')",
    )
    expect(page.locator(".said-agent").last).to_contain_text("onerror")
    assert (
        page.locator(
            "[data-story] img, [data-story] script, [data-story] [href^='javascript']"
        ).count()
        == 0
    )
    assert "owned" not in page.title()


@pytest.mark.slow
def test_page_draws_the_log_again_after_a_restore(fresh, open_page):
    page = open_page()
    visit(page, fresh)
    fresh.do("Go\n!say Before the restore")
    expect(page.locator(".said-agent")).to_contain_text("Before the restore")
    fresh.stack.sql(
        "UPDATE conversations_conversation SET epoch = epoch + 1, updated_at = now() WHERE id = %s",
        fresh.id,
    )
    fresh.stack.kill("web")
    expect(page.locator("[data-toasts]")).to_contain_text(
        "history changed on the server", timeout=60_000
    )
    expect(page.locator(".said-agent")).to_have_count(1)


def test_file_is_uploaded_viewed_and_downloaded(talk, open_page):
    page = open_page()
    visit(page, talk)
    page.get_by_role("tab", name="Files").click()
    page.locator("#pane-files input[type=file]").set_input_files(
        {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"kept\nas it came\n"}
    )
    page.locator(".tree button", has_text="notes.txt").click()
    expect(page.locator("#pane-files .source td:last-child")).to_have_text(["kept", "as it came"])
    with page.expect_download() as download:
        page.locator("#pane-files").get_by_label("Download").click()
    assert download.value.path().read_bytes() == b"kept\nas it came\n"


def test_conversation_is_renamed_and_deleted_on_its_page(fresh, open_page):
    page = open_page()
    visit(page, fresh)
    page.get_by_role("button", name="Rename").click()
    page.get_by_label("Title").fill("A better name")
    page.keyboard.press("Enter")
    expect(page.locator("[data-title]")).to_have_text("A better name")
    assert fresh.wait(lambda record: record["title"] == "A better name")
    page.locator("[data-strip] summary[aria-label=More]").click()
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    page.locator("[data-strip] summary[aria-label=More]").click(force=True)
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.wait_for_url(f"{fresh.stack.url}/")
    expect(page.get_by_role("status")).to_contain_text(["was deleted"])
    assert fresh.owner.call("GET", fresh.path).status_code == 404


def test_pages_fit_a_phone_and_controls_fit_a_finger(talk, open_page):
    page = open_page(viewport=PHONE, has_touch=True, is_mobile=True)
    talk.do(
        "Go\n!run printf '%s ' $(seq 1 200)\n!finish A `long_name_without_any_space_in_it_that_goes_on_and_on_and_on_and_on_and_on` here"
    )
    small: dict[str, list] = {}
    for path in (
        "/",
        f"/conversations/{talk.id}",
        "/settings",
        "/settings/model",
        "/settings/api-keys",
    ):
        page.goto(talk.stack.url + path)
        if "conversations" in path:
            expect(page.locator(".finish").last).to_contain_text("long_name")
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"], path
        small[path] = page.evaluate(
            """() => [...document.querySelectorAll('button, input:not([type=hidden], [type=checkbox], [type=radio]), select, summary, .button, .row-link')]
            .filter(e => e.checkVisibility() && !e.closest('.story, .hidden') && e.getBoundingClientRect().width > 2)
            .map(e => ({ name: e.textContent.trim().slice(0, 30) || e.getAttribute('aria-label') || e.name, height: Math.round(Math.max(e.getBoundingClientRect().height, parseFloat(getComputedStyle(e, '::after').height) || 0)) }))
            .filter(e => e.height < 40)"""
        )
    assert not any(small.values()), small
    page.goto(f"{talk.stack.url}/conversations/{talk.id}")
    page.get_by_role("navigation", name="Parts of this conversation").get_by_role(
        "button", name="Details"
    ).click()
    expect(page.locator("#pane-details")).to_contain_text(str(talk.id))
    expect(page.get_by_label("Message to the agent")).to_be_hidden()


def test_keyboard_reaches_every_control_with_visible_focus(stack, open_page):
    page = open_page()
    page.goto(f"{stack.url}/settings")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.goto(stack.url)
    page.locator(".skip").focus()
    reached, unmarked = set(), []
    for _ in range(40):
        page.keyboard.press("Tab")
        focused = page.evaluate(
            """() => { const e = document.activeElement, s = getComputedStyle(e), p = getComputedStyle(e.closest('.prompt') ?? e);
            return { name: e === document.body ? '' : (e.getAttribute('aria-label') ?? e.textContent.trim()).slice(0, 40) || e.name || e.id, id: e.name ?? '',
                     seen: s.outlineStyle !== 'none' || s.boxShadow !== 'none' || p.boxShadow !== 'none' } }"""
        )
        reached.add(focused["id"] or focused["name"])
        if not focused["seen"]:
            unmarked.append(focused)
    assert {"Agent Server, home", "Account menu", "message", "Options", "Start"} <= reached, reached
    assert not [element for element in unmarked if element["name"]], unmarked


def test_chosen_theme_is_kept_on_other_pages(stack, open_page):
    page = open_page(color_scheme="light")
    page.goto(f"{stack.url}/settings")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.locator("main").get_by_role("button", name="Dark").click()
    dark = page.evaluate(background)
    page.goto(stack.url)
    assert dark != light
    assert page.evaluate(background) == dark


def test_conversation_is_started_and_read_without_scripts(stack, open_page):
    page = open_page(java_script_enabled=False)
    page.goto(stack.url)
    page.get_by_label("Your request").fill("!say Hello without scripts")
    page.get_by_role("button", name="Start").click()
    page.wait_for_url("**/conversations/*")
    conversation_id = page.url.rpartition("/")[2]
    wait_until(
        lambda: (
            stack.owner.get(f"conversations/{conversation_id}")["execution_status"] == "finished"
        ),
        "the run to finish",
        seconds=90,
        pause=0.3,
    )
    page.get_by_role("link", name="Read the conversation as plain text").click()
    expect(page.get_by_text("Hello without scripts", exact=True)).to_be_visible()


def test_text_contrast_of_colour_tokens_meets_wcag_aa():
    """WCAG AA requires a ratio of 4.5 for text, in the light and in the dark theme."""
    css = (prepare.ROOT / "static" / "css" / "tokens.css").read_text()
    values = dict(re.findall(r"--([\w-]+): light-dark\((#\w{6}, #\w{6})\)", css))
    tokens = {name: value.split(", ") for name, value in values.items()}
    pairs = [
        (ink, paper)
        for ink in ("ink", "ink-2", "ink-3")
        for paper in ("canvas", "surface", "raised", "sunken")
    ]
    pairs += [
        ("accent-ink", "accent-soft"),
        ("accent-ink", "surface"),
        ("ink", "accent-soft"),
        ("ink", "add"),
        ("ink", "del"),
    ]
    pairs += [(tone, f"{tone}-soft") for tone in ("good", "warn", "bad")] + [
        (tone, "surface") for tone in ("good", "warn", "bad")
    ]

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one: str, other: str) -> float:
        light, dark = sorted((luminance(one), luminance(other)), reverse=True)
        return (light + 0.05) / (dark + 0.05)

    poor = [
        (ink, paper, theme, round(contrast(tokens[ink][theme], tokens[paper][theme]), 2))
        for ink, paper in pairs
        for theme in (0, 1)
        if contrast(tokens[ink][theme], tokens[paper][theme]) < 4.5
    ]
    poor += [
        ("on-accent", "accent", theme)
        for theme in (0, 1)
        if contrast("#ffffff", tokens["accent"][theme]) < 4.5
    ]
    assert not poor
