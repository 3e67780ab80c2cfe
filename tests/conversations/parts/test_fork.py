import pytest

from conversations import services
from conversations.models import Conversation
from conversations.sandboxes.process import ProcessProvider
from tests.conftest import key_client
from tests.conversations.conftest import list_queued_jobs
from tests.conversations.parts.conftest import KEY, add, answer, say


def fork(api, conversation, **body):
    return api.post(f"/api/v1/conversations/{conversation.pk}/fork", body, format="json")


def test_the_log_comes_along_up_to_a_complete_turn(api, story):
    response = fork(api, story, through_seq=9)

    assert response.status_code == 201, response.content
    made = Conversation.objects.get(pk=response.json()["id"])
    theirs = list(story.events.order_by("seq")[:8].values_list("seq", "kind", "payload"))
    assert list(made.events.order_by("seq").values_list("seq", "kind", "payload"))[:8] == theirs
    assert made.events.get(seq=9).kind == "SandboxNotice"
    assert (made.last_seq, made.forked_seq, made.engine_seq) == (9, 8, -1)
    assert (made.parent_id, response.json()["parent"]) == (story.pk, str(story.pk))
    ids = made.events.values_list("event_id", flat=True)
    assert len(set(ids)) == 9
    assert not set(ids) & set(story.events.values_list("event_id", flat=True))
    assert list_queued_jobs("start_conversation")[-1] == {"conversation_id": str(made.pk)}


def test_settings_come_along(api, story):
    story.repository = {"provider": "github", "full_name": "a/b"}
    story.confirmation_policy, story.security_analyzer = "risky", "none"
    story.tags, story.model = ["x"], "m"
    story.save()

    made = fork(api, story).json()

    for name in ("repository", "confirmation_policy", "security_analyzer", "tags", "model"):
        assert made[name] == getattr(story, name)
    assert made["title"] == f"{story.title} (fork)"


def test_a_turn_under_way_stays_behind(api, story):
    say(story, "more")
    add(story, "ActionEvent", {"action": {}})

    assert Conversation.objects.get(pk=fork(api, story).json()["id"]).forked_seq == 10


def test_without_a_complete_turn_there_is_nothing_to_fork(api, story):
    refused = fork(api, story, through_seq=3)

    assert (refused.status_code, refused.json()["code"]) == (409, "nothing-to-fork")
    assert Conversation.objects.count() == 1


def test_a_teammate_forks_into_a_conversation_of_their_own(bob, story):
    story.visibility = "organization"
    story.save()

    made = fork(key_client(bob, organization=story.organization), story).json()

    assert (made["created_by"], made["visibility"]) == (str(bob.pk), "private")


@pytest.fixture
def started(api, story, sandboxes):
    """A fork whose engine was started."""
    made = Conversation.objects.get(pk=fork(api, story).json()["id"])
    services.start_conversation(conversation_id=made.pk)
    return made


def test_the_new_agent_is_told_the_story_without_secrets(started, engine):
    [body] = [body for method, path, body in engine.calls if path == "/api/conversations"]

    suffix = body["agent"]["agent_context"]["system_message_suffix"]
    assert "You: Please begin" in suffix
    assert "Agent: Later answer" in suffix
    assert suffix.endswith("END OF EARLIER")
    assert KEY not in suffix


def test_a_long_story_is_told_from_its_end(api, story, sandboxes, engine):
    for number in range(30):
        answer(story, f"part {number} " + "x" * 5_000)
    made = fork(api, story).json()
    services.start_conversation(conversation_id=made["id"])

    [body] = [body for method, path, body in engine.calls if path == "/api/conversations"]
    suffix = body["agent"]["agent_context"]["system_message_suffix"]
    assert "part 29" in suffix
    assert "part 1 " not in suffix
    assert "[Earlier parts are left out.]" in suffix
    assert len(suffix) < 65_000


def test_files_that_cannot_come_along_are_said_to_stay(started):
    notices = started.events.filter(payload__contains="files_not_copied")

    assert notices.count() == 1


def test_files_are_copied_from_sandbox_to_sandbox(settings, tmp_path):
    settings.SANDBOX_DIR = tmp_path
    for name in ("a" * 32, "b" * 32):
        (tmp_path / name / "project").mkdir(parents=True)
    (tmp_path / ("a" * 32) / "project" / "deep").mkdir()
    (tmp_path / ("a" * 32) / "project" / "deep" / "x.txt").write_text("x")
    (tmp_path / ("a" * 32) / "project" / "link").symlink_to("deep/x.txt")

    provider = ProcessProvider()
    handles = [{"sandbox": name * 32, "dir": str(tmp_path / (name * 32))} for name in "ab"]

    assert provider.copy_workspace(*handles) is True
    copied = tmp_path / ("b" * 32) / "project"
    assert (copied / "deep" / "x.txt").read_text() == "x"
    assert (copied / "link").is_symlink()
    assert provider.copy_workspace({}, handles[1]) is False
