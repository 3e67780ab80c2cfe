"""Programs whose right output is known: write one, run it, and compare what it prints."""

import shlex
from collections.abc import Generator
from typing import Any

from billing.gateway.demo.order import Declined, Order
from billing.gateway.demo.workbench import Bench, Result, Text
from billing.gateway.script import Step

Report = Generator[Step, Any, str]
MAX_COUNT = 10_000
MAX_LIMIT = 1_000_000
_TAIL = 150
"""The number of characters of a long output that are shown and compared."""

SEPARATORS = (
    (
        "(?P<lines>(?:one|1)(?: \\w+)? (?:per|on each|a|each) line|(?:each|every one|all)? ?(?:on|in) "
        "(?:its|their|a) (?:own|new|separate) lines?|line by line|每行1?一?个|一行一个|逐行|换行)"
    ),
    (
        "(?P<commas>comma[- ]separated|separated (?:by|with) commas?|with commas|逗号(?:分隔|隔开)|"
        "用逗号(?:分隔|隔开))"
    ),
    (
        "(?P<spaces>(?:on|in) (?:one|1|a single|the same) line|space[- ]separated|separated (?:by|"
        "with) (?:a )?spaces?|(?:一行|空格(?:分隔|隔开)))"
    ),
)


def write_and_run(
    order: Order, bench: Bench, *, name: str, program: str, expected: str, about: Text
) -> Report:
    """Write a program, run it, compare its output with ``expected``, and return the report."""
    name_asked = order.output or name
    verb = bench.say("Run and check it", "运行并检查")
    steps = [
        bench.say("Look around", "查看工作目录"),
        bench.say(f"Write {name_asked}", f"写 {name_asked}"),
    ]
    yield from bench.plan(*steps, *([verb] if order.is_run else []))
    yield from bench.look(name_asked.rpartition("/")[0])
    path = yield from bench.create(name_asked, program)
    written = bench.say(
        f"I wrote `{path}`: {about.english}.{bench.tell_name(name_asked, path)}",
        f"我写了 `{path}`：{about.chinese}。{bench.tell_name(name_asked, path)}",
    )
    if not order.is_run:
        yield from bench.close_plan()
        return written + bench.say(
            " I did not run it, as you asked.", " 按你的要求，我没有运行它。"
        )
    is_long = len(expected) > 3_000
    arguments = f"{quote(path)} | tail -c {_TAIL}" if is_long else quote(path)
    result: Result = yield from bench.run_python(
        arguments, bench.say("Then I run it.", "然后运行它。"), f"Run {path}"
    )
    shown = result.outline()
    printed = _squeeze(result.output)
    is_right = (
        result.is_success
        and bool(printed)
        and (_squeeze(expected).endswith(printed) if is_long else _squeeze(expected) == printed)
    )
    yield from bench.close_plan(None if is_right else 2)
    if not is_right:
        return written + bench.say(
            f" But the run did not print what it should (exit code {result.exit_code}):\n\n{shown}",
            f" 但是运行的输出不对（退出码 {result.exit_code}）：\n\n{shown}",
        )
    return written + (
        bench.say(
            (f" I ran it; its output ends with:\n\n{shown}\n\nThis is the right end."),
            f" 我运行了它，输出的结尾是：\n\n{shown}\n\n这个结尾是对的。",
        )
        if is_long
        else bench.say(
            f" I ran it, and it printed the right result:\n\n{shown}",
            f" 我运行了它，输出是正确的：\n\n{shown}",
        )
    )


def write_text(order: Order, bench: Bench, *, text: str, about: Text) -> Report:
    """Write a text file with the result itself, read it back, and return the report."""
    name_asked = order.output or "result.txt"
    yield from bench.plan(
        bench.say("Look around", "查看工作目录"),
        bench.say(f"Write {name_asked}", f"写 {name_asked}"),
        bench.say("Read it back", "读回检查"),
    )
    yield from bench.look(name_asked.rpartition("/")[0])
    path = yield from bench.create(name_asked, text)
    result: Result = yield from bench.run(
        f"tail -c {_TAIL} {quote(path)}" if len(text) > 3_000 else f"cat {quote(path)}",
        bench.say("I read it back.", "我把它读回来检查。"),
        f"Read {path}",
    )
    is_right = (
        result.is_success
        and _squeeze(text).endswith(_squeeze(result.output))
        and bool(result.output)
    )
    yield from bench.close_plan(None if is_right else 2)
    end = "" if is_right else bench.say(" But reading it back failed.", " 但是读回检查失败了。")
    return bench.say(
        f"I wrote `{path}`: {about.english}.{bench.tell_name(name_asked, path)}{end}\n\n{result.outline()}",
        f"我写了 `{path}`：{about.chinese}。{bench.tell_name(name_asked, path)}{end}\n\n{result.outline()}",
    )


def quote(path: str) -> str:
    """Return a path for the shell; a path that begins with a dash gets ``./`` before it."""
    return shlex.quote(f"./{path}" if path.startswith("-") else path)


def _squeeze(text: str) -> str:
    # The terminal may break long lines, so white space is not compared.
    return "".join(text.split())


def read_range(order: Order, *, default: int, most: int) -> dict[str, Any]:
    """Return the numbers of an order as ``{"first": n}`` or ``{"low", "high"}``. Raise ``Declined`` for useless ones.

    ``default`` is the count of a request without numbers, and ``most`` the highest limit.
    """
    values = order.values
    numbers = {name: int(values[name]) for name in ("n", "m") if name in values}
    limit = numbers.get("m")
    if limit is not None and "n" in numbers:
        raise Declined(
            Text("The request names both a count and a limit.", "请求里既有个数又有上限。")
        )
    if limit is None:
        first = numbers.get("n", default)
        if not 1 <= first <= MAX_COUNT:
            raise Declined(refuse_number(first, MAX_COUNT))
        return {"first": first}
    if "below" in values:
        limit -= 1
    low = int(values["low"]) if "low" in values else None
    if not 1 <= limit <= most or (low is not None and low > limit):
        raise Declined(refuse_number(limit if low is None else low, most))
    return {"low": low, "high": limit}


def refuse_number(number: int, most: int) -> Text:
    return Text(
        f"With the number {number} I cannot do this; numbers from 1 to {most:,} work, in order.",
        f"数字 {number} 我做不了；可以用 1 到 {most} 之间的数，从小到大。",
    )


def read_separator(order: Order) -> str:
    """Return the text between two numbers of the output."""
    if "commas" in order.values:
        return ", "
    return "\n" if "lines" in order.values else " "


UP_TO = (
    "(?:go(?:es|ing)? |count(?:s|ing)? )?up to(?: and including)?|up till|upto|until|till|through|thru|"
    "all the way to|within|"
    "(?:less|smaller|lower) than or equal to|(?:ending|stopping) (?:at|with)|not (?:greater|more|larger|bigger|"
    "higher) than|no (?:greater|more|larger|bigger|higher) than|not exceeding|at most|max(?:imum)?(?: "
    "of)?|<=|≤|lower or equal to|from the range"
)
BELOW = "below|under|beneath|less than|smaller than|lower than|fewer than|before|<"
RANGES = (
    (
        "(?:from|between|in the range(?: of| from)?|range(?: from)?)(?: the)?(?: numbers?)? {low} "
        "?(?:to|and|-|–|\\.\\.|until|till|til|through|thru|up to) ?{m}(?: \\(?inclusive\\)?)?"
    ),
    "(?:numbers? )?{low} ?(?:to|until|till|through|thru|up to|–|\\.\\.|->|-) ?{m}",
    "从?{low}(?:开始)?(?:到|至|和|与|-|~|—)+{m}(?:为止|之间|以内|范围内)*",
)
