import json
import re

import pytest

from conversations import services
from conversations.log import replay
from conversations.services import exports
from lib.redaction import HIDDEN
from tests.conversations.parts.conftest import HOSTILE, KEY, add


def get(api, conversation, **query):
    return api.get(f"/api/v1/conversations/{conversation.pk}/trajectory", query)


def body(response):
    return b"".join(response).decode()


def test_json_holds_the_whole_log_without_its_secrets(api, story):
    response = get(api, story)

    told = json.loads(body(response))
    assert response.headers["Content-Disposition"].endswith('.json"')
    assert told["conversation"]["title"] == story.title
    assert [event["seq"] for event in told["events"]] == list(range(1, 11))
    assert told["events"][4]["payload"] == {"text": HOSTILE}
    assert KEY not in json.dumps(told)
    assert HIDDEN in json.dumps(told["events"][7])


def test_it_ends_where_it_is_told_to(api, story):
    told = json.loads(body(get(api, story, through_seq=4)))

    assert (told["through_seq"], len(told["events"])) == (4, 4)


def test_pages_join_without_gaps(api, story, monkeypatch):
    monkeypatch.setattr(exports, "PAGE", 3)

    told = json.loads(body(get(api, story)))

    assert [event["seq"] for event in told["events"]] == list(range(1, 11))


def test_a_long_log_is_never_read_whole(story, monkeypatch, django_assert_num_queries):
    monkeypatch.setattr(exports, "PAGE", 2)
    pieces = services.export_trajectory(conversation=story, format="json")

    with django_assert_num_queries(1):
        next(pieces), next(pieces), next(pieces)


def test_html_escapes_what_people_and_agents_wrote(api, story):
    response = get(api, story, format="html")

    page = body(response)
    assert page.count("<script") == 1
    assert "<img" not in page
    assert "&lt;script&gt;document.title" in page
    assert "<title>A &lt;b&gt;story&lt;/b&gt; of `ours`</title>" in page
    assert KEY not in page
    assert HIDDEN in page
    assert response.headers["Content-Security-Policy"] == replay.CONTENT_POLICY
    assert response.headers["Content-Disposition"].startswith("attachment")
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_html_needs_nothing_from_anywhere(api, story):
    page = body(get(api, story, format="html"))

    assert not re.findall(r"""(?:src|href)=["'](?!#)""", page)
    assert "url(" not in page
    assert "@import" not in page


def test_markdown_keeps_texts_in_fences_that_they_cannot_close(api, story):
    add(story, "MessageEvent", {"llm_message": {"content": [{"text": "````\n# not a heading"}]}})

    page = body(get(api, story, format="markdown"))

    assert page.startswith(r"# A \<b\>story\</b\> of \`ours\`")
    assert "\n`````text\n````\n# not a heading\n`````\n" in page
    assert KEY not in page


@pytest.mark.parametrize("name", ["json", "markdown", "html"])
def test_payloads_that_are_no_good_json_do_not_stop_it(api, story, name):
    for raw in ('{"text": "\\ud800"}', "[1, 2", '{"text": "a\\u0000b"}', "7"):
        add(story, "UserMessage", raw, source="user")

    assert len(body(get(api, story, format=name))) > 1_000


@pytest.mark.parametrize("query", [{"format": "pdf"}, {"through_seq": "x"}, {"other": 1}])
def test_what_it_does_not_know_is_refused(api, story, query):
    assert get(api, story, **query).status_code == 400
