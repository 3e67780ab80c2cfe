"""The benchmark of the pages on a slow network: requests, kilobytes and seconds in headless Chromium.

Chromium emulates slow 4G: 1.6 Mbit/s down, 750 kbit/s up and 150 ms for each request. Each page is opened with an empty
cache, and once more with the cache of the first visit. The reference is the same server for a browser that accepts no
compressed responses. A page counts as drawn when its ``DRAWN`` expression is true:

- *home*: the rows of 20 conversations, with the relative times that the script writes;
- *conversation*: the newest of 300 events, and the page scrolled to it;
- *API reader*: the names of all groups of operations; *ready* means that Swagger UI shows them.

Requests and kilobytes (headers included) are those until the network has been silent for a second.
"""

import json
import statistics
import time
from typing import Any
from uuid import UUID

from django.db import connection
from playwright.sync_api import Browser, BrowserContext, sync_playwright

from accounts import services as accounts
from accounts.models import User
from bench import report
from bench.webs import ROOT, Web, web
from conversations.models import Conversation
from tests.prepare import chromium

ROUNDS = 3
EVENTS = 300
PASSWORD = "correct horse battery"
DOWN, UP, LATENCY = 1_600_000 / 8, 750_000 / 8, 150
"""Bytes per second, bytes per second, and milliseconds."""
DRAWN = {
    "home": "() => document.querySelectorAll('[data-recent] > li time[title]').length >= 20",
    "conversation": f"""() => document.querySelector('[data-bench]')?.dataset.ready
        && document.querySelector('[data-seq="{EVENTS}"]')?.checkVisibility()""",
    "API reader": "() => document.querySelectorAll('#swagger-ui summary, .opblock-tag').length > 10",
    "API reader, ready": "() => document.querySelectorAll('#swagger-ui .opblock-tag').length > 10",
}
GOALS = {"conversation": "<= 2.5 s"}
QUIET_SECONDS = 1.0


def run() -> list[dict]:
    """Return the seconds and the kilobytes of each page, with an empty cache and with a warm one."""
    user = accounts.create_user(email=f"pages-{time.time_ns()}@example.com", password=PASSWORD)
    paths = {
        "home": "/",
        "conversation": f"/conversations/{_fill(user)}",
        "API reader": "/api/v1/docs",
        "API reader, ready": "/api/v1/docs",
    }
    figures = []
    with web() as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        cookies = _sign_in(browser, server, user)
        for name, path in paths.items():
            visits = [
                (
                    _visit(browser, cookies, server.url + path, name),
                    _visit(browser, cookies, server.url + path, name, compressed=False),
                )
                for _ in range(ROUNDS)
            ]
            for number, cache in enumerate(("empty", "warm")):
                own, plain = ([pair[which][number] for pair in visits] for which in (0, 1))
                figures += _figures(f"{name}, {cache} cache", own, plain, GOALS.get(name, ""))
        browser.close()
    return figures


def _figures(what: str, own: list["Visit"], plain: list["Visit"], goal: str) -> list[dict]:
    median = statistics.median
    return [
        report.figure(
            "pages",
            f"{what}, {unit}",
            median(getattr(visit, name) for visit in own),
            median(getattr(visit, name) for visit in plain),
            unit=unit,
            reach=goal if unit == "s" else "",
            requests=median(visit.requests for visit in own),
        )
        for name, unit in (("seconds", "s"), ("kilobytes", "kB"))
    ]


class Visit:
    """The traffic of one visit to a page."""

    def __init__(self) -> None:
        self.requests = 0
        self.bytes = 0
        self.seconds = 0.0
        self.heard = time.monotonic()

    @property
    def kilobytes(self) -> float:
        return self.bytes / 1000

    def count_response(self, event: dict[str, Any]) -> None:
        response = event["response"]
        self.heard = time.monotonic()
        # The browser's own cache, and `data:` URLs of style sheets, use no network.
        if not (response.get("fromDiskCache") or response["url"].startswith("data:")):
            self.requests += 1

    def count_bytes(self, event: dict[str, Any]) -> None:
        self.heard = time.monotonic()
        self.bytes += event["encodedDataLength"]


def _visit(
    browser: Browser, cookies: Any, url: str, name: str, *, compressed: bool = True
) -> tuple[Visit, Visit]:
    """Open a page with an empty cache, then again with a warm one. Return what both visits took."""
    context = browser.new_context(storage_state=cookies, viewport={"width": 1280, "height": 800})
    try:
        return tuple(_open(context, url, name, compressed=compressed) for _ in range(2))  # type: ignore[return-value]
    finally:
        context.close()


def _open(context: BrowserContext, url: str, name: str, *, compressed: bool) -> Visit:
    visit, page = Visit(), context.new_page()
    session = context.new_cdp_session(page)
    session.send("Network.enable")
    conditions = {
        "offline": False,
        "latency": LATENCY,
        "downloadThroughput": DOWN,
        "uploadThroughput": UP,
    }
    session.send("Network.emulateNetworkConditions", conditions)
    if not compressed:
        headers = {"headers": {"Accept-Encoding": "identity"}}
        session.send("Network.setExtraHTTPHeaders", headers)
    cached: set[str] = set()
    session.on("Network.requestServedFromCache", lambda event: cached.add(event["requestId"]))
    session.on(
        "Network.responseReceived",
        lambda event: None if event["requestId"] in cached else visit.count_response(event),
    )
    session.on(
        "Network.loadingFinished",
        lambda event: None if event["requestId"] in cached else visit.count_bytes(event),
    )
    page.goto(url, wait_until="commit", timeout=120_000)
    drawn = page.wait_for_function(
        f"() => ({DRAWN[name]})() && performance.now()", polling="raf", timeout=120_000
    )
    visit.seconds = float(drawn.json_value()) / 1000
    while time.monotonic() - visit.heard < QUIET_SECONDS:
        page.wait_for_timeout(100)
    page.close()
    return visit


def _sign_in(browser: Browser, server: Web, user: User) -> Any:
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{server.url}/settings")
    page.get_by_label("E-mail").fill(user.email)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{server.url}/settings")
    state = context.storage_state()
    context.close()
    return state


def _fill(user: User) -> UUID:
    """Create 20 conversations, the newest with ``EVENTS`` events. Return the id of that one."""
    fields = {
        "organization": user.personal_organization,
        "created_by": user,
        "model": "demo",
        "status": "paused",
    }
    titles = [
        "Fix the build",
        "Write tests for the parser",
        "Explain the settings",
        "Update the packages",
    ]
    Conversation.objects.bulk_create(
        [Conversation(**fields, title=f"{titles[n % 4]} {n}", last_seq=3) for n in range(19)]
    )
    long = Conversation.objects.create(
        **fields, title="Fix the release", last_seq=EVENTS, execution_status="finished"
    )
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO conversations_event (organization_id, conversation_id, seq, event_id, kind, source, payload,"
            " received_at) VALUES (%s, %s, %s, %s, %s, %s, %s, now())",
            [
                (
                    long.organization_id,
                    long.pk,
                    seq,
                    event["id"],
                    event["kind"],
                    event["source"],
                    json.dumps(event),
                )
                for seq, event in enumerate(build_events(EVENTS), start=1)
            ],
        )
    return long.pk


def build_events(count: int) -> list[dict[str, Any]]:
    """Return a log in the form of the engine: a run that reads, edits and tests the files of this project.

    A quarter of its bytes are reports of the agent's state and results of its risk analysis.
    """
    sources = sorted((ROOT / "conversations").rglob("*.py"))
    events: list[dict[str, Any]] = []

    def add(kind: str, source: str, **fields: Any) -> str:
        event_id = str(UUID(int=len(events) + 2**80))
        at = f"2026-11-30T12:{len(events) // 60:02}:{len(events) % 60:02}.000000"
        events.append({"id": event_id, "timestamp": at, "source": source, **fields, "kind": kind})
        return event_id

    def text(words: str) -> list[dict[str, Any]]:
        return [{"cache_prompt": False, "type": "text", "text": words}]

    add("UserMessage", "user", text="Read the project, improve its modules and run the tests.")
    add("ConversationStateUpdateEvent", "environment", key="execution_status", value="running")
    step = 0
    while len(events) < count - 2:
        path = sources[step % len(sources)]
        lines = path.read_text().splitlines()
        relative = path.relative_to(ROOT).as_posix()
        start = (step * 7) % max(1, len(lines) - 30)
        part = "\n".join(lines[start : start + 26])
        tool, call = (
            (
                "file_editor",
                {"kind": "FileEditorAction", "command": "view", "path": f"/workspace/{relative}"},
            )
            if step % 2
            else (
                "terminal",
                {
                    "kind": "TerminalAction",
                    "command": f"sed -n {start},{start + 26}p {relative}",
                    "is_input": False,
                    "timeout": None,
                    "reset": False,
                },
            )
        )
        call_id = f"call_{step:06}"
        action = add(
            "ActionEvent",
            "agent",
            thought=text(f"Next I read `{relative}` from line {start} on."),
            reasoning_content=None,
            thinking_blocks=[],
            action=call,
            tool_name=tool,
            tool_call_id=call_id,
            llm_response_id=f"chatcmpl-{step:06}",
            tool_call={
                "id": call_id,
                "name": tool,
                "arguments": json.dumps(call),
                "origin": "completion",
            },
            security_risk="LOW",
            summary=f"read {relative}",
        )
        add(
            "SecurityAnalysisEvent",
            "environment",
            action_id=action,
            risks={action: "LOW"},
            analyzer="LLMSecurityAnalyzer",
            rationale="The action reads a file of the workspace and changes nothing.",
        )
        result = {
            "kind": "FileEditorObservation" if step % 2 else "TerminalObservation",
            "content": text(part),
            "is_error": False,
            "command": call["command"],
        }
        result |= (
            {"path": call["path"]}
            if step % 2
            else {
                "exit_code": 0,
                "timeout": False,
                "metadata": {
                    "exit_code": 0,
                    "pid": -1,
                    "username": "agent",
                    "hostname": "sandbox",
                    "working_dir": "/workspace",
                    "py_interpreter_path": None,
                    "prefix": "",
                    "suffix": "",
                },
            }
        )
        add(
            "ObservationEvent",
            "environment",
            tool_name=tool,
            tool_call_id=call_id,
            observation=result,
            action_id=action,
        )
        usage = {
            "model": "demo",
            "prompt_tokens": 2_000 + 137 * step,
            "completion_tokens": 90 + step,
            "cache_read_tokens": 1_500 + 130 * step,
            "cache_write_tokens": 0,
            "reasoning_tokens": 0,
            "context_window": 128_000,
            "per_turn_token": 2_090,
            "response_id": f"chatcmpl-{step:06}",
        }
        add(
            "ConversationStateUpdateEvent",
            "environment",
            key="stats",
            value={
                "usage_to_metrics": {
                    name: {
                        "model_name": "demo",
                        "accumulated_cost": 0.01 * step,
                        "max_budget_per_task": None,
                        "accumulated_token_usage": usage,
                        "costs": [],
                        "response_latencies": [],
                        "token_usages": [],
                    }
                    for name in ("agent", "condenser")
                }
            },
        )
        if step % 10 == 9:
            add(
                "MessageEvent",
                "agent",
                llm_message={
                    "role": "assistant",
                    "content": text(
                        f"I have read **{step + 1} modules**:\n\n- `{relative}` is short\n- its names are clear"
                    ),
                    "tool_calls": None,
                },
                activated_skills=[],
                extended_content=[],
            )
        step += 1
    del events[count - 2 :]
    add("ConversationStateUpdateEvent", "environment", key="execution_status", value="finished")
    add(
        "MessageEvent",
        "agent",
        llm_message={
            "role": "assistant",
            "content": text("All modules are read and the tests pass."),
            "tool_calls": None,
        },
        activated_skills=[],
        extended_content=[],
    )
    return events
