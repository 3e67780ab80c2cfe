import pytest

from conversations import services
from conversations.models import Conversation
from conversations.sandboxes.process import ProcessProvider
from tests.conftest import key_client
from tests.conversations.conftest import list_queued_jobs
from tests.conversations.parts.conftest import KEY, add_agent_message, add_event, add_user_message


def post_fork(api, conversation, **body):
    return api.post(f"/api/v1/conversations/{conversation.pk}/fork", body, format="json")


def test_fork_copies_the_log_up_to_the_last_complete_turn(api, story):
    response = post_fork(api, story, through_seq=9)

    assert response.status_code == 201, response.content
    fork = Conversation.objects.get(pk=response.json()["id"])
    original_events = list(story.events.order_by("seq")[:8].values_list("seq", "kind", "payload"))
    assert (
        list(fork.events.order_by("seq").values_list("seq", "kind", "payload"))[:8]
        == original_events
    )
    assert fork.events.get(seq=9).kind == "SandboxNotice"
    assert (fork.last_seq, fork.forked_seq, fork.engine_seq) == (9, 8, -1)
    assert (fork.parent_id, response.json()["parent"]) == (story.pk, str(story.pk))
    ids = fork.events.values_list("event_id", flat=True)
    assert len(set(ids)) == 9
    assert not set(ids) & set(story.events.values_list("event_id", flat=True))
    assert list_queued_jobs("start_conversation")[-1] == {"conversation_id": str(fork.pk)}


def test_fork_copies_the_settings(api, story):
    story.repository = {"provider": "github", "full_name": "a/b"}
    story.confirmation_policy, story.security_analyzer = "risky", "none"
    story.tags, story.model = ["x"], "m"
    story.save()

    fork = post_fork(api, story).json()

    for name in ("repository", "confirmation_policy", "security_analyzer", "tags", "model"):
        assert fork[name] == getattr(story, name)
    assert fork["title"] == f"{story.title} (fork)"


def test_fork_leaves_out_the_incomplete_turn(api, story):
    add_user_message(story, "more")
    add_event(story, "ActionEvent", {"action": {}})

    assert Conversation.objects.get(pk=post_fork(api, story).json()["id"]).forked_seq == 10


def test_fork_without_a_complete_turn_conflicts(api, story):
    refused = post_fork(api, story, through_seq=3)

    assert (refused.status_code, refused.json()["code"]) == (409, "nothing-to-fork")
    assert Conversation.objects.count() == 1


def test_fork_of_a_teammate_is_private_and_belongs_to_the_teammate(bob, story):
    story.visibility = "organization"
    story.save()

    fork = post_fork(key_client(bob, organization=story.organization), story).json()

    assert (fork["created_by"], fork["visibility"]) == (str(bob.pk), "private")


@pytest.fixture
def started_fork(api, story, sandboxes):
    """Return a fork whose engine was started."""
    fork = Conversation.objects.get(pk=post_fork(api, story).json()["id"])
    services.start_conversation(conversation_id=fork.pk)
    return fork


def test_agent_of_a_fork_gets_the_earlier_messages_without_secrets(started_fork, engine):
    [body] = [body for method, path, body in engine.calls if path == "/api/conversations"]

    suffix = body["agent"]["agent_context"]["system_message_suffix"]
    assert "You: Please begin" in suffix
    assert "Agent: Later answer" in suffix
    assert suffix.endswith("END OF EARLIER")
    assert KEY not in suffix


def test_agent_of_a_fork_gets_only_the_end_of_a_long_log(api, story, sandboxes, engine):
    for number in range(30):
        add_agent_message(story, f"part {number} " + "x" * 5_000)
    fork = post_fork(api, story).json()
    services.start_conversation(conversation_id=fork["id"])

    [body] = [body for method, path, body in engine.calls if path == "/api/conversations"]
    suffix = body["agent"]["agent_context"]["system_message_suffix"]
    assert "part 29" in suffix
    assert "part 1 " not in suffix
    assert "[Earlier parts are left out.]" in suffix
    assert len(suffix) < 65_000


def test_fork_without_a_copy_of_the_files_has_a_notice(started_fork):
    notices = started_fork.events.filter(payload__contains="files_not_copied")

    assert notices.count() == 1


def test_workspace_is_copied_from_sandbox_to_sandbox(settings, tmp_path):
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
