import pytest

from tests.conversations.parts.conftest import add_edit, add_event, add_user_message


def build_url(conversation, number=None):
    base = f"/api/v1/conversations/{conversation.pk}/turns"
    return f"{base}/{number}/diff" if number else base


def test_every_user_message_begins_a_turn(api, story):
    turns = api.get(build_url(story)).json()["items"]

    summary = [(t["number"], t["from_seq"], t["through_seq"], t["is_complete"]) for t in turns]
    assert summary == [(1, 1, 4, True), (2, 5, 8, True), (3, 9, 10, True)]
    assert turns[0]["text"] == "Please begin"


def test_turn_in_progress_is_incomplete(api, story):
    add_event(story, "ActionEvent", {"action": {}})

    turns = api.get(build_url(story)).json()["items"]
    assert [t["is_complete"] for t in turns] == [True, True, False]


def test_message_during_an_action_leaves_the_turn_incomplete(api, story):
    add_event(story, "ActionEvent", {"action": {}})
    add_user_message(story, "hurry")
    add_event(story, "ObservationEvent", {"observation": {}})

    turns = api.get(build_url(story)).json()["items"]

    assert [t["is_complete"] for t in turns] == [True, True, False, True]


def test_file_edited_twice_in_a_turn_has_one_diff(api, story):
    add_edit(story, "/w/a.txt", "one\ntwo\n", "one\nTWO\n")
    add_edit(story, "/w/a.txt", "one\nTWO\n", "one\nthree\n")

    diff = api.get(build_url(story, 3)).json()

    assert diff["ran_commands"] is False
    assert diff["items"] == [
        {
            "path": "/w/a.txt",
            "status": "UPDATED",
            "diff": "--- a//w/a.txt\n+++ b//w/a.txt\n@@ -1,2 +1,2 @@\n one\n-two\n+three",
            "is_truncated": False,
        }
    ]


def test_turn_reports_new_files_and_whether_commands_ran(api, story):
    observation = {"kind": "TerminalObservation", "content": []}
    add_event(story, "ObservationEvent", {"observation": observation})

    first, third = api.get(build_url(story, 1)).json(), api.get(build_url(story, 3)).json()

    assert (first["items"][0]["status"], first["ran_commands"]) == ("ADDED", False)
    assert "+one" in first["items"][0]["diff"]
    assert (third["items"], third["ran_commands"]) == ([], True)


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        ("a\r\n", "a\n", ["-a\r", "+a"]),
        ("a\x0cb\n", "a\nb\n", ["-a\x0cb", "+a", "+b"]),
        ("a\u2028b\n", "ab\n", ["-a\u2028b", "+ab"]),
        ("a", "a\n", ["-a", "\\ No newline at end of file", "+a"]),
    ],
)
def test_diff_of_a_turn_splits_lines_as_git_does(api, story, before, after, lines):
    add_edit(story, "/w/b.txt", before, after)

    [item] = api.get(build_url(story, 3)).json()["items"]

    assert item["diff"].split("\n")[3:] == lines


def test_long_diff_of_a_turn_is_cut_at_a_line_and_says_so(api, story):
    add_edit(story, "/w/b.txt", "", "0123456789\n" * 20_000)

    [item] = api.get(build_url(story, 3)).json()["items"]

    assert item["is_truncated"] is True
    assert 199_000 < len(item["diff"]) <= 200_000
    assert item["diff"].endswith("+0123456789\n")


def test_file_with_unknown_content_has_no_diff(api, story):
    add_edit(story, "/w/b.txt", "x", None)

    [item] = api.get(build_url(story, 3)).json()["items"]
    assert (item["path"], item["diff"]) == ("/w/b.txt", None)


def test_hostile_observations_are_skipped(api, story):
    for value in (7, [], {"kind": "FileEditorObservation", "path": 7}, {"kind": []}):
        add_event(story, "ObservationEvent", {"observation": value})
    add_event(story, "ObservationEvent", "[1")

    response = api.get(build_url(story, 3))
    assert (response.status_code, response.json()["items"]) == (200, [])


def test_unknown_turn_gets_404(api, story):
    assert api.get(build_url(story, 4)).status_code == 404
