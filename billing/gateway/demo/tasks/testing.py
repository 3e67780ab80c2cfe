"""Tests for a Python file: the demo model reads the file, writes only tests that mean something, and runs them."""

import json
import re
from collections.abc import Generator
from dataclasses import replace
from typing import Any

from billing.gateway.demo.order import Declined, Order, Task
from billing.gateway.demo.tasks.files import tell_missing
from billing.gateway.demo.tasks.programs import quote
from billing.gateway.demo.workbench import Bench, Result, Text
from billing.gateway.script import Json, Step

Report = Generator[Step, Any, str]
_COMMENTS = {
    "doctest": "The example in the function's own documentation.",
    "known": "What a function of this name must return.",
    "today": "What the function returned when this test was written; check that it is right.",
}


_CREATES = re.compile(
    r"\b(?:write|create|add|make|generate|need|want|cover|give|build|implement|develop|prepare|slap|"
    r"throw|knock|whip|cook|toss|chuck|hack|bang|put|get|"
    r"deserves?|lacks?|needs|misses|missing|would "
    r"like|i'd like)\b|写|整|搞|弄|来|生成|创建|加|补充|补|做|需要|新建"
)
_WITH_TESTS = re.compile(
    r"(?:write|create|make|generate|build|implement|program|code) (?:\w+ ){0,4}⟦f(\d+)⟧ (?:with|and|"
    r"plus|including|together with) (?:\w+ ){0,3}tests?\b"
    r"|⟦f(\d+)⟧[^。]*(?:带|附带|以及|和)[^。]*测试"
)


def _check_testing(order: Order) -> Order:
    text = order.reading.text
    with_tests = _WITH_TESTS.search(text)
    if with_tests and order.reading.files[int(with_tests[1] or with_tests[2])] != order.output:
        raise Declined(
            Text(
                ("I can write tests for a file that is there, but not the file itself."),
                "我可以为已有的文件写测试，但不能写这个文件本身。",
            )
        )
    if re.search(r"\brun\b|\bpass\b|运行|跑", text) and not _CREATES.search(text):
        raise Declined(Text("I only run tests that I write myself.", "我只运行自己写的测试。"))
    for name in (*order.inputs, order.output or ""):
        stem = name.rpartition("/")[2].removesuffix(".py")
        if name and not stem.isidentifier():
            raise Declined(
                Text(
                    f"A test cannot import a file called `{name}`.",
                    f"测试无法导入名为 `{name}` 的文件。",
                )
            )
    if (
        order.output
        and order.inputs
        and order.output.rpartition("/")[0] != order.inputs[0].rpartition("/")[0]
    ):
        raise Declined(
            Text(
                "I write the tests only beside the file that they test.",
                "我只把测试写在被测文件旁边。",
            )
        )
    return replace(order)


def _do_tests(order: Order, bench: Bench) -> Report:
    path = order.inputs[0] if order.inputs else ""
    yield from bench.plan(
        bench.say("Read the file", "读文件"),
        bench.say("Write the tests", "写测试"),
        bench.say("Run the tests", "运行测试"),
    )
    yield from bench.look(path.rpartition("/")[0])
    if not path:
        found: Result = yield from bench.run(
            (
                "find . -maxdepth 1 -type f -name '*.py' -not -name 'test_*' -not -name '*_test.py' "
                "-not -name conftest.py | sort"
            ),
            bench.say("Which Python files are here?", "这里有哪些 Python 文件？"),
            "Look for Python files",
        )
        paths = [
            line.removeprefix("./") for line in found.output.splitlines() if line.startswith("./")
        ]
        if len(paths) != 1:
            yield from bench.close_plan(0)
            return (
                bench.say(
                    ("There is no Python file here that I could test. I wrote nothing."),
                    "这里没有可以测试的 Python 文件。我什么都没有写。",
                )
                if not paths
                else bench.say(
                    ("Name the file that I should test, please:"), "请写出要测试的文件名："
                )
                + "\n\n"
                + "\n".join(f"- `{p}`" for p in paths[:20])
            )
        path = paths[0]
    else:
        found = yield from bench.run(
            f"test -f {quote(path)} && test ! -L {quote(path)} && cat {quote(path)}",
            bench.say(f"I read `{path}`.", f"我读 `{path}`。"),
            f"Read {path}",
        )
        if not found.is_success:
            yield from bench.close_plan(0)
            return tell_missing(path, bench)
    read: Result = yield from bench.measure(
        "find_cases.py",
        quote(path),
        bench.say(
            ("Which functions can be tested, and with what?"), "哪些函数可以测试，用什么测试？"
        ),
        "Find test cases",
    )
    cases = _parse(read.output) if read.is_success else []
    kinds = {case["kind"] for case in cases}
    useful = [case for case in cases if case["kind"] in _COMMENTS]
    if not read.is_success or not useful:
        yield from bench.close_plan(1)
        return _tell_nothing(path, cases, read, bench)
    folder, _, name = path.rpartition("/")
    module = name.removesuffix(".py")
    name_asked = order.output or (f"{folder}/" if folder else "") + f"test_{module}.py"
    written = yield from bench.create(name_asked, _write_tests(module, useful))
    test_name = written.rpartition("/")[2].removesuffix(".py")
    changed = f"cd {quote(folder)} && " if folder else ""
    result = yield from _run_tests(changed, test_name, bench)
    yield from bench.close_plan()
    count = len(useful)
    functions = ", ".join(
        f"`{name}`" for name in dict.fromkeys(case["function"] for case in useful)
    )
    report = bench.say(
        f"I wrote `{written}` with {count} checks of {functions}.{bench.tell_name(name_asked, written)} ",
        f"我写了 `{written}`，对 {functions} 做了 {count} 项检查。{bench.tell_name(name_asked, written)}",
    )
    report += (
        bench.say("I ran them, and all pass.", "我运行了测试，全部通过。")
        if result.is_success
        else bench.say(
            ("I ran them, and some fail, so the file or the expectation is wrong:"),
            "我运行了测试，有些没有通过，所以是文件有错，或者期望有错：",
        )
    ) + f"\n\n{result.outline()}"
    if "known" in kinds:
        report += bench.say(
            "\n\nSome expectations come from the names of the functions: `add(2, 3)` must be 5.",
            "\n\n有些期望值来自函数的名字：`add(2, 3)` 应该是 5。",
        )
    if "today" in kinds:
        report += bench.say(
            (
                "\n\nSome checks only record what a function returns today; a comment marks them. Look "
                "whether that is what you want."
            ),
            "\n\n有些检查只记录函数现在的返回值，注释里标明了。请看看这是不是你想要的。",
        )
    skipped = [case["function"] for case in cases if case["kind"] == "skipped"]
    if skipped:
        names = ", ".join(f"`{name}`" for name in skipped[:10])
        report += bench.say(
            f"\n\nI wrote no tests for {names}: I do not call functions that may do more than compute.",
            f"\n\n我没有为 {names} 写测试：可能不只是计算的函数，我不调用。",
        )
    return report


def _run_tests(changed: str, module: str, bench: Bench) -> Generator[Step, Any, Result]:
    text = bench.say("Then I run the tests.", "然后运行测试。")
    for program in ("python3", "python"):
        result: Result = yield from bench.run(
            f"({changed}{program} -B -m unittest {module})", text, "Run the tests"
        )
        if result.exit_code != 127:
            return result
    return result


def _parse(output: str) -> list[Json]:
    cases = []
    for line in output.splitlines():
        try:
            case = json.loads(line)
        except ValueError:
            continue
        if isinstance(case, dict) and "kind" in case:
            cases.append(case)
    return cases


def _write_tests(module: str, cases: list[Json]) -> str:
    names = list(dict.fromkeys(case["function"] for case in cases))
    lines = [
        f'"""Tests of {module}.py."""',
        "",
        "import unittest",
        "",
        f"from {module} import {', '.join(names)}",
        "",
        "",
        f"class {''.join(part.capitalize() for part in module.split('_')) or 'Module'}Test(unittest.TestCase):",
    ]
    for name in names:
        own = [case for case in cases if case["function"] == name]
        lines += [f"    def test_{name}(self):"]
        comment = ""
        for case in own:
            if _COMMENTS[case["kind"]] != comment:
                comment = _COMMENTS[case["kind"]]
                lines.append(f"        # {comment}")
            lines.append(f"        self.assertEqual({case['call']}, {case['result']})")
        lines.append("")
    return "\n".join([*lines, "", 'if __name__ == "__main__":', "    unittest.main()", ""])


def _tell_nothing(path: str, cases: list[Json], read: Result, bench: Bench) -> str:
    nothing = bench.say("I wrote nothing.", "我什么都没有写。")
    if not read.is_success:
        return (
            bench.say(f"`{path}` cannot be read as Python:", f"`{path}` 不能作为 Python 读取：")
            + f"\n\n{read.outline()}\n\n{nothing}"
        )
    by_kind = {case["kind"]: case for case in cases}
    if "runs" in by_kind:
        line = by_kind["runs"]["line"]
        why = bench.say(
            f"`{path}` does its work as soon as it is imported (line {line}), so a test would run all of it.",
            f"`{path}` 一被导入就会执行（第 {line} 行），所以测试会运行整个文件。",
        )
    elif "needs" in by_kind:
        modules = ", ".join(by_kind["needs"]["modules"])
        why = bench.say(
            f"`{path}` imports {modules}, which I do not load.",
            f"`{path}` 导入了 {modules}，我不加载它们。",
        )
    else:
        why = bench.say(
            f"`{path}` has no functions of which I know what they must return.",
            f"`{path}` 里没有我知道应该返回什么的函数。",
        )
    return f"{why} {nothing} " + bench.say(
        "A real model can write tests for it.", "真正的模型可以为它写测试。"
    )


TESTS = Task(
    key="tests",
    title=Text("tests for a Python file", "为 Python 文件写测试"),
    needs=(
        (
            "tests?|test[- ]cases?|unit ?tests?|unit[- ]testing|pytest|unittest|testing|test suite|"
            "test file|单元测试|测试用例|测试"
        ),
        (
            "(?=⟦f)|my (?:code|file|program|module|functions?)|this (?:code|file|module)|the (?:code|"
            "file|module|python file|python code|functions?)|python|代码|文件|函数"
        ),
    ),
    words=(
        "还没有?(?:任何)?测试|没有?(?:任何)?测试|(?:a )?safety net(?: of)?|整几个|整点|搞几个|搞点|"
        "弄几个|弄点|来几个|来点|配几个|配上|过不过|"
        "next to (?:it|the file)|beside (?:it|the file)|alongside|along with it|sanity checks?|"
        "edge cases?|corner cases?|"
        "there (?:is|are|was|were)(?:n't)? (?:no|any)(?: [a-z]+)? tests?(?: yet| at all)?|there isn't a "
        "(?:single )?test(?: yet)?|"
        "(?:has|have|had|was|were)(?: not|n't| never)(?: yet| ever)?(?: been)? tested(?: yet| before| at all)?|"
        "(?:is|are) (?:still )?(?:untested|without (?:a single |any )?tests?)|without (?:a single |any )tests?|"
        "(?:has|have|got) no (?:decent |proper |real |good |single |useful )*tests?(?: at all| yet)?|"
        "(?:has|have|with|got) (?:no|zero|little|hardly any) (?:test )?(?:tests?|coverage)(?: at all|"
        " yet)?|test coverage|coverage|pytest preferred|preferred|preferably|passes|passed|fail|fails|"
        "failing|green|everything|加上|加几个|加|补几个|补|写点|能不能通过|过不过|过没过|look at|"
        "have a look at|read|"
        "open|unit|tests?|test cases?|cases?|suite|testing|unittests?|with "
        "unittest|using unittest|unittest|"
        "that tests?|covers?|covering|check|checks|checking|functions?|methods?|modules?|existing|all|"
        "each|every|python|pass|passing|whether they pass|if they pass|them|their|they|meaningful|"
        "useful|proper|real|automated|few|couple of|"
        "单元测试|测试用例|测试|用例|函数|方法|模块|所有的?|全部的?|里|中|的|为|给|对|针对|编写|补充|几个|若干|些|"
        "这个|有意义|运行测试|跑测试|通过"
    ),
    forbids=(
        "coverage (?:percent(?:age)?|report|badge|number|figure|score)|(?:tell|show|give) me (?:the |my |"
        "its )?(?:test )?coverage|"
        "(?:just|only) (?:for )?(?:the|one|a single)|the (?:first|second|third|last|main) (?:functions?|class|method)|"
        "(?:deliberately|intentionally|on purpose|failing tests?|(?<!能)不通过|故意)|"
        "(?:that|which) (?:will )?fail|make (?:the|my|all)(?: the)? (?:unit )?tests?|(?:all|every|"
        "each) (?:of )?(?:my |the )?(?:files?|modules?)|(?:所有|全部|每个)的?(?:文件|模块)"
    ),
    inputs=("py",),
    outputs=("py",),
    check=_check_testing,
    carry_out=_do_tests,
)
