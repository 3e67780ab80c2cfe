"""The card of a refused host and the network panel in a real browser, with Django's live server and the fake engine."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connections
from playwright.sync_api import Page, expect, sync_playwright

from accounts.models import Membership
from conversations import services
from conversations.models import HostRule, Sandbox
from tests import prepare
from tests.conversations.egress_rules.conftest import build_decision
from tests.factories.conversations import EgressPolicyFactory, HostRuleFactory

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(240),
]
SHOTS = os.environ.get("OH_SHOTS", "")
"""A folder for screenshots, for people who change the pages. The tests need none."""


def in_thread(function, *args, **fields):
    """Call a function with database queries in a thread, because Playwright's event loop runs in this one."""

    def call():
        try:
            return function(*args, **fields)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def sign_in(client, user) -> dict:
    client.force_login(user)
    return {
        "name": settings.SESSION_COOKIE_NAME,
        "value": client.cookies[settings.SESSION_COOKIE_NAME].value,
    }


@pytest.fixture
def refused(transactional_db, alice, bob, sandboxes):
    """Return a conversation, visible to Bob as a member, whose sandbox was refused a host."""
    conversation = services.create_conversation(user=alice, title="Install the packages")
    services.start_conversation(conversation_id=conversation.pk)
    EgressPolicyFactory(
        organization=alice.personal_organization,
        hosts=["pypi.org", "*.pythonhosted.org", "github.com"],
        updated_by=alice,
    )
    # The provider `process`, whose name the fake has, controls no network.
    sandboxes.decisions = [
        build_decision("pypi.org", allowed=True, reason="listed", address="151.101.0.223"),
        build_decision("internal.corp", reason="private-address", count=4),
        build_decision("registry.npmjs.org", count=2),
    ]
    services.collect_decisions(conversation_id=conversation.pk)
    conversation.refresh_from_db()
    conversation.visibility = "organization"
    conversation.save(update_fields=["visibility"])
    return conversation


@pytest.fixture
def open_page(live_server, client, refused) -> Iterator:
    """A function that opens a path as a user. Errors that the page reports fail the test."""
    errors: list[str] = []
    cookies = {}

    def open_path(user, path, *, width=1280, height=860, scheme="light") -> Page:
        cookie = cookies[user.pk] | {"url": live_server.url}
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        context.add_cookies([cookie])
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "console",
            lambda message: (
                errors.append(message.text) if "Content Security" in message.text else None
            ),
        )
        page.goto(f"{live_server.url}{path}")
        return page

    for user in {membership.user for membership in Membership.objects.select_related("user")}:
        cookies[user.pk] = sign_in(client, user)
        client.cookies.clear()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=prepare.chromium(),
            args=["--no-sandbox", "--disable-background-networking"],
        )
        yield open_path
        browser.close()
    assert errors == []


def take(page: Page, name: str) -> None:
    if SHOTS:
        page.screenshot(path=Path(SHOTS) / f"{name}.png")


def test_owner_allows_a_host_by_keyboard_and_the_card_shows_who_decided(open_page, refused, alice):
    page = open_page(alice, f"/conversations/{refused.pk}")
    card = page.get_by_role("article", name="Allow the host registry.npmjs.org?")
    allow = card.get_by_role("button", name="Allow for this conversation")
    expect(allow).to_be_enabled(timeout=20_000)
    take(page, "card-owner")

    allow.focus()
    page.keyboard.press("Enter")

    decided = page.get_by_role("article", name="Network: registry.npmjs.org")
    expect(decided).to_contain_text(
        "Alice allowed this host for this conversation on ", timeout=20_000
    )
    expect(page.get_by_text("registry.npmjs.org was allowed for this conversation.")).to_be_visible(timeout=20_000)  # fmt: skip
    rule = in_thread(HostRule.objects.get)
    assert (rule.host, rule.allowed) == ("registry.npmjs.org", True)
    decided.get_by_role("button", name="Undo").click()
    expect(card.get_by_role("button", name="Keep refused")).to_be_enabled(timeout=20_000)
    assert in_thread(HostRule.objects.count) == 0


def test_member_reads_who_may_decide_and_sees_the_decision_without_a_reload(
    open_page, refused, alice, bob
):
    page = open_page(bob, f"/conversations/{refused.pk}")
    card = page.get_by_role("article", name="Allow the host registry.npmjs.org?")
    expect(card).to_contain_text("An owner or admin of the organization can allow this host.", timeout=20_000)  # fmt: skip
    expect(card.get_by_role("button")).to_have_count(0)

    in_thread(
        services.decide_host,
        conversation_id=refused.pk,
        host="registry.npmjs.org",
        allowed=False,
        by=alice,
    )

    decided = page.get_by_role("article", name="Network: registry.npmjs.org")
    expect(decided).to_contain_text(
        "Alice kept this host refused for this conversation on ", timeout=30_000
    )


def test_panel_lists_the_profile_rules_and_connections_and_adds_a_rule(open_page, refused, alice):
    page = open_page(alice, f"/conversations/{refused.pk}")
    page.get_by_role("tab", name="Network").click()
    pane = page.get_by_role("tabpanel", name="Network")

    expect(pane).to_contain_text("Only listed hosts", timeout=20_000)
    expect(pane).to_contain_text("does not follow the profile")
    expect(pane.get_by_role("button", name="Allow registry.npmjs.org for this conversation")).to_be_visible()  # fmt: skip
    expect(pane).to_contain_text("internal.corp:443 × 4")
    expect(pane).to_contain_text("private address")
    pane.get_by_label("Host or pattern").fill("*.debian.org")
    page.keyboard.press("Enter")
    expect(pane.get_by_role("button", name="Remove the rule for *.debian.org")).to_be_visible(timeout=20_000)  # fmt: skip
    pane.get_by_label("Host or pattern").fill("a b")
    pane.get_by_role("button", name="Refuse", exact=True).click()
    expect(page.get_by_text("“a b” is not a host name.")).to_be_visible()
    assert in_thread(HostRule.objects.get).host == "*.debian.org"


if SHOTS:

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", [1280, 390])
    def test_screenshots(open_page, refused, alice, bob, scheme, width):
        def prepare_rules():
            Sandbox.objects.update(provider="bubblewrap")
            HostRuleFactory(conversation=refused, host="*.debian.org", decided_by=alice)
            HostRuleFactory(
                conversation=refused, host="tracker.example", allowed=False, decided_by=alice
            )

        in_thread(prepare_rules)
        options = {"width": width, "scheme": scheme, "height": 860 if width == 1280 else 844}
        for user, who in ((alice, "owner"), (bob, "member")):
            page = open_page(user, f"/conversations/{refused.pk}", **options)
            expect(page.get_by_role("article", name="Allow the host registry.npmjs.org?")).to_contain_text("can allow" if user is bob else "Keep refused", timeout=20_000)  # fmt: skip
            if width == 1280:
                page.get_by_role("tab", name="Network").click()
            take(page, f"card-{who}-{scheme}-{width}")
            if width == 390:
                page.get_by_role("button", name="Network").click()
            expect(page.locator("#pane-network")).to_contain_text("internal.corp", timeout=20_000)
            take(page, f"panel-{who}-{scheme}-{width}")
            if user is alice:
                if width == 390:
                    page.get_by_role("button", name="Story").click()
                page.get_by_role("button", name="Allow for this conversation", exact=True).click()
                expect(page.get_by_role("article", name="Network: registry")).to_contain_text("Alice", timeout=20_000)  # fmt: skip
                page.wait_for_timeout(2_500)
                take(page, f"decided-{scheme}-{width}")
                in_thread(HostRule.objects.filter(host="registry.npmjs.org").delete)
            for name, path in (
                ("settings", "/settings/sandboxes?organization=" + str(refused.organization_id)),
                ("details", f"/conversations/{refused.pk}/details"),
            ):
                page = open_page(user, path, **options)
                page.screenshot(
                    path=Path(SHOTS) / f"{name}-{who}-{scheme}-{width}.png", full_page=True
                )
