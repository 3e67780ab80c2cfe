"""Run the newest program of the conversation again."""

import re
import shlex
from collections.abc import Generator
from typing import Any

from billing.gateway.demo.order import Order, Task
from billing.gateway.demo.workbench import Bench, Result, Text
from billing.gateway.script import Step

RUN_AGAIN = re.compile(
    r"(?:please |now |can you |could you |ok,? )*(?:re-?run|run|execute)(?: (?:it|that|this|the "
    r"(?:program|script|file)))?"
    r"(?: again| once more| one more time| now)*(?:,? please)?[.!?]*|(?:请|再|重新)*(?:运行|执行|"
    r"跑)(?:一下|一次|一遍|它)*[。！]?",
    re.IGNORECASE,
)


def _do_rerun(order: Order, bench: Bench) -> Generator[Step, Any, str]:
    path = order.values["path"]
    name = path.rpartition("/")[2]
    text = bench.say(f"I run `{name}` again.", f"我再运行一次 `{name}`。")
    found: Result
    if path.endswith(".sh"):
        found = yield from bench.run(f"sh {shlex.quote(path)}", text, f"Run {name}")
    else:
        found = yield from bench.run_python(f"{shlex.quote(path)} < /dev/null", text, f"Run {name}")
    ended = bench.say(
        (f"I ran `{name}`; its exit code is {found.exit_code}."),
        f"我运行了 `{name}`，退出码是 {found.exit_code}。",
    )
    return f"{ended}\n\n{found.outline()}" if found.output.strip() else ended


RERUN = Task(
    key="rerun",
    title=Text("the newest program again", "再运行一次最新的程序"),
    needs=(),
    carry_out=_do_rerun,
)
