import pytest

from conversations import services
from conversations.models import SearchText
from tests.conftest import key_client
from tests.conversations.parts.conftest import (
    HOSTILE,
    add_agent_message,
    add_event,
    add_user_message,
)
from tests.factories.conversations import ConversationFactory

URL = "/api/v1/conversations"


def search(api, words, **query):
    response = api.get(URL, {"q": words} | query)
    assert response.status_code == 200, response.content
    return response.json()["items"]


def search_titles(api, words):
    return [item["title"] for item in search(api, words)]


@pytest.mark.parametrize("words", ["begin", "begun", '"have begun"', "nothing or begun", "story"])
def test_titles_and_messages_are_found(api, story, words):
    ConversationFactory(created_by=story.created_by, title="Another")

    assert search_titles(api, words) == [story.title]


@pytest.mark.parametrize("words", ["absent", '"begun have"', "edited", "file_editor"])
def test_words_outside_of_titles_and_messages_are_not_found(api, story, words):
    assert search_titles(api, "begun") == [story.title]
    assert search_titles(api, words) == []


def test_match_has_its_seq_and_its_marked_words(api, story):
    [item] = search(api, "begun")

    assert item["match"] == {
        "seq": 4,
        "parts": [{"text": "I have ", "is_hit": False}, {"text": "begun", "is_hit": True}],
    }
    assert search(api, "story")[0]["match"]["seq"] == 0
    assert "match" not in api.get(URL).json()["items"][0]


def test_events_added_later_are_found(api, story):
    assert search_titles(api, "zebra") == []
    add_agent_message(story, "A zebra")
    action = {"kind": "FinishAction", "message": "Counted the giraffes"}
    add_event(story, "ActionEvent", {"action": action})

    assert search_titles(api, "zebra") == search_titles(api, "giraffes") == [story.title]


def test_renamed_conversation_is_found_by_its_new_title_only(api, story):
    assert search(api, "story")
    services.rename(conversation_id=story.pk, title="Renamed")

    assert search_titles(api, "renamed") == ["Renamed"]
    assert search_titles(api, "story") == []


def test_search_finds_only_visible_conversations(api, bob, charlie, story):
    assert search(api, "begun")

    assert search_titles(key_client(charlie), "begun") == []
    assert search_titles(key_client(bob, organization=story.organization), "begun") == []


@pytest.mark.parametrize(
    "words",
    [
        "'",
        '"',
        "((",
        "a & | !",
        ":*",
        "\\",
        "%_",
        "-",
        "<script>",
        "x" * 200,
        "';--",
        "😀",
    ],
)
def test_hostile_query_returns_a_list(api, story, words):
    assert isinstance(search(api, words), list)


def test_hostile_messages_are_indexed_as_text(api, story):
    add_user_message(story, "before \x02\x03\0 after " + HOSTILE)
    add_user_message(story, "word " * 300_000)

    [item] = search(api, "before")
    assert "".join(p["text"] for p in item["match"]["parts"]).startswith("before")


def test_index_job_indexes_every_text_once(story):
    assert services.index_texts() == 1
    seqs = set(SearchText.objects.values_list("seq", flat=True))

    assert seqs == {0, 1, 4, 5, 8, 9, 10}
    assert services.index_texts() == 0
    services.index_conversation(conversation_id=story.pk)
    assert SearchText.objects.count() == 7


def test_filters_narrow_the_list(api, alice):
    for number, fields in enumerate(
        [
            {"tags": ["red", "blue"]},
            {"trigger": "slack"},
            {"repository": {"provider": "github", "full_name": "a/b"}},
            {"status": "failed"},
        ]
    ):
        ConversationFactory(created_by=alice, title=str(number), **fields)

    def list_titles(**query):
        return sorted(item["title"] for item in api.get(URL, query).json()["items"])

    assert list_titles() == ["0", "1", "2", "3"]
    assert list_titles(tag="red") == ["0"]
    assert list_titles(tag="re") == []
    assert list_titles(trigger="slack") == ["1"]
    assert list_titles(repository="a/b") == ["2"]
    assert list_titles(status="failed") == ["3"]
