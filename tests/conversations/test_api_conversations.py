from uuid import uuid4

import pytest

from conversations import services
from conversations.models import Conversation
from tests.conftest import key_client
from tests.conversations.conftest import ingest, list_queued_jobs, make_frame, make_status_frame

URL = "/api/v1/conversations"


def build_record(conversation, **changes):
    """Return the whole expected record of a new conversation, with ``changes``."""
    start = conversation.start_tasks.get()
    return {
        "id": str(conversation.pk),
        "title": "A conversation",
        "status": "starting",
        "status_detail": "",
        "execution_status": "idle",
        "visibility": "private",
        "others_may_steer": False,
        "lends_personal": False,
        "lender": "creator",
        "confirmation_policy": "never",
        "security_analyzer": "llm",
        "asked_seq": None,
        "last_seq": 0,
        "epoch": 1,
        "model": "demo",
        "repository": None,
        "is_external": False,
        "trigger": "gui",
        "tags": [],
        "archived_at": None,
        "parent": None,
        "forked_seq": None,
        "pull_requests": [],
        "cost_micros": 0,
        "tokens": {"prompt": 0, "completion": 0, "cached": 0},
        "start_task": {
            "id": str(start.pk),
            "phase": "WORKING",
            "phases": [],
            "detail": "",
            "reason": "a new conversation",
            "error": "",
            "attempts": 0,
            "queue_position": None,
            "created_at": start.created_at.isoformat().replace("+00:00", "Z"),
            "updated_at": start.updated_at.isoformat().replace("+00:00", "Z"),
            "finished_at": None,
        },
        "organization": str(conversation.organization_id),
        "created_by": str(conversation.created_by_id),
        "created_at": conversation.created_at.isoformat().replace("+00:00", "Z"),
        "updated_at": conversation.updated_at.isoformat().replace("+00:00", "Z"),
    } | changes


class TestCreate:
    def test_conversation_message_and_start_are_created_together(self, api, alice):
        response = api.post(URL, {"message": "Fix the bug\nplease"}, format="json")

        assert response.status_code == 201
        conversation = Conversation.objects.get()
        assert response.json() == build_record(conversation, title="Fix the bug", last_seq=1)
        assert conversation.events.get().payload == '{"text":"Fix the bug\\nplease"}'
        assert (
            len(list_queued_jobs("start_conversation"))
            == len(list_queued_jobs("deliver_messages"))
            == 1
        )

    def test_repeat_with_the_same_idempotency_key_returns_the_same_record(self, api):
        first = api.post(URL, {"message": "x"}, format="json", headers={"Idempotency-Key": "k"})
        again = api.post(URL, {"message": "x"}, format="json", headers={"Idempotency-Key": "k"})

        assert again.status_code == 201
        assert again.json() == first.json()
        assert Conversation.objects.count() == 1

    def test_idempotency_key_reused_for_another_body_conflicts(self, api):
        api.post(URL, {"message": "x"}, format="json", headers={"Idempotency-Key": "k"})

        response = api.post(URL, {"message": "y"}, format="json", headers={"Idempotency-Key": "k"})

        assert response.status_code == 409
        assert response.json()["code"] == "idempotency-conflict"

    @pytest.mark.parametrize("key", ["", "x" * 256, "naïve"])
    def test_invalid_idempotency_key_is_refused(self, api, key):
        response = api.post(URL, {}, format="json", headers={"Idempotency-Key": key})

        assert response.status_code == 400

    @pytest.mark.parametrize(
        "body",
        [
            {"message": "a\0b"},
            {"message": ""},
            {"title": "x" * 201},
            {"title": "a\0"},
            {"repository": {"provider": "github", "full_name": "; rm -rf /"}},
            {"repository": {"provider": "github", "full_name": "a/b; id"}},
            {"repository": {"provider": "github", "full_name": "a/../../b"}},
            {"repository": {"provider": "github", "full_name": "a/b", "branch": "x\n--y"}},
            {"repository": {"provider": "nohost", "full_name": "a/b"}},
            {"repository": {"provider": "github", "full_name": "a/b", "branch": "--upload-pack=x"}},
            {"visibility": "everybody"},
            {"confirmation_policy": "sometimes"},
            {"organization": str(uuid4())},
            ["not an object"],
        ],
    )
    def test_invalid_body_is_refused_with_a_sentence_and_creates_nothing(self, api, body):
        response = api.post(URL, body, format="json")

        assert response.status_code == 400
        assert response.headers["Content-Type"] == "application/problem+json"
        assert response.json()["error"]
        assert Conversation.objects.count() == 0

    def test_viewer_may_not_create_a_conversation(self, alice, bob):
        bob.memberships.filter(organization=alice.personal_organization).update(role="viewer")

        response = key_client(bob, organization=alice.personal_organization).post(
            URL, {}, format="json"
        )

        assert response.status_code == 403
        assert response.json()["permission"] == "conversations.create"


class TestList:
    def test_pages_are_newest_first_and_do_not_shift_when_a_conversation_is_added(self, api, alice):
        conversations = [services.create_conversation(user=alice, title=f"c{n}") for n in range(5)]

        first = api.get(URL, {"limit": 2}).json()
        services.create_conversation(user=alice, title="newer")
        second = api.get(URL, {"limit": 2, "cursor": first["next"]}).json()
        third = api.get(URL, {"limit": 2, "cursor": second["next"]}).json()

        titles = [row["title"] for page in (first, second, third) for row in page["items"]]
        assert titles == ["c4", "c3", "c2", "c1", "c0"]
        assert third["next"] is None
        assert len(conversations) == 5

    def test_filters_narrow_the_list_and_invalid_filters_are_refused(self, api, alice):
        services.create_conversation(user=alice, title="Fix the roof")
        other = services.create_conversation(user=alice, title="Paint the roof red")
        Conversation.objects.filter(pk=other.pk).update(status="failed")

        assert [r["title"] for r in api.get(URL, {"q": "roof fix"}).json()["items"]] == [
            "Fix the roof"
        ]
        assert len(api.get(URL, {"status": "failed"}).json()["items"]) == 1
        assert api.get(URL, {"status": "odd"}).status_code == 400
        assert api.get(URL, {"cursor": "odd"}).status_code == 400
        assert api.get(URL, {"colour": "red"}).status_code == 400

    def test_number_of_queries_does_not_depend_on_the_number_of_conversations(
        self, api, alice, django_assert_num_queries
    ):
        api.get(URL)
        for n in range(3):
            services.create_conversation(user=alice, title=f"c{n}")
        with django_assert_num_queries(2):
            api.get(URL)
        for n in range(10):
            services.create_conversation(user=alice, title=f"d{n}")
        with django_assert_num_queries(2):
            assert len(api.get(URL).json()["items"]) == 13


class TestVisibility:
    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("get", ""),
            ("patch", ""),
            ("delete", ""),
            ("post", "/messages"),
            ("get", "/events"),
            ("post", "/interrupt"),
            ("post", "/resume"),
            ("post", "/confirmation"),
            ("get", "/start-tasks"),
            ("get", "/files"),
            ("get", "/files/content"),
            ("put", "/files/content"),
            ("post", "/files/upload"),
            ("get", "/archive"),
            ("get", "/git/changes"),
            ("get", "/git/diff"),
        ],
    )
    def test_stranger_gets_404_on_every_route(self, conversation, charlie, method, path):
        response = getattr(key_client(charlie), method)(f"{URL}/{conversation.pk}{path}")

        assert response.status_code == 404
        assert str(conversation.pk) not in response.content.decode()

    def test_teammate_sees_the_conversation_once_it_is_shared(self, conversation, alice, bob):
        team = key_client(bob, organization=alice.personal_organization)
        assert team.get(f"{URL}/{conversation.pk}").status_code == 404

        Conversation.objects.update(visibility="organization")

        assert team.get(f"{URL}/{conversation.pk}").status_code == 200
        assert len(team.get(URL).json()["items"]) == 1

    def test_key_of_another_organization_gets_404(self, alice, bob):
        conversation = services.create_conversation(
            user=bob, organization=alice.personal_organization
        )

        response = key_client(bob).get(f"{URL}/{conversation.pk}")

        assert response.status_code == 404

    def test_key_without_the_scope_gets_403_with_the_permission(self, conversation, alice):
        response = key_client(alice, scopes=["conversations.view"]).post(
            f"{URL}/{conversation.pk}/messages", {"text": "x"}, format="json"
        )

        assert response.status_code == 403
        assert response.json()["permission"] == "conversations.steer"


class TestDetail:
    @pytest.mark.parametrize(
        ("path", "allowed"),
        [("", "GET, POST, HEAD, OPTIONS"), ("/{pk}/messages", "POST, OPTIONS")],
    )
    def test_unsupported_method_gets_405_with_the_allowed_methods(
        self, api, conversation, path, allowed
    ):
        response = api.put(URL + path.format(pk=conversation.pk))

        assert (response.status_code, response.headers["Allow"]) == (405, allowed)

    def test_record_is_returned_whole(self, api, conversation):
        assert api.get(f"{URL}/{conversation.pk}").json() == build_record(conversation)

    def test_rename_returns_the_changed_record(self, api, conversation):
        response = api.patch(f"{URL}/{conversation.pk}", {"title": "Better"}, format="json")

        conversation.refresh_from_db()
        assert response.json() == build_record(conversation, title="Better")

    def test_visibility_is_changed_by_the_creator_only(self, api, conversation, alice, bob):
        url = f"{URL}/{conversation.pk}"
        response = api.patch(url, {"visibility": "organization"}, format="json")
        assert response.json()["visibility"] == "organization"

        team = key_client(bob, organization=alice.personal_organization)
        response = team.patch(url, {"visibility": "private"}, format="json")

        assert (response.status_code, response.json()["code"]) == (403, "not-yours")

    def test_deleted_conversation_gets_404_and_its_sandbox_is_destroyed(
        self, api, running, sandboxes
    ):
        ingest(running, make_frame(0))
        assert api.delete(f"{URL}/{running.pk}").status_code == 204
        assert api.get(f"{URL}/{running.pk}").status_code == 404
        assert api.get(URL).json() == {"items": [], "next": None}

        services.destroy_conversation(conversation_id=running.pk)

        assert sandboxes.destroyed == 1
        assert Conversation.objects.count() == 0
        services.destroy_conversation(conversation_id=running.pk)


class TestMessages:
    def test_message_is_in_the_log_when_the_response_arrives(self, api, conversation):
        message = {"text": "hi", "message_id": str(uuid4())}

        response = api.post(f"{URL}/{conversation.pk}/messages", message, format="json")

        assert response.status_code == 202
        assert response.json() == {"seq": 1, "event_id": message["message_id"]}
        assert conversation.events.get().payload == '{"text":"hi"}'

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"text": ""},
            {"text": "\0"},
            {"text": 1.5, "message_id": "x"},
            {"text": "x", "images": ["file:///etc"]},
        ],
    )
    def test_invalid_message_is_refused_and_not_stored(self, api, conversation, body):
        response = api.post(f"{URL}/{conversation.pk}/messages", body, format="json")

        assert response.status_code == 400
        assert conversation.events.count() == 0


class TestEvents:
    def test_pages_go_forward_and_backward(self, api, running):
        ingest(running, *[make_frame(n) for n in range(10)])
        url = f"{URL}/{running.pk}/events"

        def seqs(**query):
            return [item["seq"] for item in api.get(url, query).json()["items"]]

        assert seqs() == list(range(1, 11))
        assert seqs(after=3, limit=2) == [4, 5]
        assert seqs(before=8, limit=3) == [5, 6, 7]
        assert seqs(after=10) == []
        assert seqs(kind="Nothing") == []

    def test_page_has_every_field_of_an_event(self, api, running):
        ingest(running, make_frame(0, timestamp="2026-11-22T10:00:00.5", n=1))
        event = running.events.get()

        body = api.get(f"{URL}/{running.pk}/events").json()

        assert body == {
            "items": [
                {
                    "seq": 1,
                    "event_id": "event-0",
                    "kind": "MessageEvent",
                    "source": "agent",
                    "payload": {
                        "id": "event-0",
                        "kind": "MessageEvent",
                        "source": "agent",
                        "timestamp": "2026-11-22T10:00:00.5",
                        "n": 1,
                    },
                    "engine_time": "2026-11-22T10:00:00.500000Z",
                    "received_at": event.received_at.isoformat().replace("+00:00", "Z"),
                }
            ],
            "last_seq": 1,
            "epoch": 1,
        }

    @pytest.mark.parametrize(
        "query",
        [
            {"after": "x"},
            {"after": -1},
            {"limit": 501},
            {"limit": 0},
            {"after": 1, "before": 2},
            {"kind": "\0"},
            {"after": "9" * 30},
        ],
    )
    def test_invalid_query_is_refused(self, api, conversation, query):
        assert api.get(f"{URL}/{conversation.pk}/events", query).status_code == 400


class TestConfirmation:
    def ask_for_confirmation(self, running):
        ingest(
            running,
            make_status_frame(0, "running"),
            make_status_frame(1, "waiting_for_confirmation"),
        )

    def answer(self, api, running, **body):
        return api.post(f"{URL}/{running.pk}/confirmation", body, format="json")

    def test_second_answer_to_a_question_conflicts(self, api, running):
        self.ask_for_confirmation(running)

        first = self.answer(api, running, accept=True, asked_seq=2)
        second = self.answer(api, running, accept=True, asked_seq=2)

        assert (first.status_code, second.status_code) == (202, 409)
        assert len(list_queued_jobs("answer_agent")) == 1

    def test_answer_to_an_earlier_question_conflicts(self, api, running):
        self.ask_for_confirmation(running)

        assert self.answer(api, running, accept=True, asked_seq=1).status_code == 409

    def test_answer_without_a_question_conflicts(self, api, running):
        assert self.answer(api, running, accept=True).status_code == 409

    def deliver(self, running, *, accept, reason="", asked_in_run=1):
        services.deliver_answer(
            conversation_id=running.pk, accept=accept, reason=reason, asked_in_run=asked_in_run
        )

    def list_engine_requests(self, engine):
        requests = [(s.rpartition("/")[2], b) for m, s, b in engine.calls if m == "POST"][1:]
        # Starting a conversation runs a command that sets the Git author.
        return [(name, b) for name, b in requests if name != "execute_bash_command"]

    def test_approval_is_sent_to_the_engine(self, running, engine):
        engine.conversations[str(running.pk)]["execution_status"] = "waiting_for_confirmation"

        self.deliver(running, accept=True)

        assert self.list_engine_requests(engine) == [
            ("respond_to_confirmation", {"accept": True, "reason": "Approved by the user."})
        ]

    def test_rejection_with_a_reason_is_sent_and_the_agent_continues(self, running, engine):
        engine.conversations[str(running.pk)]["execution_status"] = "waiting_for_confirmation"

        self.deliver(running, accept=False, reason="use another way")

        assert [name for name, _ in self.list_engine_requests(engine)] == [
            "respond_to_confirmation",
            "run",
        ]

    def test_approval_after_a_restart_is_sent_as_a_rejection_so_that_the_agent_asks_again(
        self, running, engine
    ):
        engine.conversations[str(running.pk)]["execution_status"] = "waiting_for_confirmation"

        self.deliver(running, accept=True, asked_in_run=0)

        [answer, navigate, run] = self.list_engine_requests(engine)
        assert answer[1]["accept"] is False
        assert navigate == ("navigate", {"event_id": "leaf"})
        assert run[0] == "run"

    def test_engine_that_no_longer_waits_gets_no_answer(self, running, engine):
        self.deliver(running, accept=True)

        assert engine.calls[-1] == ("GET", "", None)
        assert self.list_engine_requests(engine) == []
