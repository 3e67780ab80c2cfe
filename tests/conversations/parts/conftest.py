"""A conversation with messages, edits, a secret and hostile texts, and functions that add such events."""

import json

import pytest

from tests.factories.conversations import ConversationFactory, EventFactory

KEY = "sk-proj-abcdEFGH1234567890"
HOSTILE = "</pre><script>document.title='owned'</script><img src=x onerror=alert(1)>"


def add_event(conversation, kind, payload, source="agent", **more):
    raw = payload if isinstance(payload, str) else json.dumps(payload)
    return EventFactory(conversation=conversation, kind=kind, source=source, payload=raw, **more)


def add_edit(conversation, path, before, after, command="str_replace"):
    """Add the action and the observation of an edit by the file editor."""
    add_event(
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
    add_event(conversation, "ObservationEvent", {"observation": observation}, source="environment")


def add_user_message(conversation, text):
    return add_event(conversation, "UserMessage", {"text": text}, source="user")


def add_agent_message(conversation, text):
    return add_event(conversation, "MessageEvent", {"llm_message": {"content": [{"text": text}]}})


@pytest.fixture
def story(alice):
    """Return Alice's conversation of three turns in ten events. The eighth event contains a key."""
    conversation = ConversationFactory(created_by=alice, title="A <b>story</b> of `ours`")
    add_user_message(conversation, "Please begin")  # 1
    add_edit(conversation, "/w/a.txt", None, "one\n", command="create")  # 2, 3
    add_agent_message(conversation, "I have begun")  # 4
    add_user_message(conversation, HOSTILE)  # 5
    add_edit(conversation, "/w/a.txt", "one\n", "one\ntwo\n")  # 6, 7
    add_agent_message(conversation, f"The key is {KEY} and nothing else")  # 8
    add_user_message(conversation, "Later words")  # 9
    add_agent_message(conversation, "Later answer")  # 10
    return conversation
