import pytest

from conversations import services
from conversations.models import SearchText
from tests.conftest import key_client
from tests.conversations.parts.conftest import HOSTILE, add, answer, say
from tests.factories.conversations import ConversationFactory

URL = "/api/v1/conversations"


def find(api, words, **query):
    response = api.get(URL, {"q": words} | query)
    assert response.status_code == 200, response.content
    return response.json()["items"]


def titles(api, words):
    return [item["title"] for item in find(api, words)]


@pytest.mark.parametrize("words", ["begin", "begun", '"have begun"', "nothing or begun", "story"])
def test_titles_and_messages_are_found(api, story, words):
    ConversationFactory(created_by=story.created_by, title="Another")

    assert titles(api, words) == [story.title]


@pytest.mark.parametrize("words", ["absent", '"begun have"', "edited", "file_editor"])
def test_what_nobody_said_is_not_found(api, story, words):
    assert titles(api, words) == []


def test_a_match_says_where_the_words_stand(api, story):
    [item] = find(api, "begun")

    assert item["match"] == {
        "seq": 4,
        "parts": [{"text": "I have ", "is_hit": False}, {"text": "begun", "is_hit": True}],
    }
    assert find(api, "story")[0]["match"]["seq"] == 0
    assert "match" not in api.get(URL).json()["items"][0]


def test_what_comes_later_is_found_too(api, story):
    assert titles(api, "zebra") == []
    answer(story, "A zebra")
    action = {"kind": "FinishAction", "message": "Counted the giraffes"}
    add(story, "ActionEvent", {"action": action})

    assert titles(api, "zebra") == titles(api, "giraffes") == [story.title]


def test_a_new_title_replaces_the_old_one(api, story):
    assert find(api, "story")
    services.rename(conversation_id=story.pk, title="Renamed")

    assert titles(api, "renamed") == ["Renamed"]
    assert titles(api, "story") == []


def test_only_what_one_may_see_is_found(api, bob, charlie, story):
    assert find(api, "begun")

    assert titles(key_client(charlie), "begun") == []
    assert titles(key_client(bob, organization=story.organization), "begun") == []


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
def test_hostile_words_find_nothing_and_break_nothing(api, story, words):
    assert isinstance(find(api, words), list)


def test_hostile_messages_are_indexed_as_texts(api, story):
    say(story, "before \x02\x03\0 after " + HOSTILE)
    say(story, "word " * 300_000)

    [item] = find(api, "before")
    assert "".join(p["text"] for p in item["match"]["parts"]).startswith("before")


def test_the_job_brings_everything_up_to_date_once(story):
    assert services.index_texts() == 1
    places = set(SearchText.objects.values_list("seq", flat=True))

    assert places == {0, 1, 4, 5, 8, 9, 10}
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

    def listed(**query):
        return sorted(item["title"] for item in api.get(URL, query).json()["items"])

    assert listed() == ["0", "1", "2", "3"]
    assert listed(tag="red") == ["0"]
    assert listed(tag="re") == []
    assert listed(trigger="slack") == ["1"]
    assert listed(repository="a/b") == ["2"]
    assert listed(status="failed") == ["3"]
