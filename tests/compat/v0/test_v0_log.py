"""V0 event pages, trajectories, prompts and states beyond the single translated event."""

import json

import pytest

from compat.v0 import event_pages, log, page_encoding, prompts, states
from conversations.log import windows
from conversations.models import Conversation, NewEvent
from tests.conftest import key_client
from tests.factories.conversations import ConversationFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def append(conversation):
    """A function that appends an event to Alice's conversation and returns its ``seq``."""
    Conversation.objects.update(epoch=1)

    def append(kind, source="agent", **payload):
        number = conversation.last_seq + 1
        text = json.dumps(payload)
        conversation.append(NewEvent(event_id=f"e{number}", kind=kind, source=source, payload=text))
        return number

    return append


def build_path(conversation, rest):
    return f"/api/conversations/{conversation.pk.hex}/{rest}"


def make_stats(cost):
    usage = {"accumulated_cost": cost, "model_name": "m"}
    return {"key": "stats", "value": {"usage_to_metrics": {"agent": usage}}}


def say(text):
    return {"llm_message": {"role": "assistant", "content": [{"type": "text", "text": text}]}}


class TestPages:
    def test_page_that_starts_later_still_has_the_usage_totals(self, api, conversation, append):
        append("ConversationStateUpdateEvent", "environment", **make_stats(0.25))
        seq = append("MessageEvent", **say("Hi"))

        body = api.get(build_path(conversation, f"events?start_id={seq}")).json()

        [event] = body["events"]
        assert (event["id"], event["llm_metrics"]["accumulated_cost"]) == (2, 0.25)

    def test_observation_on_a_later_page_names_its_action(self, api, conversation, append):
        action = append("ActionEvent", action={"kind": "TerminalAction", "command": "ls"})
        seq = append(
            "ObservationEvent",
            "environment",
            action_id=f"e{action}",
            observation={"kind": "TerminalObservation", "exit_code": 0},
        )

        body = api.get(build_path(conversation, f"events?start_id={seq}")).json()

        [event] = body["events"]
        assert (event["cause"], event["extras"]["command"]) == (action, "ls")

    def test_reference_that_cannot_be_stored_or_is_far_away_breaks_no_page(
        self, api, conversation, append
    ):
        action = append("ActionEvent", action={"kind": "TerminalAction", "command": "ls"})
        for _ in range(windows.ACTIONS_BEFORE + 5):
            append("MessageEvent", **say("Hi"))
        seq = append("Condensation", forgotten_event_ids=["\ud800", "a\0b", f"e{action}"])

        body = api.get(build_path(conversation, f"events?start_id={seq}")).json()

        [event] = body["events"]
        assert event["args"]["forgotten_event_ids"] == [action]

    def test_totals_are_found_behind_state_updates_that_only_mention_them(
        self, api, conversation, append
    ):
        append("ConversationStateUpdateEvent", "environment", **make_stats(0.25))
        for _ in range(windows.STATS_MAX):
            empty = {"key": "stats", "value": {"usage_to_metrics": {}}}
            append("ConversationStateUpdateEvent", "environment", **empty)
        seq = append("MessageEvent", **say("Hi"))

        for query in (f"start_id={seq}", "reverse=true&limit=1"):
            body = api.get(build_path(conversation, f"events?{query}")).json()
            assert body["events"][0]["llm_metrics"]["accumulated_cost"] == 0.25

    @pytest.mark.parametrize("query", ["start_id=0", "start_id=7", "reverse=true"])
    def test_page_runs_at_most_the_queries_of_the_native_route(
        self, api, conversation, append, django_assert_num_queries, query
    ):
        for _ in range(5):
            append("ConversationStateUpdateEvent", "environment", **make_stats(0.25))
            action = append("ActionEvent", action={"kind": "TerminalAction", "command": "ls"})
            append("ObservationEvent", "environment", action_id=f"e{action}")
            append("MessageEvent", "user", **say("Hi"))
        path = build_path(conversation, f"events?{query}&limit=4")
        api.get(path)

        with django_assert_num_queries(3):
            assert len(api.get(path).json()["events"]) == 4

    def test_end_date_and_start_date_are_inclusive(self, api, conversation, append):
        append("MessageEvent", **say("Hi"))
        at = conversation.events.get().received_at.isoformat()

        for query in ({"start_date": at}, {"end_date": at}):
            body = api.get(build_path(conversation, "events"), query).json()
            assert [event["id"] for event in body["events"]] == [1]

    @pytest.mark.parametrize(
        "query", ["start_id=-1", "start_id=x", "start_date=x", "reverse=maybe"]
    )
    def test_invalid_filter_is_422_naming_the_field(self, api, conversation, query):
        response = api.get(build_path(conversation, f"events?{query}"))

        assert response.status_code == 422
        assert response.json()["error"].startswith(query.partition("=")[0])

    def test_other_user_gets_404_for_the_log(self, conversation, append, charlie):
        append("MessageEvent", **say("Hi"))
        client = key_client(charlie)

        for route in ("events", "trajectory", "remember-prompt?event_id=1"):
            response = client.get(build_path(conversation, route))
            assert (response.status_code, response.json()["code"]) == (404, "not-found"), route


class TestFilters:
    def test_excluded_hidden_event_does_not_match(self):
        hidden = {"observation": "run", "extras": {"hidden": True}, "source": "agent"}

        assert not event_pages.matches(hidden, {"exclude_hidden": True})
        shown = hidden | {"extras": {"hidden": False}, "timestamp": "2026-11-22T10:00:00+00:00"}
        assert event_pages.matches(shown, {"exclude_hidden": True})

    def test_text_is_searched_without_case_in_every_field(self):
        event = {
            "action": "run",
            "args": {"command": "ECHO É"},
            "source": "agent",
            "timestamp": "2026-11-22T10:00:00+00:00",
        }

        assert event_pages.matches(event, {"query": "echo é"})
        assert not event_pages.matches(event, {"query": "cat"})


class TestTrajectory:
    def test_browser_observation_loses_its_screenshot_and_trees(self, api, conversation, append):
        append(
            "ObservationEvent",
            "environment",
            observation={"kind": "BrowserObservation", "screenshot_data": "AAAA"},
        )

        page = api.get(build_path(conversation, "events")).json()["events"][0]["extras"]
        whole = json.loads(b"".join(api.get(build_path(conversation, "trajectory"))))

        [event] = whole["trajectory"]
        assert page["screenshot"] == "data:image/png;base64,AAAA"
        large = {"screenshot", "dom_object", "axtree_object", "extra_element_properties"}
        assert event["extras"] == {k: v for k, v in page.items() if k not in large}

    def test_trajectory_of_an_empty_log_is_an_empty_list(self, api, conversation):
        body = b"".join(api.get(build_path(conversation, "trajectory")))

        assert body == b'{"trajectory":[]}'


class TestLinksAtAPosition:
    def test_totals_at_the_position_are_loaded(self, conversation, append):
        first = append("ConversationStateUpdateEvent", "environment", **make_stats(0.5))
        later = append("ConversationStateUpdateEvent", "environment", **make_stats(2.0))

        costs = [
            log.load_links_at(conversation.pk, seq).metrics["accumulated_cost"]
            for seq in (first, later)
        ]

        assert costs == [0.5, 2.0]
        assert log.load_links_at(conversation.pk, 0).metrics is None


class TestPrompts:
    def test_remember_prompt_quotes_users_agents_and_final_thoughts(self):
        events = [
            {"action": "message", "source": "user", "args": {"content": "Fix it"}},
            {"action": "run", "source": "agent", "args": {"command": "ls"}},
            {"action": "message", "source": "agent", "args": {"content": "x" * 3_000}},
            {"action": "finish", "source": "agent", "args": {"final_thought": "Done"}},
        ]

        quoted = prompts.build_remember_prompt(events).partition("\n\n")[2].splitlines()

        agent = f"The agent said: {'x' * 3_000}"[:2_000]
        assert quoted == ["The user said: Fix it", agent, "The agent finished: Done"]

    def test_remember_prompt_quotes_the_last_20_messages(self):
        events = [
            {"action": "message", "source": "user", "args": {"content": f"n{number}"}}
            for number in range(25)
        ]

        quoted = prompts.build_remember_prompt(events).partition("\n\n")[2].splitlines()

        assert quoted == [f"The user said: n{number}" for number in range(5, 25)]

    @pytest.mark.parametrize("instructions", ["", "  \n"])
    def test_blank_instructions_leave_the_message_unchanged(self, instructions):
        assert prompts.prepend_instructions("Fix it", instructions) == "Fix it"
        assert prompts.prepend_instructions("", " Be brief. ") == "Be brief."

    def test_microagent_message_without_a_title_names_the_repository(self):
        assert prompts.build_microagent_message({"repo": "a/b"}) == (
            "Write down what an agent should know in a/b as a file in .openhands/microagents."
        )


class TestStates:
    @pytest.mark.parametrize(
        ("status", "execution", "state"),
        [
            ("starting", "idle", "loading"),
            ("running", "idle", "awaiting_user_input"),
            ("running", "new-status", "loading"),
            ("paused", "running", "stopped"),
            ("stopped", "finished", "stopped"),
            ("failed", "idle", "error"),
        ],
    )
    def test_sandbox_that_does_not_run_decides_the_agent_state(self, status, execution, state):
        record = {"status": status, "execution_status": execution}

        assert states.map_agent_state(record) == state

    @pytest.mark.parametrize(
        ("phase", "runtime_status"),
        [
            ("WORKING", "STATUS$STARTING_RUNTIME"),
            ("PREPARING_REPOSITORY", "STATUS$SETTING_UP_WORKSPACE"),
            ("SETTING_UP_GIT_HOOKS", "STATUS$SETTING_UP_GIT_HOOKS"),
            ("STARTING_CONVERSATION", "STATUS$RUNTIME_STARTED"),
            ("NEW_PHASE", "STATUS$STARTING_RUNTIME"),
        ],
    )
    def test_phase_of_the_start_decides_the_runtime_status(self, phase, runtime_status):
        record = {"status": "starting", "execution_status": "idle", "start_task": {"phase": phase}}

        assert states.map_runtime_status(record) == runtime_status
        assert states.map_runtime_status(record | {"start_task": None}) == "STATUS$STARTING_RUNTIME"

    @pytest.mark.parametrize("execution", ["error", "stuck"])
    def test_agent_error_is_a_runtime_error(self, execution):
        record = {"status": "running", "execution_status": execution}

        assert states.map_runtime_status(record) == "STATUS$ERROR"


class TestFeedback:
    BODY = {"version": "1.0", "permissions": "private", "polarity": "positive", "feedback": "Yes"}  # noqa: RUF012

    def test_feedback_without_events_is_422(self, api, conversation):
        response = api.post(build_path(conversation, "submit-feedback"), self.BODY, format="json")

        sentence = "This conversation has no events yet. Give feedback after the first message."
        assert (response.status_code, response.json()["error"]) == (422, sentence)

    def test_positive_feedback_is_rating_5_of_the_newest_event(self, api, conversation, append):
        append("MessageEvent", **say("One"))
        append("MessageEvent", **say("Two"))

        response = api.post(build_path(conversation, "submit-feedback"), self.BODY, format="json")

        assert response.status_code == 200
        feedback = conversation.feedback.get()
        assert (feedback.seq, feedback.rating, feedback.reason) == (2, 5, "Yes")

    @pytest.mark.parametrize(
        "change", [{"polarity": "neutral"}, {"polarity": None}, {"permissions": "everyone"}]
    )
    def test_invalid_feedback_is_422_and_not_stored(self, api, conversation, append, change):
        append("MessageEvent", **say("One"))

        url = build_path(conversation, "submit-feedback")
        response = api.post(url, self.BODY | change, format="json")

        assert response.status_code == 422
        assert not conversation.feedback.exists()

    @pytest.mark.parametrize("rating", [0, 6, "x", None])
    def test_rating_outside_1_to_5_is_422(self, api, conversation, append, rating):
        seq = append("MessageEvent", **say("One"))
        body = {"conversation_id": conversation.pk.hex, "event_id": seq, "rating": rating}

        response = api.post("/feedback/conversation", body, format="json")

        assert response.status_code == 422
        assert response.json()["error"].startswith("rating: ")

    def test_rating_of_an_unknown_event_is_404(self, api, conversation, append):
        append("MessageEvent", **say("One"))
        body = {"conversation_id": conversation.pk.hex, "event_id": 9, "rating": 3}

        assert api.post("/feedback/conversation", body, format="json").status_code == 404
        assert not conversation.feedback.exists()

    def test_second_rating_replaces_the_first(self, api, conversation, append):
        seq = append("MessageEvent", **say("One"))
        body = {"conversation_id": conversation.pk.hex, "event_id": seq}

        for rating in (2, 4):
            api.post("/feedback/conversation", body | {"rating": rating}, format="json")

        batch = api.get(f"/feedback/conversation/{conversation.pk.hex}/batch").json()
        assert batch == {"1": {"exists": True, "rating": 4, "reason": ""}}


def test_list_with_a_foreign_page_id_shows_own_conversations_only(api, alice, charlie):
    own = ConversationFactory(created_by=alice)
    for _ in range(3):
        ConversationFactory(created_by=charlie)
    page = key_client(charlie).get("/api/conversations?limit=1").json()
    assert page["next_page_id"]

    body = api.get(f"/api/conversations?page_id={page['next_page_id']}").json()

    assert [row["conversation_id"] for row in body["results"]] == [own.pk.hex]


ODD_NUMBERS = (
    *(0.0, -0.0, 1e-4, 9.9e-5, 1e-5, 1.5e-300, 5e-324, 1e15, 1e16, 1.7e308, 0.1, 123456.789),
    *(2**63, -(2**63), 2**64 - 1, 2**64, 10**39, 1e22, 123456789012345680.0),
)


@pytest.mark.parametrize("number", ODD_NUMBERS)
@pytest.mark.parametrize("text", ["plain", "é\x7f\u2028😀", '\x00\x1f"\\/', "\ud800"])
def test_page_has_the_bytes_of_its_events_encoded_one_by_one(number, text):
    fields = ("content", "timeout", "arguments", "metadata")
    events = [
        {"id": 1, "message": text, "args": {name: value}}
        for name in fields
        for value in (text, number)
    ]
    events += [
        {"id": 2, "args": {}, "timeout": number},
        {"id": 3, "extras": {"view_range": [1, 2]}},
    ]
    events += [
        {"id": 4, "args": {"arguments": {"a": [number, text]}}},
        {"id": 5, "extras": {"inputs": [number]}},
    ]
    for name in ("accumulated_cost", "max_budget_per_task"):
        metrics = {"accumulated_cost": 0.5, "max_budget_per_task": None} | {name: number}
        events.append({"id": 6, "args": {"thought": text}, "llm_metrics": metrics})

    expected = b",".join(page_encoding.encode_event(event) for event in events)

    assert page_encoding.encode_page(events, True) == b'{"events":[%s],"has_more":true}' % expected
