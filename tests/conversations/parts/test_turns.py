from tests.conversations.parts.conftest import add, edit, say


def url(conversation, number=None):
    base = f"/api/v1/conversations/{conversation.pk}/turns"
    return f"{base}/{number}/diff" if number else base


def test_turns_go_from_message_to_message(api, story):
    turns = api.get(url(story)).json()["items"]

    told = [(t["number"], t["from_seq"], t["through_seq"], t["is_complete"]) for t in turns]
    assert told == [(1, 1, 4, True), (2, 5, 8, True), (3, 9, 10, True)]
    assert turns[0]["text"] == "Please begin"


def test_a_turn_under_way_is_not_complete(api, story):
    add(story, "ActionEvent", {"action": {}})

    assert [t["is_complete"] for t in api.get(url(story)).json()["items"]] == [True, True, False]


def test_a_message_amid_an_action_leaves_its_turn_incomplete(api, story):
    add(story, "ActionEvent", {"action": {}})
    say(story, "hurry")
    add(story, "ObservationEvent", {"observation": {}})

    turns = api.get(url(story)).json()["items"]

    assert [t["is_complete"] for t in turns] == [True, True, False, True]


def test_what_the_editor_changed_is_told_with_its_diff(api, story):
    edit(story, "/w/a.txt", "one\ntwo\n", "one\nTWO\n")
    edit(story, "/w/a.txt", "one\nTWO\n", "one\nthree\n")

    told = api.get(url(story, 3)).json()

    assert told["ran_commands"] is False
    assert told["items"] == [
        {
            "path": "/w/a.txt",
            "status": "UPDATED",
            "diff": "--- a//w/a.txt\n+++ b//w/a.txt\n@@ -1,2 +1,2 @@\n one\n-two\n+three",
        }
    ]


def test_new_files_and_commands_are_told(api, story):
    observation = {"kind": "TerminalObservation", "content": []}
    add(story, "ObservationEvent", {"observation": observation})

    first, third = api.get(url(story, 1)).json(), api.get(url(story, 3)).json()

    assert (first["items"][0]["status"], first["ran_commands"]) == ("ADDED", False)
    assert "+one" in first["items"][0]["diff"]
    assert (third["items"], third["ran_commands"]) == ([], True)


def test_a_side_that_is_not_known_gives_no_diff(api, story):
    edit(story, "/w/b.txt", "x", None)

    assert api.get(url(story, 3)).json()["items"][0]["diff"] is None


def test_hostile_observations_do_not_stop_it(api, story):
    for value in (7, [], {"kind": "FileEditorObservation", "path": 7}, {"kind": []}):
        add(story, "ObservationEvent", {"observation": value})
    add(story, "ObservationEvent", "[1")

    assert api.get(url(story, 3)).json()["items"] == []


def test_there_must_be_such_a_turn(api, story):
    assert api.get(url(story, 4)).status_code == 404
