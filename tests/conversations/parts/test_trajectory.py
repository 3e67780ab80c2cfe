import json
import re
import subprocess

import pytest

from conversations import services
from conversations.log import replay
from conversations.services import exports
from lib.redaction import HIDDEN
from tests.conversations.parts.conftest import HOSTILE, KEY, add_event
from tests.js.test_scripts import NODE
from tests.prepare import ROOT


def get_trajectory(api, conversation, **query):
    return api.get(f"/api/v1/conversations/{conversation.pk}/trajectory", query)


def read_body(response):
    return b"".join(response).decode()


def test_json_has_the_whole_log_without_secrets(api, story):
    response = get_trajectory(api, story)

    trajectory = json.loads(read_body(response))
    assert response.headers["Content-Disposition"].endswith('.json"')
    assert trajectory["conversation"]["title"] == story.title
    assert [event["seq"] for event in trajectory["events"]] == list(range(1, 11))
    assert trajectory["events"][4]["payload"] == {"text": HOSTILE}
    assert KEY not in json.dumps(trajectory)
    assert HIDDEN in json.dumps(trajectory["events"][7])


def test_json_ends_at_the_requested_seq(api, story):
    trajectory = json.loads(read_body(get_trajectory(api, story, through_seq=4)))

    assert (trajectory["through_seq"], len(trajectory["events"])) == (4, 4)


def test_log_of_many_pages_is_exported_without_gaps(api, story, monkeypatch):
    monkeypatch.setattr(exports, "PAGE", 3)

    trajectory = json.loads(read_body(get_trajectory(api, story)))

    assert [event["seq"] for event in trajectory["events"]] == list(range(1, 11))


def test_log_is_read_page_by_page(story, monkeypatch, django_assert_num_queries):
    monkeypatch.setattr(exports, "PAGE", 2)
    pieces = services.export_trajectory(conversation=story, format="json")

    with django_assert_num_queries(1):
        next(pieces), next(pieces), next(pieces)


def test_html_escapes_texts_of_users_and_agents(api, story):
    response = get_trajectory(api, story, format="html")

    page = read_body(response)
    assert page.count("<script") == 1
    assert "<img" not in page
    assert "&lt;script&gt;document.title" in page
    assert "<title>A &lt;b&gt;story&lt;/b&gt; of `ours`</title>" in page
    assert KEY not in page
    assert HIDDEN in page
    assert response.headers["Content-Security-Policy"] == replay.CONTENT_POLICY
    assert response.headers["Content-Disposition"].startswith("attachment")
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_html_loads_nothing_from_other_addresses(api, story):
    response = get_trajectory(api, story, format="html")

    page = read_body(response)
    assert response.status_code == 200
    assert "I have begun" in page
    assert not re.findall(r"""(?:src|href)=["'](?!#)""", page)
    assert "url(" not in page
    assert "@import" not in page


def test_markdown_keeps_texts_in_fences_that_they_cannot_close(api, story):
    add_event(
        story, "MessageEvent", {"llm_message": {"content": [{"text": "````\n# not a heading"}]}}
    )

    page = read_body(get_trajectory(api, story, format="markdown"))

    assert page.startswith("# `` A <b>story</b> of `ours` ``\n")
    assert "\n`````text\n````\n# not a heading\n`````\n" in page
    assert KEY not in page


RENDER = """
import MarkdownIt from "./static/js/vendor/markdown-it/markdown-it.js";
let text = "";
for await (const piece of process.stdin) text += piece;
const parser = new MarkdownIt({ html: true, linkify: true });
parser.linkify.set({ fuzzyLink: true, fuzzyEmail: true });
console.log(parser.render(text));
"""
"""Renders like a program that allows HTML and makes links of everything that looks like an address."""
NAMES = [
    "[a](javascript:alert(1))",
    "<img src=x onerror=alert(1)>",
    "![a](https://evil.example/a.png)",
    "https://evil.example/a",
    "www.evil.example",
    "a@evil.example",
    "evil.example",
    "<https://evil.example>",
    "one\n\n# two\n\n- three\n\n<b>four",
    "`code` ``` and more",
    "`",
    "*a* _b_ ~~c~~ &lt;b&gt;",
    "|a|b|\n|-|-|",
    "a\r\n---\r\nb",
    "\u202egnp.exe",
    "\\`<b>",
    " ",
    "]: https://evil.example",
    "a\u2028# b",
]


@pytest.mark.skipif(NODE is None, reason="Node.js is not installed")
def test_names_in_markdown_are_no_markup_and_no_links(api, story):
    for name in NAMES:
        # The tool's name is the agent's choice, the other names are choices of users and servers.
        add_event(story, "ActionEvent", {"tool_name": name[:80], "action": {"command": name}})
    for name in NAMES:
        story.title, story.model = name[:200] or "-", name
        story.repository = {"provider": "github", "full_name": name}
        story.save()

        page = read_body(get_trajectory(api, story, format="markdown"))

        rendered = subprocess.run(
            [NODE, "--input-type=module", "--eval", RENDER],
            cwd=ROOT, input=page, capture_output=True, text=True, check=True, timeout=60,
        ).stdout  # fmt: skip
        assert set(re.findall(r"<(\w+)", rendered)) <= {"h1", "h2", "p", "pre", "code"}, name
        assert rendered.count("<h1>") == 1
        assert rendered.count("<h2>") == rendered.count("<pre>")
        assert "\u202e" not in page.split("```")[0]


@pytest.mark.parametrize("name", ["json", "markdown", "html"])
def test_secret_in_a_name_is_hidden(api, story, name):
    story.title, story.model = f"title {KEY}", f"model {KEY}"
    story.repository = {"provider": "github", "full_name": f"a/{KEY}"}
    story.save()

    page = read_body(get_trajectory(api, story, format=name))

    assert KEY not in page
    assert (
        page.count(HIDDEN.replace("<", "&lt;").replace(">", "&gt;") if name == "html" else HIDDEN)
        >= 3
    )


@pytest.mark.parametrize("name", ["json", "markdown", "html"])
def test_malformed_payloads_do_not_stop_the_export(api, story, name):
    for raw in ('{"text": "\\ud800"}', "[1, 2", '{"text": "a\\u0000b"}', "7"):
        add_event(story, "UserMessage", raw, source="user")

    assert len(read_body(get_trajectory(api, story, format=name))) > 1_000


@pytest.mark.parametrize("query", [{"format": "pdf"}, {"through_seq": "x"}, {"other": 1}])
def test_invalid_query_is_refused(api, story, query):
    assert get_trajectory(api, story, **query).status_code == 400
