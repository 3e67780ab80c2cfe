"""The demo model: its turns, and the file name and content it reads out of a request."""

import json
from typing import Any

import pytest

from billing.gateway import script
from billing.gateway.demo import ABOUT, SUMMARY_MARK, plan_job, reply
from tests.billing.conftest import TOOLS, chat

Messages = list[dict[str, Any]]


def answer(messages: Messages, tools: Any = TOOLS) -> dict[str, Any]:
    """Return the assistant's message in a conversation."""
    request = {"messages": messages, "tools": tools}
    message = script.build_completion(reply(request), request)["choices"][0]["message"]
    return dict(message)


def play(
    messages: Messages, terminal: dict[str, str], *, tools: Any = TOOLS
) -> list[tuple[str, dict]]:
    """Let the model work until it finishes, and return its tool calls.

    ``terminal`` maps the beginning of a command to its output.
    """
    done = []
    for _ in range(12):
        message = answer(messages, tools)
        messages.append(message)
        for call in message["tool_calls"]:
            name, arguments = call["function"]["name"], json.loads(call["function"]["arguments"])
            done.append((name, arguments))
            result = "ok"
            if name == "terminal":
                outputs = [
                    out for start, out in terminal.items() if arguments["command"].startswith(start)
                ]
                result = (outputs or ["\n[Command finished with exit code 0]"])[0]
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
        if done[-1][0] == "finish":
            return done
    raise AssertionError("the model did not finish within 12 replies")


WORKSPACE = (
    "/workspace\n[Current working directory: /workspace]\n[Command finished with exit code 0]"
)
HI_OUTPUT = "hi\n[Python interpreter: /usr/bin/python]\n[Command finished with exit code 0]"


class TestOneTurn:
    def test_model_plans_writes_runs_and_reports(self):
        messages = chat("create hello.py that prints hi")["messages"]
        done = play(messages, {"pwd": WORKSPACE, "python3": HI_OUTPUT})

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
        assert done[5][1]["message"] == (
            "I wrote `hello.py` and ran `python3 hello.py`, which printed:\n\n```\nhi\n```\n\n"
            + ABOUT
        )
        assert all(message["content"] for message in messages if message["role"] == "assistant")

    def test_equal_requests_get_equal_replies(self):
        first, second = (chat("do something")["messages"] for _ in range(2))
        assert play(first, {"pwd": WORKSPACE}) == play(second, {"pwd": WORKSPACE})
        assert first == second

    def test_existing_file_is_renamed_first(self):
        existing = WORKSPACE.replace("/workspace\n", "/workspace\nhello.py\n", 1)
        done = play(chat("write hello.py that prints x")["messages"], {"pwd": existing})
        assert done[2] == (
            "terminal",
            {
                "command": "mv -f hello.py hello.py.bak",
                "security_risk": "LOW",
                "summary": "Keep the old file",
            },
        )
        assert done[3][1]["command"] == "create"

    def test_missing_python3_is_replaced_by_python(self):
        missing = "sh: python3: not found\n[Command finished with exit code 127]"
        done = play(
            chat("write a.py that prints x")["messages"],
            {"pwd": WORKSPACE, "python3": missing, "python ": HI_OUTPUT},
        )
        assert [a["command"] for n, a in done if n == "terminal"][1:] == [
            "python3 a.py",
            "python a.py",
        ]
        assert "ran `python a.py`" in done[-1][1]["message"]

    def test_failed_run_is_reported_as_a_failure(self):
        broken = "Traceback\n[Command finished with exit code 1]"
        done = play(
            chat("write a.py that prints x")["messages"], {"pwd": WORKSPACE, "python3": broken}
        )
        assert "did not report success" in done[-1][1]["message"]

    def test_rejected_action_ends_the_turn(self):
        messages = chat("write a.py")["messages"]
        call = answer(messages)
        messages += [
            call,
            {
                "role": "tool",
                "tool_call_id": call["tool_calls"][0]["id"],
                "content": "Action rejected: not now",
            },
        ]
        (finish,) = answer(messages)["tool_calls"]
        assert finish["function"]["name"] == "finish"
        assert "not now" in finish["function"]["arguments"]

    def test_missing_plan_tool_is_left_out(self):
        tools = [tool for tool in TOOLS if tool["function"]["name"] != "task_tracker"]
        done = play(chat("write a.txt saying x")["messages"], {"pwd": WORKSPACE}, tools=tools)
        assert [name for name, _ in done] == ["terminal", "file_editor", "terminal", "finish"]

    def test_missing_terminal_is_reported(self):
        tools = [tool for tool in TOOLS if tool["function"]["name"] == "finish"]
        ((name, arguments),) = play(chat("write a.txt")["messages"], {}, tools=tools)
        assert name == "finish"
        assert "terminal and file_editor" in arguments["message"]

    def test_braces_in_the_text_are_not_replaced(self):
        done = play(chat("write a.txt saying “{cwd} stays”")["messages"], {"pwd": WORKSPACE})
        assert done[2][1]["file_text"] == "{cwd} stays\n"


class TestFollowUps:
    def test_second_request_gets_another_file(self):
        messages = chat("do something")["messages"]
        play(messages, {"pwd": WORKSPACE})
        messages.append({"role": "user", "content": "and now something else"})
        done = play(messages, {"pwd": WORKSPACE})
        assert done[2][1]["path"] == "/workspace/demo_2.py"
        assert "and now something else" in done[2][1]["file_text"]
        assert len(done) == 6

    def test_scripts_and_requests_can_alternate(self):
        messages = chat("!run ls\n!finish Listed.")["messages"]
        assert [name for name, _ in play(messages, {})] == ["terminal", "finish"]
        messages.append({"role": "user", "content": "write b.txt saying yes"})
        assert [name for name, _ in play(messages, {"pwd": WORKSPACE})][2] == "file_editor"
        messages.append({"role": "user", "content": "!finish Again."})
        assert play(messages, {})[0][1]["message"] == "Again."

    def test_summary_of_condensed_history_is_not_a_request(self):
        messages = chat("create hello.py that prints hi")["messages"]
        for _ in range(2):
            message = answer(messages)
            result = {
                "role": "tool",
                "tool_call_id": message["tool_calls"][0]["id"],
                "content": WORKSPACE,
            }
            messages += [message, result]
        condensed = [
            *messages[:2],
            {"role": "user", "content": f"{SUMMARY_MARK} earlier"},
            *messages[4:],
        ]
        for history in (condensed, [*messages, condensed[2]]):
            (call,) = answer(history)["tool_calls"]
            assert json.loads(call["function"]["arguments"])["path"] == "/workspace/hello.py"


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


class TestReadingARequest:
    @pytest.mark.parametrize(
        ("request_", "path", "content", "command"),
        [
            (
                "create hello.py that prints hello",
                "hello.py",
                "print('hello')\n",
                "python3 hello.py",
            ),
            (
                'Create hello.py which prints "it\'s 5" and run it.',
                "hello.py",
                'print("it\'s 5")\n',
                "python3 hello.py",
            ),
            ("write notes.txt saying a b c. Then show it", "notes.txt", "a b c\n", "cat notes.txt"),
            (
                "make greet.sh which echoes hi there, then run it",
                "greet.sh",
                "echo 'hi there'\n",
                "sh greet.sh",
            ),
            (
                "Print hello world in a file called h.py",
                "h.py",
                "print('hello world')\n",
                "python3 h.py",
            ),
            ("put into src/a/b.md with the text: Title", "src/a/b.md", "Title\n", "cat src/a/b.md"),
            (
                "write x.py:\n```python\nimport this\n```\nthanks",
                "x.py",
                "import this\n",
                "python3 x.py",
            ),
            ("write /etc/x.conf.txt saying y", "x.conf.txt", "y\n", "cat x.conf.txt"),
            ("write ../../x.txt saying y", "x.txt", "y\n", "cat x.txt"),
            ("write nothing.txt", "nothing.txt", "write nothing.txt\n", "cat nothing.txt"),
        ],
    )
    def test_file_name_and_content_are_read_from_the_request(
        self, request_, path, content, command
    ):
        job = plan_job(request_)
        assert (job.path, job.content, job.command()) == (path, content, command)

    @pytest.mark.parametrize(
        "request_", ["fix it", "", "see https://example.com/a.txt", "use 3.11", '\0\ud800\'"""\\']
    )
    def test_other_request_becomes_a_program_that_quotes_it(self, request_):
        job = plan_job(request_)
        assert job.path == "demo.py"
        names: dict[str, Any] = {}
        compile(job.content, job.path, "exec")
        exec(job.content.split("print(")[0], names)  # Only the part before the first print.
        assert names["REQUEST"] == request_

    @pytest.mark.timeout(5)
    @pytest.mark.parametrize(
        "text",
        [
            "a/" * 100_000,
            "!run " + " " * 500_000 + "x",
            "```" * 50_000,
            "prints " * 50_000 + ".py",
            " in" * 200_000 + " a.py",
        ],
    )
    def test_hostile_text_is_answered_within_the_time_limit(self, text):
        answer(chat(text)["messages"])
