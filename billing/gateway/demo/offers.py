"""The offers of the demo model: requests to try, the link to connect a model, and the message that declines a request.

The texts are Markdown. Links to pages of this server begin with ``site``, its public address.
"""

from dataclasses import dataclass

from billing.gateway.demo.workbench import Text


@dataclass(frozen=True, slots=True)
class Example:
    """A request to try: the key of its task, a name, a description and the request in English and in Chinese."""

    key: str
    name: str
    about: str
    request: Text


EXAMPLES = (
    Example(
        "primes",
        "Find primes",
        "Write a program, run it and check the output.",
        Text(
            "Write a program that prints the first 20 primes, save it as primes.py and run it",
            "写一个程序打印前 20 个素数，保存为 primes.py 并运行",
        ),
    ),
    Example(
        "todo",
        "To-do page",
        "One HTML file that works in a browser.",
        Text("Make a to-do page as one HTML file", "做一个待办事项网页，只用一个 HTML 文件"),
    ),
    Example(
        "repair",
        "Fix a bug",
        "A small sample project with a failing test.",
        Text("Fix the bug in the sample project", "修复示例项目里的错误"),
    ),
    Example(
        "fizzbuzz",
        "FizzBuzz",
        "The classic exercise, from 1 to 30.",
        Text(("Write FizzBuzz from 1 to 30 and run it"), "写一个 1 到 30 的 FizzBuzz 并运行"),
    ),
    Example(
        "fibonacci",
        "Fibonacci",
        "The first numbers of the sequence.",
        Text("Print the first 15 Fibonacci numbers", "打印前 15 个斐波那契数"),
    ),
    Example(
        "csv",
        "CSV summary",
        "Rows, columns and ranges.",
        Text("Summarize the CSV file", "给 CSV 文件做一个摘要"),
    ),
    Example(
        "tests",
        "Tests for a file",
        ("Tests for a Python file that is there."),
        Text("Write tests for primes.py", "为 primes.py 写测试"),
    ),
    Example(
        "list",
        "List files",
        "What is in the working directory.",
        Text("List the files in this directory", "列出当前目录的文件"),
    ),
    Example(
        "explain",
        "Explain a file",
        "Size, functions, imports.",
        Text("Explain primes.py", "介绍一下 primes.py"),
    ),
    Example(
        "count",
        "Count lines",
        "Lines of code.",
        Text("Count the lines of Python code", "统计 Python 代码行数"),
    ),
    Example(
        "search",
        "Search",
        "A text in all files.",
        Text("Find all TODO comments", "找出所有 TODO 注释"),
    ),
    Example(
        "git",
        "Git",
        "State and newest commits.",
        Text(("Show the Git status and the last 5 commits"), "显示 Git 状态和最近 5 次提交"),
    ),
    Example(
        "reverse_string",
        "A function",
        "With checks.",
        Text("Write a function that reverses a string", "写一个反转字符串的函数"),
    ),
    Example(
        "say",
        "Hello",
        "A one-line program.",
        Text('Write hello.py that prints "Hello" and run it', "写 hello.py，打印“你好”并运行"),
    ),
)
"""Requests to try. Those about ``primes.py`` follow the first one in the same conversation."""

ABOUT = Text(
    "I am the built-in demo model. I know a few small tasks and nothing else.",
    "我是内置的演示模型，只会几种固定的小任务。",
)


def link_model(site: str) -> Text:
    """Return the sentence that says how to connect a model."""
    return Text(
        f"For anything else, connect a real model: [Settings → Model]({site}/settings/model).",
        f"其他任务请连接真正的模型：[Settings → Model]({site}/settings/model)。",
    )


def list_examples(
    site: str, *, is_chinese: bool, count: int = len(EXAMPLES), nearest: str = ""
) -> str:
    """Return a list of requests to try. Each links to the home page with the request filled in.

    The example of the task with the key ``nearest`` is the first.
    """
    lines = []
    numbered = sorted(enumerate(EXAMPLES), key=lambda pair: pair[1].key != nearest)
    for index, example in numbered[:count]:
        request = example.request.chinese if is_chinese else example.request.english
        lines.append(f"- [{request}]({site}/?example={index}{'&lang=zh' if is_chinese else ''})")
    return "\n".join(lines)


def decline(
    site: str, reason: Text | None, *, is_chinese: bool, is_first: bool, nearest: str = ""
) -> str:
    """Return the one message that declines a request, with the example of the task ``nearest`` first."""
    if is_chinese:
        about = "我是内置的演示模型，" if is_first else ""
        start = f"{about}这个请求我做不了。"
        why = reason.chinese if reason else "我只会几种固定的小任务，这个不在其中。"
        rest = (
            f"我没有改动任何文件。\n\n要完成它，请连接真正的模型：[Settings → "
            f"Model]({site}/settings/model)。\n\n我会做的，例如："
        )
    else:
        about = "I am the built-in demo model, and " if is_first else ""
        start = f"{about}I cannot do this. " if is_first else "I cannot do this. "
        why = reason.english if reason else "I know a few small tasks, and this is none of them."
        rest = (
            f" I changed no file.\n\nTo get it done, connect a real model: [Settings → "
            f"Model]({site}/settings/model).\n\nWhat I can do, for example:"
        )
    return f"{start}{why}{rest}\n\n{list_examples(site, is_chinese=is_chinese, count=4, nearest=nearest)}"
