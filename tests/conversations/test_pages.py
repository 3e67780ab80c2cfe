"""Home and the conversation, as pages and by plain forms; what is live is tested in tests/flows."""

import json
from uuid import uuid4

import pytest

from conversations import services
from conversations.models import Conversation, Event
from conversations.web import forms, pages
from tests.factories.conversations import ConversationFactory, EventFactory


@pytest.fixture
def page(client, alice):
    client.force_login(alice)
    return client


# --- Home ---------------------------------------------------------------------------


def test_a_prompt_starts_a_conversation_once(page, alice):
    form = {
        "message": "Write hello.py",
        "policy": "risky",
        "idempotency_key": str(uuid4()),
        "repository": "octo/hello@main",
    }
    first, again = page.post("/", form), page.post("/", form)
    conversation = Conversation.objects.get()

    assert (
        first.headers["Location"]
        == again.headers["Location"]
        == f"/conversations/{conversation.pk}"
    )
    assert conversation.confirmation_policy == "risky"
    assert conversation.repository == {
        "provider": "github",
        "full_name": "octo/hello",
        "branch": "main",
    }
    assert (
        json.loads(conversation.events.get(kind="UserMessage").payload)["text"] == "Write hello.py"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"message": "  "},
        {"policy": "sometimes"},
        {"repository": "what is this"},
        {"repository": "https://evil.example/a/b"},
    ],
)
def test_a_prompt_that_will_not_do_says_why_and_is_kept(page, change):
    response = page.post("/", {"message": "Keep me", "policy": "never"} | change)

    assert response.status_code == 422
    assert 'role="alert"' in response.text
    assert ("Keep me" in response.text) is ("message" not in change)
    assert not Conversation.objects.exists()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", None),
        ("octo/hello", {"provider": "github", "full_name": "octo/hello"}),
        ("https://github.com/octo/hello.git", {"provider": "github", "full_name": "octo/hello"}),
        (
            "https://gitlab.com/group/sub/project",
            {"provider": "gitlab", "full_name": "group/sub/project"},
        ),
        (
            "https://bitbucket.org/a/b@dev/x",
            {"provider": "bitbucket", "full_name": "a/b", "branch": "dev/x"},
        ),
    ],
)
def test_repositories_are_named_as_people_name_them(text, found):
    assert forms.parse_repository(text) == found


def test_home_sorts_by_what_wants_its_owner(page, alice):
    def make(title, **fields):
        return ConversationFactory(created_by=alice, title=title, **fields)

    make("Asks", status="running", execution_status="waiting_for_confirmation")
    make("Works", status="running", execution_status="running")
    make("Begins", status="starting")
    make("Was", status="stopped", execution_status="finished")
    ConversationFactory(title="Not mine")
    context = page.get("/").context

    assert [row["title"] for row in context["waiting"]] == ["Asks"]
    assert {row["title"] for row in context["busy"]} == {"Works", "Begins"}
    assert [(row["title"], row["chip"]) for row in context["recent"]] == [("Was", "Finished")]


def test_home_goes_on_in_pages_without_gaps(page, alice):
    rows = [
        ConversationFactory(created_by=alice, status="stopped", title=f"n{i}") for i in range(45)
    ]
    found, address = [], "/"
    while address:
        context = page.get(address).context
        found += [row["id"] for row in context["recent"]]
        address = f"/?before={context['more']}" if context["more"] else None

    assert found == [row.pk for row in reversed(rows)]


@pytest.mark.parametrize("before", ["x", "01a20501-e2e2-732b-8f74-636424f8c9f2"])
def test_a_place_that_never_was_is_404(page, before):
    assert page.get("/", {"before": before}).status_code == 404


def test_home_asks_as_many_questions_for_twenty_as_for_two(
    page, alice, django_assert_max_num_queries
):
    for status in ("stopped", "starting", "running"):
        ConversationFactory.create_batch(7, created_by=alice, status=status)

    with django_assert_max_num_queries(16):
        page.get("/")


def test_an_example_is_filled_in_without_a_script(page):
    assert (
        pages.EXAMPLES[1][2].splitlines()[0]
        in page.get("/?example=1").context["form"]["message"].value()
    )
    assert page.get("/?example=9").context["form"]["message"].value() == ""


# --- One conversation -----------------------------------------------------------------


@pytest.mark.parametrize("address", ["", "?plain=1"])
def test_a_stranger_finds_nothing(client, charlie, conversation, address):
    client.force_login(charlie)

    assert client.get(f"/conversations/{conversation.pk}{address}").status_code == 404
    for action in pages.ACTIONS:
        assert (
            client.post(
                f"/conversations/{conversation.pk}/{action}", {"text": "x", "title": "x"}
            ).status_code
            == 404
        )
    assert Conversation.objects.filter(deleted_at=None, title=conversation.title).exists()


def test_the_page_gives_its_script_the_record_and_no_inline_code(page, conversation):
    response = page.get(f"/conversations/{conversation.pk}")
    text = response.text

    assert response.context["page"]["record"]["id"] == str(conversation.pk)
    assert "script-src 'self'" in response.headers["Content-Security-Policy"]
    scripts = [part.split(">", 1)[0] for part in text.split("<script")[1:]]
    assert all("src=" in script or 'type="application/json"' in script for script in scripts)
    assert " onclick=" not in text


def test_a_title_cannot_leave_the_data_it_stands_in(page, alice):
    hostile = "</script><script>alert(1)</script>"
    conversation = ConversationFactory(created_by=alice, title=hostile)

    text = page.get(f"/conversations/{conversation.pk}").text

    assert hostile not in text
    assert "<script>alert" not in text


def test_the_plain_story_tells_what_happened(page, conversation):
    def event(kind, payload, source="agent"):
        EventFactory(conversation=conversation, kind=kind, source=source, payload=payload)

    services.post_message(
        conversation_id=conversation.pk, text="<b>Go</b>", message_id=str(uuid4())
    )
    conversation.refresh_from_db()
    event("MessageEvent", '{"llm_message": {"content": [{"text": "echo of mine"}]}}', source="user")
    event(
        "ActionEvent",
        '{"tool_name": "terminal", "action": {"command": "ls -l"}, "thought": [{"text": "Look"}]}',
    )
    event("ObservationEvent", '{"observation": {"content": [{"text": "total 0"}]}}')
    event("MessageEvent", '{"llm_message": {"content": [{"text": "Done"}]}}')
    event("Broken", "[1, 2")
    event("ActionEvent", '{"action": 7, "thought": "x"}')
    response = page.get(f"/conversations/{conversation.pk}?plain=1")

    told = [(part.author, part.text) for part in response.context["story"]]
    assert told == [
        ("You", "<b>Go</b>"),
        ("Agent: terminal", "Look\nls -l"),
        ("Result", "total 0"),
        ("Agent", "Done"),
        ("Broken", "[1, 2"),
    ]
    assert "&lt;b&gt;Go&lt;/b&gt;" in response.text


def test_plain_forms_carry_messages_and_say_what_went_wrong(page, conversation):
    address = f"/conversations/{conversation.pk}"
    message_id = str(uuid4())
    for _ in range(2):
        sent = page.post(f"{address}/message", {"text": "More", "message_id": message_id})
    empty = page.post(f"{address}/message", {"text": "  "}, follow=True)
    answer = page.post(f"{address}/answer", {"accept": "yes", "asked_seq": "²"}, follow=True)

    assert sent.headers["Location"] == address
    assert Event.objects.filter(conversation=conversation, event_id=message_id).count() == 1
    assert "Enter a message" in empty.text
    assert "no longer waiting for this answer" in answer.text


def test_renaming_and_deleting(page, conversation):
    address = f"/conversations/{conversation.pk}"
    page.post(f"{address}/rename", {"title": "Better"})
    assert Conversation.objects.get(pk=conversation.pk).title == "Better"
    assert "1 to 200 characters" in page.post(f"{address}/rename", {"title": ""}, follow=True).text

    deleted = page.post(f"{address}/delete", follow=True)
    assert "was deleted" in deleted.text
    assert page.get(address).status_code == 404


def test_unknown_acts_do_not_exist(page, conversation):
    assert page.post(f"/conversations/{conversation.pk}/explode").status_code == 404
    assert page.get(f"/conversations/{conversation.pk}/delete").status_code == 405


def test_somebody_who_may_only_read_gets_no_commands(client, alice, bob, conversation):
    Conversation.objects.filter(pk=conversation.pk).update(visibility="organization")
    bob.memberships.filter(organization=alice.personal_organization).update(role="viewer")
    client.force_login(bob)
    text = client.get(f"/conversations/{conversation.pk}").text

    assert "data-stop" not in text
    assert "data-rename" not in text
    assert "but not send messages" in text
    assert (
        client.post(f"/conversations/{conversation.pk}/message", {"text": "x"}).status_code == 403
    )
