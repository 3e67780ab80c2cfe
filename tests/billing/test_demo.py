"""The demo model's turns: its plan, tools, reports and refusals, from the messages of a request alone."""

import json
import re
from typing import Any

import pytest

from billing.gateway import script
from billing.gateway.demo import SUMMARY_MARK, reply
from tests.billing.conftest import TOOLS, chat

Messages = list[dict[str, Any]]
SITE = "https://agents.example.com"
HELLO = 'Write hello.py that prints "hi" and run it'


def answer(messages: Messages, tools: Any = TOOLS) -> dict[str, Any]:
    """Return the assistant's message in a conversation."""
    request = {"messages": messages, "tools": tools}
    step = reply(request, site=SITE)
    return dict(script.build_completion(step, request)["choices"][0]["message"])


def play(
    messages: Messages, terminal: dict[str, str], *, tools: Any = TOOLS
) -> list[tuple[str, dict[str, Any]]]:
    """Let the model work until it finishes, and return its tool calls.

    ``terminal`` maps the beginning of a command to its output; a file is created, except one in ``terminal`` too.
    """
    done = []
    for _ in range(20):
        message = answer(messages, tools)
        messages.append(message)
        if "tool_calls" not in message:
            return [*done, ("say", {"message": message["content"]})]
        for call in message["tool_calls"]:
            name, arguments = call["function"]["name"], json.loads(call["function"]["arguments"])
            done.append((name, arguments))
            key = {"terminal": "command", "file_editor": "path"}.get(name, "")
            default = "File created successfully at: x" if name == "file_editor" else END
            found = [
                out for start, out in terminal.items() if arguments.get(key, "").startswith(start)
            ]
            messages.append(
                {"role": "tool", "tool_call_id": call["id"], "content": (found or [default])[0]}
            )
        if done[-1][0] == "finish":
            return done
    raise AssertionError("the model did not finish within 20 replies")


END = "\n[Current working directory: /workspace]\n[Command finished with exit code 0]"
WORKSPACE = f"/workspace{END}"
HI = "hi\n[Python interpreter: /usr/bin/python]\n[Command finished with exit code 0]"
TAKEN = (
    "Invalid `path` parameter: /workspace/hello.py. File already exists at: /workspace/hello.py."
)


class TestOneTurn:
    def test_model_plans_writes_runs_and_reports(self):
        messages = chat(HELLO)["messages"]
        done = play(messages, {"pwd": WORKSPACE, "python3": HI})

        assert [name for name, _ in done] == [
            "task_tracker",
            "terminal",
            "file_editor",
            "terminal",
            "task_tracker",
            "finish",
        ]
        plan = done[0][1]
        assert plan["command"] == "plan"
        assert [task["status"] for task in plan["task_list"]] == ["in_progress", "todo", "todo"]
        assert {task["status"] for task in done[4][1]["task_list"]} == {"done"}
        assert done[2][1] == {
            "command": "create",
            "path": "/workspace/hello.py",
            "file_text": "print('hi')\n",
            "security_risk": "LOW",
            "summary": "Write hello.py",
        }
        assert done[3][1]["command"] == "python3 hello.py"
        assert "I wrote `hello.py`" in done[5][1]["message"]
        assert "```\nhi\n```" in done[5][1]["message"]
        assert f"{SITE}/settings/model" in done[5][1]["message"]
        first = next(message for message in messages if message["role"] == "assistant")
        assert first["content"].startswith("I am the built-in demo model.")

    def test_equal_requests_get_equal_replies(self):
        first, second = (chat(HELLO)["messages"] for _ in range(2))
        assert play(first, {"pwd": WORKSPACE}) == play(second, {"pwd": WORKSPACE})
        assert first == second

    @pytest.mark.parametrize("listed", ["hello.py", "HELLO.PY"])
    def test_existing_file_is_not_overwritten(self, listed):
        existing = WORKSPACE.replace("/workspace\n", f"/workspace\n{listed}\n", 1)
        done = play(chat(HELLO)["messages"], {"pwd": existing, "python3": HI})
        assert [a["path"] for n, a in done if n == "file_editor"] == ["/workspace/hello_2.py"]
        assert "`hello.py` exists already" in done[-1][1]["message"]

    def test_file_created_meanwhile_is_not_overwritten(self):
        outputs = {"pwd": WORKSPACE, "/workspace/hello.py": TAKEN, "python3": HI}
        done = play(chat(HELLO)["messages"], outputs)
        assert [a["path"] for n, a in done if n == "file_editor"] == [
            "/workspace/hello.py",
            "/workspace/hello_2.py",
        ]
        assert [a["command"] for n, a in done if n == "terminal"][-1] == "python3 hello_2.py"

    def test_folder_that_leads_outside_is_not_written(self):
        outputs = {"pwd": f"/workspace\nout\n//\n/etc\npasswd{END}"}
        done = play(chat("write fizzbuzz to out/fb.py")["messages"], outputs)
        assert "file_editor" not in [name for name, _ in done]
        assert "leads out of the working directory" in done[-1][1]["message"]

    def test_missing_python3_is_replaced_by_python(self):
        missing = "sh: python3: not found\n[Command finished with exit code 127]"
        done = play(chat(HELLO)["messages"], {"pwd": WORKSPACE, "python3": missing, "python ": HI})
        assert [a["command"] for n, a in done if n == "terminal"][1:] == [
            "python3 hello.py",
            "python hello.py",
        ]
        assert "I ran it" in done[-1][1]["message"]

    def test_missing_python_is_reported(self):
        missing = "sh: not found\n[Command finished with exit code 127]"
        done = play(chat(HELLO)["messages"], {"pwd": WORKSPACE, "python": missing})
        assert "Python is not installed" in done[-1][1]["message"]

    @pytest.mark.parametrize(
        "output",
        [
            "Traceback\n[Command finished with exit code 1]",
            "hi there\n[Command finished with exit code 0]",
            "[Command finished with exit code 0]",
        ],
    )
    def test_failed_run_is_reported_as_a_failure(self, output):
        done = play(chat(HELLO)["messages"], {"pwd": WORKSPACE, "python3": output})
        assert "did not print what it should" in done[-1][1]["message"]
        assert [t["status"] for t in done[-2][1]["task_list"]] == ["done", "done", "todo"]

    def test_file_that_cannot_be_written_is_reported(self):
        outputs = {"pwd": WORKSPACE, "/workspace": "Ran into [Errno 13] Permission denied"}
        done = play(chat(HELLO)["messages"], outputs)
        assert "could not be written" in done[-1][1]["message"]
        assert "Permission denied" in done[-1][1]["message"]

    def test_rejected_action_ends_the_turn(self):
        messages = chat(HELLO)["messages"]
        call = answer(messages)
        rejected = {
            "role": "tool",
            "tool_call_id": call["tool_calls"][0]["id"],
            "content": "Action rejected: not now",
        }
        messages += [call, rejected]
        (finish,) = answer(messages)["tool_calls"]
        assert finish["function"]["name"] == "finish"
        assert "not now" in finish["function"]["arguments"]

    def test_missing_plan_tool_is_left_out(self):
        tools = [tool for tool in TOOLS if tool["function"]["name"] != "task_tracker"]
        done = play(chat(HELLO)["messages"], {"pwd": WORKSPACE, "python3": HI}, tools=tools)
        assert [name for name, _ in done] == ["terminal", "file_editor", "terminal", "finish"]

    def test_missing_terminal_is_reported(self):
        tools = [tool for tool in TOOLS if tool["function"]["name"] == "finish"]
        ((name, arguments),) = play(chat(HELLO)["messages"], {}, tools=tools)
        assert name == "finish"
        assert "terminal and file_editor" in arguments["message"]

    def test_braces_in_the_text_are_not_replaced(self):
        done = play(chat("write a.txt saying “{cwd} stays”")["messages"], {"pwd": WORKSPACE})
        assert done[2][1]["file_text"] == "{cwd} stays\n"

    def test_command_without_an_end_stops_the_turn(self):
        done = play(
            chat(HELLO)["messages"],
            {"pwd": WORKSPACE, "python3": "hi\n[The command has no new output]"},
        )
        assert "did not report the end" in done[-1][1]["message"]


class TestWords:
    @pytest.mark.parametrize("text", ["hello", "What can you do?", "who are you", "help", ""])
    def test_greeting_is_answered_with_examples_to_try(self, text):
        message = answer(chat(text)["messages"])
        assert "tool_calls" not in message
        assert "built-in demo model" in message["content"]
        assert f"]({SITE}/?example=0)" in message["content"]

    def test_chinese_is_answered_in_chinese(self):
        for text in ("你好", "你能做什么？", "给我写一首诗"):
            content = answer(chat(text)["messages"])["content"]
            assert "我是内置的演示模型" in content
            assert "I am" not in content

    @pytest.mark.parametrize(
        ("text", "number"),
        [("list the files modified today", 7), ("fibonacci in Rust", 4), ("斐波那契用 Rust 写", 4)],
    )
    def test_declined_request_offers_the_nearest_task_first(self, text, number):
        content = answer(chat(text)["messages"])["content"]
        assert re.search(r"\?example=(\d+)", content)[1] == str(number)

    @pytest.mark.parametrize(
        ("text", "part"),
        [
            ("fix the bug in app.py", "none of them"),
            ("print the first 20 primes in Rust", "“Rust”"),
            ("write primes to /etc/primes.py", "outside of the working directory"),
            ("x" * 100_000, "20,000 characters"),
            ("Translate this:\n```\nfoo\n```", "none of them"),
        ],
    )
    def test_other_request_is_declined_in_one_message(self, text, part):
        message = answer(chat(text)["messages"])
        assert "tool_calls" not in message
        assert message["content"].startswith("I am the built-in demo model, and I cannot do this.")
        assert part in message["content"]
        assert "I changed no file" in message["content"]
        assert f"[Settings → Model]({SITE}/settings/model)" in message["content"]

    def test_image_is_declined(self):
        messages = chat("List the files")["messages"]
        messages[-1]["content"].append({"type": "image_url", "image_url": {"url": "data:,"}})
        assert "cannot look at images" in answer(messages)["content"]

    def test_rules_of_skills_are_not_part_of_the_request(self):
        messages = chat("hello")["messages"]
        messages[-1]["content"].append(
            {"type": "text", "text": "<EXTRA_INFO>\nUse primes.\n</EXTRA_INFO>"}
        )
        assert answer(messages)["content"].startswith("Hello!")


class TestFollowUps:
    def test_request_refers_to_the_one_before(self):
        messages = chat("print the first 3 primes as p.py")["messages"]
        play(messages, {"pwd": WORKSPACE, "python3": f"2 3 5{END}"})
        messages.append({"role": "user", "content": "again with 5, as q.py"})
        done = play(messages, {"pwd": WORKSPACE, "python3": f"2 3 5 7 11{END}"})
        assert done[2][1]["path"] == "/workspace/q.py"
        assert "printed the right result" in done[-1][1]["message"]
        messages.append({"role": "user", "content": "run it again"})
        done = play(messages, {"python3": f"2 3 5 7 11{END}"})
        assert [a["command"] for n, a in done if n == "terminal"] == [
            "python3 /workspace/q.py < /dev/null"
        ]

    def test_later_turns_do_not_repeat_what_the_model_is(self):
        messages = chat("hello")["messages"]
        play(messages, {})
        messages.append({"role": "user", "content": "write a poem"})
        assert answer(messages)["content"].startswith("I cannot do this.")

    def test_scripts_and_requests_can_alternate(self):
        messages = chat("!run ls\n!finish Listed.")["messages"]
        assert [name for name, _ in play(messages, {})] == ["terminal", "finish"]
        messages.append({"role": "user", "content": "write b.txt saying “yes”"})
        assert [name for name, _ in play(messages, {"pwd": WORKSPACE})][2] == "file_editor"
        messages.append({"role": "user", "content": "!finish Again."})
        assert play(messages, {})[0][1]["message"] == "Again."

    def test_summary_of_condensed_history_is_not_a_request(self):
        messages = chat(HELLO)["messages"]
        for _ in range(2):
            message = answer(messages)
            result = {
                "role": "tool",
                "tool_call_id": message["tool_calls"][0]["id"],
                "content": WORKSPACE,
            }
            messages += [message, result]
        summary = {"role": "user", "content": f"{SUMMARY_MARK} earlier"}
        (call,) = answer([*messages, summary])["tool_calls"]
        assert json.loads(call["function"]["arguments"])["path"] == "/workspace/hello.py"
        # Without the results of its first steps, the model cannot know what it did, so it stops.
        (call,) = answer([*messages[:2], summary, *messages[4:]])["tool_calls"]
        assert call["function"]["name"] == "finish"
        assert "no longer in this conversation" in call["function"]["arguments"]


class TestWithoutTools:
    @pytest.mark.parametrize(
        ("system", "start"),
        [
            ("Generate a title for this conversation", "🤖"),
            ("Summarize the events", SUMMARY_MARK),
            ("Answer this", "I am the built-in demo model"),
        ],
    )
    def test_title_summary_and_answer_are_short_texts(self, system, start):
        messages = [{"role": "system", "content": system}, {"role": "user", "content": "hello"}]
        message = answer(messages, tools=[])
        assert message["content"].startswith(start)
        assert len(message["content"]) < 200
        assert "tool_calls" not in message


@pytest.mark.parametrize(
    ("request_", "yes", "part"),
    [
        ("print the first 12 primes in Rust", "yes, please", "Rust"),
        ("打印前 12 个素数，用 Rust", "好的", "Rust"),
    ],
)
def test_plain_task_is_offered_and_carried_out_after_a_yes(request_, yes, part):
    messages: Messages = chat(request_)["messages"]
    declined = answer(messages)
    assert part in declined["content"]
    assert "yes" in declined["content"] or "好" in declined["content"]
    messages += [declined, {"role": "user", "content": yes}]
    calls = play(messages, {"pwd": WORKSPACE})
    written = [arguments for name, arguments in calls if name == "file_editor"]
    assert "first_primes(12)" in written[0]["file_text"]


def test_yes_accepts_only_what_was_just_offered():
    messages: Messages = chat("print the first 12 primes in Rust")["messages"]
    messages += [answer(messages), {"role": "user", "content": "hello"}]
    messages += [answer(messages), {"role": "user", "content": "yes"}]
    assert "tool_calls" not in answer(messages)
