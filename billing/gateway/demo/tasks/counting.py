"""The task that counts lines and words, of a file or of the source code."""

import re

from billing.gateway.demo.order import Declined, Order, Task
from billing.gateway.demo.tasks.files import (
    HERE,
    KIND,
    THIS_FILE,
    Report,
    find_file,
    find_kind,
    tell_missing,
)
from billing.gateway.demo.tasks.programs import quote
from billing.gateway.demo.workbench import Bench, Result, Text

_CODE = "py js ts jsx tsx java c h cpp cc go rs rb php sh html css swift kt cs".split()  # noqa: SIM905


def _do_count(order: Order, bench: Bench) -> Report:
    kind = find_kind(order)
    if order.inputs:
        (path,) = order.inputs
        found = yield from find_file(path, bench)
        if found is None:
            return tell_missing(path, bench)
        path = found
        result: Result = yield from bench.run(
            f"wc -l < {quote(path)} && wc -w < {quote(path)} && wc -c < {quote(path)}",
            bench.say("Now I count.", "现在我数一数。"),
            "Count",
        )
        numbers = result.output.split()
        if not result.is_success or len(numbers) != 3:
            return bench.say(f"I could not read `{path}`.", f"读不了 `{path}`。")
        lines, words, size = numbers
        return bench.say(
            f"`{path}` has {lines} lines, {words} words and {size} bytes (counted by `wc`).",
            f"`{path}` 有 {lines} 行、{words} 个单词、{size} 字节（用 `wc` 统计）。",
        )
    names = [kind] if kind else _CODE
    tests = " -o ".join(f"-name '*.{name}'" for name in names)
    skip = " ".join(
        f"-not -path '*/{name}/*'" for name in (".git", "node_modules", ".venv", "__pycache__")
    )
    result = yield from bench.run(
        (
            f"find . -type f \\( {tests} \\) {skip} -exec cat {{}} + | wc -l && find . -type f \\( "
            f"{tests} \\) {skip} | wc -l"
        ),
        bench.say("I count.", "我数一数。"),
        "Count lines",
    )
    numbers = result.output.split()
    if not result.is_success or len(numbers) != 2:
        return (
            bench.say("I could not count the lines.", "我没能数出行数。")
            + f"\n\n{result.outline()}"
        )
    what = f"`.{kind}`" if kind else bench.say("source", "源代码")
    return bench.say(
        f"{numbers[1]} {what} files here have {numbers[0]} lines together, empty lines and comments included "
        f"(without `.git`, `node_modules`, `.venv`)."
        + ("" if kind else f" Counted as source: {', '.join(_CODE)}."),
        (
            f"这里有 {numbers[1]} 个 {what} 文件，共 {numbers[0]} 行，含空行和注释（不含 "
            f"`.git`、`node_modules`、`.venv`）。"
        )
        + ("" if kind else f"算作源代码的有：{'、'.join(_CODE)}。"),
    )


def _check_count(order: Order) -> Order:
    text = order.reading.text
    if not order.inputs and not re.search(r"line|code|loc|word|character|byte|行|代码|字", text):
        raise Declined
    if (
        not order.inputs
        and re.search(r"word|character|byte|字|单词", text)
        and not re.search(r"line|行", text)
    ):
        raise Declined(
            Text(
                ("Name the file, please; for example: count the words in notes.txt"),
                "请写出文件名，例如：统计 notes.txt 的字数",
            )
        )
    return order


COUNT = Task(
    key="count",
    title=Text("the number of lines and words", "统计行数和单词数"),
    needs=(
        (
            "tally(?: up)?|tot up|add up|how big|lines of code|code lines|count|counts|counting|how many|"
            "how much|how long|number of|amount of|"
            "total|loc|sloc|"
            "length|wc|统计|多少|几|数一下|数一数|数|计算|行数|字数|总共"
        ),
        "lines?|words?|characters?|bytes?|loc|sloc|how long|length|行|字|单词|字符|行数|字数",
    ),
    words=(
        f"(?:did|have) (?:i|we) (?:write|written|got)|{THIS_FILE}|{HERE}|"
        f"lines?(?: of)?(?: source)?(?: code)?|code|words?|characters?|bytes?|are|"
        f"long|big|large|is|there|has|have|does|contained|contains?|in|all|every|files?|number|total|wc|"
        f"loc|altogether|"
        f"overall|count|tell me|lines and words|each|"
        "的|有|行代码|行|单词|字符|字|代码|共|一共|总共|总|所有的?|全部的?|数量|数|计算|个数|里|文件|多少|总计|量"
    ),
    parameters=(
        f"(?:{KIND})(?= ?(?:files?|scripts?|code|source|lines|文件|代码|there|are|do|have|in|$))",
    ),
    forbids="contributed?|colleagues?|authors?|who|per|注释|空行|非空|comment(?:ed)?|comments|blank|empty|non-empty",
    inputs=("*",),
    check=_check_count,
    carry_out=_do_count,
)
