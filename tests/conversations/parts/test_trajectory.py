import json
import re

import pytest

from conversations import services
from conversations.log import replay
from conversations.services import exports
from lib.redaction import HIDDEN
from tests.conversations.parts.conftest import HOSTILE, KEY, add_event


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

    assert page.startswith(r"# A \<b\>story\</b\> of \`ours\`")
    assert "\n`````text\n````\n# not a heading\n`````\n" in page
    assert KEY not in page


@pytest.mark.parametrize("name", ["json", "markdown", "html"])
def test_malformed_payloads_do_not_stop_the_export(api, story, name):
    for raw in ('{"text": "\\ud800"}', "[1, 2", '{"text": "a\\u0000b"}', "7"):
        add_event(story, "UserMessage", raw, source="user")

    assert len(read_body(get_trajectory(api, story, format=name))) > 1_000


@pytest.mark.parametrize("query", [{"format": "pdf"}, {"through_seq": "x"}, {"other": 1}])
def test_invalid_query_is_refused(api, story, query):
    assert get_trajectory(api, story, **query).status_code == 400
