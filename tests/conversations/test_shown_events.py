"""Pages of only the shown events: which events they leave out, and which part of the log they cover."""

import json
import subprocess

import pytest

from conversations.log import lookups
from conversations.web.pages import build_preloads
from tests.factories.conversations import EventFactory
from tests.js.test_scripts import NODE, needs_node
from tests.prepare import ROOT

STATE = "ConversationStateUpdateEvent"
EFFECT = """\
import { Story } from "./static/js/lib/story.js";
const plain = ({ rows, execution, runStartedAt, runEndedAt }) => JSON.stringify([rows, execution, runStartedAt, runEndedAt]);
const log = JSON.parse(process.argv[1]);
const [all, rest] = [log, log.filter((event) => !event.left_out)].map((events) => {
  const story = new Story();
  story.add(events);
  return plain(story);
});
console.log(all === rest ? "equal" : `${all}\\n${rest}`);
"""


def add(conversation, kind, **payload):
    event = EventFactory(
        conversation=conversation, kind=kind, payload=json.dumps({"kind": kind} | payload)
    )
    return event.seq


@pytest.fixture
def log(conversation):
    """A log of 12 events. Return the seqs of those that pages show."""
    shown = [add(conversation, "UserMessage", text="Hello")]
    add(conversation, "TokenEvent")
    add(conversation, STATE, key="stats", value={"usage": 1})
    shown.append(add(conversation, STATE, key="execution_status", value="running"))
    shown.append(add(conversation, "ActionEvent", action={"kind": "ThinkAction"}))
    add(conversation, "LLMCompletionLogEvent")
    add(conversation, STATE, key="full_state", value={"execution_status": "running"})
    shown.append(add(conversation, "SecurityAnalysisEvent", risks={}))
    shown.append(add(conversation, "KindOfTheFuture"))
    add(conversation, "StreamingDeltaEvent")
    add(conversation, "CondensationRequest")
    add(conversation, STATE, key="stats", value={"usage": 2})
    return shown


@pytest.fixture
def get(api, conversation):
    def get(**query):
        url = f"/api/v1/conversations/{conversation.pk}/events"
        return api.get(url, {"shown": "true"} | query)

    return get


def seqs(page):
    return [event["seq"] for event in page["items"]]


def test_page_contains_only_the_shown_events_and_covers_all(get, log):
    page = get().json()

    assert seqs(page) == log
    assert (page["from_seq"], page["through_seq"], page["last_seq"]) == (1, 12, 12)


def test_events_left_out_count_towards_the_limit(get, log):
    page = get(before=13, limit=5).json()

    assert seqs(page) == [8, 9]
    assert (page["from_seq"], page["through_seq"]) == (8, 12)


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 12, 500])
def test_pages_backward_and_forward_show_each_event_once(get, log, limit):
    backward, before = [], 13
    while before > 1:
        page = get(before=before, limit=limit).json()
        assert page["through_seq"] == before - 1
        backward = seqs(page) + backward
        before = page["from_seq"]
    forward, after = [], 0
    while after < 12:
        page = get(after=after, limit=limit).json()
        assert page["from_seq"] == after + 1
        forward += seqs(page)
        after = page["through_seq"]

    assert backward == forward == log


@pytest.mark.parametrize(
    ("query", "covered"),
    [
        ({"after": 12}, (13, 12)),
        ({"after": 99}, (100, 99)),
        ({"before": 1}, (1, 0)),
        ({"before": 99, "limit": 3}, (10, 12)),
    ],
)
def test_page_beyond_the_log_covers_what_exists(get, log, query, covered):
    page = get(**query).json()

    assert (page["from_seq"], page["through_seq"]) == covered


def test_page_before_the_oldest_stored_event_covers_the_beginning(get, log, conversation):
    conversation.events.filter(seq__lt=8).delete()  # as `prune_events` does

    page = get(before=8, limit=3).json()

    assert (page["items"], page["from_seq"], page["through_seq"]) == ([], 1, 7)


def test_page_without_a_shown_event_covers_only_its_part(get, log):
    page = get(before=13, limit=3).json()

    assert (page["items"], page["from_seq"], page["through_seq"]) == ([], 10, 12)


def test_empty_log_has_an_empty_page(get, conversation):
    page = get(before=1).json()

    assert (page["items"], page["from_seq"], page["through_seq"]) == ([], 1, 0)


@pytest.mark.parametrize("text", ['{"key":"execution_status"}', '{"key" :  "execution_status"}'])
def test_state_of_the_agent_is_found_in_any_spelling(get, conversation, text):
    EventFactory(conversation=conversation, kind=STATE, payload=text)

    assert seqs(get().json()) == [1]


@pytest.mark.parametrize("query", [{"kind": "MessageEvent"}, {"wait": 5}])
def test_combination_with_another_selection_is_refused(get, log, query):
    response = get(**query)

    assert response.status_code == 400
    assert "`shown`" in response.json()["detail"]


def test_page_without_the_parameter_has_all_events(api, conversation, log):
    page = api.get(f"/api/v1/conversations/{conversation.pk}/events").json()

    assert seqs(page) == list(range(1, 13))
    assert page.keys() == {"items", "last_seq", "epoch"}


@needs_node
def test_events_left_out_have_no_effect_on_the_story(api, conversation, log):
    # Rich payloads, so that a kind that the story starts to draw is found.
    for kind in lookups.NEVER_SHOWN:
        add(
            conversation,
            kind,
            text="x",
            key="execution_status",
            value="finished",
            summary="x",
            tool_call_id="1",
            action={"kind": "FinishAction"},
            llm_message={"content": "x"},
            message="x",
            code="x",
            risks={"x": "HIGH"},
        )
    url = f"/api/v1/conversations/{conversation.pk}/events"
    everything = api.get(url).json()["items"]
    kept = seqs(api.get(url, {"shown": "true"}).json())
    for event in everything:
        event["left_out"] = event["seq"] not in kept
    assert {event["kind"] for event in everything if event["left_out"]} == {
        *lookups.NEVER_SHOWN,
        STATE,
    }

    result = subprocess.run(
        [NODE, "--input-type=module", "-e", EFFECT, json.dumps(everything)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert result.stdout.strip() == "equal"


def test_conversation_page_loads_its_first_requests_early(client, alice, conversation, log):
    conversation.refresh_from_db()
    client.force_login(alice)
    html = client.get(f"/conversations/{conversation.pk}").content.decode()

    urls = build_preloads({"id": conversation.pk, "last_seq": 12})
    for url in urls:
        assert (
            f'<link rel="preload" as="fetch" href="{url.replace("&", "&amp;")}" crossorigin>'
            in html
        )
        assert client.get(url).status_code == 200
    assert seqs(client.get(urls[0]).json()) == log
