"""The script language of the demo model: parsing, choosing a step, the reply and its stream."""

import json

import pytest

from billing.gateway import script
from tests.billing.conftest import TOOLS, chat


class TestParsing:
    def test_every_action_becomes_a_step(self):
        steps = script.parse_script(
            "Please.\n!run ls -l\n!write a.txt one\\ntwo\n!replace a.txt 'one x' two\n"
            '!tool think {"thought": "hm"}\n!say Hello\\nthere\n!finish Done.'
        )
        assert [step.calls for step in steps] == [
            [("terminal", {"command": "ls -l"})],
            [("file_editor", {"command": "create", "path": "a.txt", "file_text": "one\ntwo\n"})],
            [
                (
                    "file_editor",
                    {
                        "command": "str_replace",
                        "path": "a.txt",
                        "old_str": "one x",
                        "new_str": "two",
                    },
                )
            ],
            [("think", {"thought": "hm"})],
            [],
            [("finish", {"message": "Done."})],
        ]
        assert steps[4].text == "Hello\nthere"

    def test_modifiers_apply_to_the_next_step_only(self):
        first, second = script.parse_script(
            "!with Look\n!risk high\n!usage 1 2 3\n!sleep 0.5 0.1\n!fail 503 2 Not now\n!run ls\n!say x"
        )
        assert (first.text, first.risk, first.usage) == ("Look", "HIGH", (1, 2, 3))
        assert (first.delay, first.chunk_delay) == (0.5, 0.1)
        assert first.failure == script.Failure(503, 2, "Not now")
        assert second == script.Step(text="x")

    def test_also_adds_a_call_to_the_same_step(self):
        (step,) = script.parse_script("!run a\n!also run b")
        assert [arguments["command"] for _, arguments in step.calls] == ["a", "b"]

    @pytest.mark.parametrize(
        "text",
        [
            "!dance",
            "!fail",
            "!fail 200",
            "!fail x",
            "!sleep -1",
            "!sleep nan",
            "!sleep 9999",
            "!usage 1",
            "!tool x {",
            "!tool x 5",
            "!replace a 'b",
            "!also run x",
        ],
    )
    def test_unreadable_line_is_named_in_the_error_and_the_reply(self, text):
        with pytest.raises(script.UnreadableScript, match=text.split()[0]):
            script.parse_script(text)
        reply = script.choose_step(chat(text))
        assert text.split()[0] in reply.text
        assert not reply.calls


class TestChoosing:
    def test_each_request_gets_the_next_step_until_the_script_is_done(self):
        request = chat("!run one\n!run two")
        calls = []
        for _ in range(3):
            body = script.build_completion(script.choose_step(request), request)
            message = body["choices"][0]["message"]
            calls.append(json.loads(message["tool_calls"][0]["function"]["arguments"]))
            call_id = message["tool_calls"][0]["id"]
            request["messages"] += [
                message,
                {"role": "tool", "tool_call_id": call_id, "content": "ok"},
            ]
        assert [step.get("command") or step.get("message") for step in calls] == [
            "one",
            "two",
            script.SCRIPT_DONE,
        ]

    def test_step_gets_the_working_directory_risk_and_summary(self):
        request = chat("!risk HIGH\n!write {cwd}/a.txt x")
        request["messages"].insert(
            1, {"role": "tool", "tool_call_id": "x", "content": "[Current working directory: /w]"}
        )
        ((_, arguments),) = script.choose_step(request).calls
        assert arguments["path"] == "/w/a.txt"
        assert (arguments["security_risk"], arguments["summary"]) == ("HIGH", "scripted step")

    def test_newest_script_replaces_the_old_and_a_plain_message_ends_it(self):
        request = chat("!run old")
        request["messages"] += [
            {"role": "assistant", "content": "x"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "!run new"}],
            },
        ]
        assert script.choose_step(request).calls[0][1]["command"] == "new"
        request["messages"] += [
            {"role": "assistant", "content": "x"},
            {"role": "user", "content": "thanks"},
        ]
        assert script.choose_step(request) == script.Step(text=script.PLAIN_REPLY)

    def test_call_ids_count_the_steps_of_condensed_replies(self):
        request = chat("!run one\n!run two\n!run three")
        call = {"id": "call_1_0_abcdef", "function": {"name": "terminal", "arguments": "{}"}}
        request["messages"].append({"role": "assistant", "tool_calls": [call]})
        assert script.choose_step(request).calls[0][1]["command"] == "three"


class TestReplies:
    def test_stream_has_the_text_calls_and_usage_of_the_whole_reply(self):
        request = chat("!with Two words\n!write a.txt some text here\n!also run ls")
        body = script.build_completion(script.choose_step(request), request)
        message = body["choices"][0]["message"]
        text, calls = "", [{"id": "", "name": "", "arguments": ""} for _ in range(2)]
        chunks = list(script.iter_chunks(body, include_usage=True))
        for chunk in chunks[:-1]:
            delta = chunk["choices"][0]["delta"]
            text += delta.get("content") or ""
            for call in delta.get("tool_calls", ()):
                into = calls[call["index"]]
                into["id"] += call.get("id", "")
                into["name"] += call["function"].get("name", "")
                into["arguments"] += call["function"]["arguments"]

        assert text == message["content"] == "Two words"
        assert calls == [{"id": c["id"]} | c["function"] for c in message["tool_calls"]]
        assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"
        assert chunks[-1]["usage"] == body["usage"]
        assert len(list(script.iter_chunks(body, include_usage=False))) == len(chunks) - 1

    def test_fingerprint_depends_on_the_prompt_cache_key(self):
        request = chat("x")
        prints = [
            script.fingerprint(request | {"prompt_cache_key": key}) for key in ("a", "a", "b")
        ]
        assert prints[0] == prints[1] != prints[2]

    def test_get_tools_maps_names_to_tools(self):
        assert set(script.get_tools({"tools": TOOLS})) >= {"terminal", "finish"}
        assert script.get_tools({"tools": None}) == {}
