"""A conversation that has said and done something, secrets and hostile texts among it."""

import json

import pytest

from tests.factories.conversations import ConversationFactory, EventFactory

KEY = "sk-proj-abcdEFGH1234567890"
HOSTILE = "</pre><script>document.title='owned'</script><img src=x onerror=alert(1)>"


def add(conversation, kind, payload, source="agent", **more):
    raw = payload if isinstance(payload, str) else json.dumps(payload)
    return EventFactory(conversation=conversation, kind=kind, source=source, payload=raw, **more)


def edit(conversation, path, before, after, command="str_replace"):
    add(
        conversation,
        "ActionEvent",
        {"tool_name": "file_editor", "action": {"command": command, "path": path}},
    )
    observation = {
        "kind": "FileEditorObservation",
        "command": command,
        "path": path,
        "prev_exist": before is not None,
        "old_content": before,
        "new_content": after,
        "content": [{"type": "text", "text": "edited"}],
    }
    add(conversation, "ObservationEvent", {"observation": observation}, source="environment")


def say(conversation, text):
    return add(conversation, "UserMessage", {"text": text}, source="user")


def answer(conversation, text):
    return add(conversation, "MessageEvent", {"llm_message": {"content": [{"text": text}]}})


@pytest.fixture
def story(alice):
    """Alice's: three turns in ten events, of which the eighth shows a key."""
    conversation = ConversationFactory(created_by=alice, title="A <b>story</b> of `ours`")
    say(conversation, "Please begin")  # 1
    edit(conversation, "/w/a.txt", None, "one\n", command="create")  # 2, 3
    answer(conversation, "I have begun")  # 4
    say(conversation, HOSTILE)  # 5
    edit(conversation, "/w/a.txt", "one\n", "one\ntwo\n")  # 6, 7
    answer(conversation, f"The key is {KEY} and nothing else")  # 8
    say(conversation, "Later words")  # 9
    answer(conversation, "Later answer")  # 10
    return conversation
