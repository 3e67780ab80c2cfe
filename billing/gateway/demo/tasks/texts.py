"""A program or a text file with the words of the request: "hello.py that prints …", a note, a block of code to save."""

import re
import shlex
from collections.abc import Generator
from dataclasses import replace
from html import escape
from typing import Any

from billing.gateway.demo.order import Declined, Order, Task
from billing.gateway.demo.tasks.programs import quote, write_and_run
from billing.gateway.demo.workbench import Bench, Result, Text
from billing.gateway.script import Step

Report = Generator[Step, Any, str]
_GREETING = (
    "(?:hello|hi|hey|greetings|good (?:morning|evening|day|night)|welcome|bye|goodbye|yes|ok|你好|您好|"
    "大家好|世界你好|早上好)"
    "(?:,? ?(?:world|there|everyone|everybody|all|universe|again|friends?|sandbox|demo|page|from "
    "(?:the |a )?(?:sandbox|demo|here|page|python|agent)|世界|大家|朋友们?|中国))?"
)
_VERB = (
    "(?:prints?(?: out)?|printing|says?|saying|echo(?:e?s)?|outputs?|displays?|shows?|greets with|"
    "writes|contain(?:s|ing)|with(?: the)? (?:text|content|contents|words?|line|message)|reads?|打印出?|"
    "输出|显示|说|内容是|内容为|写着|包含)"
)


_PRINTS = re.compile(r"\b(?:print|say|echo|output|display|show|greet)|打印|输出|显示|说")


def _check_say(order: Order) -> Order:
    values = order.values
    text = order.texts[0] if order.texts else ""
    if not text and (said := values.get("said")):
        text = _keep_case(order, said)
    if not text and "hello" in values:
        text = (
            "Hello, world!"
            if "世界" not in order.reading.text or not order.reading.is_chinese
            else "你好，世界！"
        )
    if "shell2" in values:
        values = values | {"shell": "sh"}
    name = order.output or (
        "hello.sh" if "shell" in values else "hello.html" if "page" in values else "hello.py"
    )
    extension = name.rpartition(".")[2].lower()
    if ("shell" in values and extension != "sh") or (
        "page" in values and extension not in {"html", "htm"}
    ):
        raise Declined(
            Text(f"`{name}` does not fit the kind of program.", f"`{name}` 与程序的种类不符。")
        )
    if (
        ("python" in order.reading.text and extension not in {"py", "txt", "md"})
        or not text.strip()
        or "\n" in text
    ):
        raise Declined(
            Text(
                (
                    'Put the text to print in quotes, please; for example: write hello.py that prints "Hello"'
                ),
                "请给要打印的文字加引号，例如：写 hello.py，打印“你好”",
            )
        )
    if (
        extension in {"py", "sh"}
        and "hello" not in values
        and not _PRINTS.search(order.reading.text)
    ):
        raise Declined(
            Text(
                "I write programs only with code that you give in full, or that print a text.",
                "程序我只写你给出全部代码的，或者打印一段文字的。",
            )
        )
    return replace(order, output=name, values=values | {"text": text})


def _keep_case(order: Order, said: str) -> str:
    return said[:1].upper() + said[1:] if said.isascii() and order.output is None else said


def _do_say(order: Order, bench: Bench) -> Report:
    name, text = str(order.output), order.values["text"]
    extension = name.rpartition(".")[2].lower()
    if extension == "py":
        about = Text(f"it prints “{text}”", f"打印“{text}”")
        return (
            yield from write_and_run(
                order, bench, name=name, program=f"print({text!r})\n", expected=text, about=about
            )
        )
    if extension == "sh":
        return (
            yield from _write_and_show(
                order,
                bench,
                content=f"printf '%s\\n' {shlex.quote(text)}\n",
                program="sh",
                text=text,
            )
        )
    if extension in {"html", "htm"}:
        language = "zh" if order.reading.is_chinese else "en"
        content = (
            f'<!doctype html>\n<html lang="{language}">\n<head>\n<meta charset="utf-8">\n'
            f"<title>{escape(text)}</title>\n</head>\n<body>\n<h1>{escape(text)}</h1>\n</body>\n</html>\n"
        )
        return (
            yield from _write_and_show(order, bench, content=content, program="cat", text=content)
        )
    return (yield from _write_and_show(order, bench, content=f"{text}\n", program="cat", text=text))


def _write_and_show(
    order: Order, bench: Bench, *, content: str, program: str, text: str | None
) -> Report:
    """Write a file, then run or show it, and compare the output with ``text``, if that is known."""
    name_asked = str(order.output)
    last = (
        bench.say("Run it", "运行") if program != "cat" else bench.say("Read it back", "读回检查")
    )
    yield from bench.plan(
        bench.say("Look around", "查看工作目录"),
        bench.say(f"Write {name_asked}", f"写 {name_asked}"),
        last,
    )
    yield from bench.look(name_asked.rpartition("/")[0])
    path = yield from bench.create(name_asked, content)
    written = bench.say(
        (f"I wrote `{path}`.{bench.tell_name(name_asked, path)}"),
        f"我写了 `{path}`。{bench.tell_name(name_asked, path)}",
    )
    if not order.is_run and program != "cat":
        yield from bench.close_plan()
        return written + bench.say(
            " I did not run it, as you asked.", " 按你的要求，我没有运行它。"
        )
    result: Result
    if program == "python":
        result = yield from bench.run_python(
            f"{quote(path)} < /dev/null", bench.say("Then I run it.", "然后运行它。"), f"Run {path}"
        )
    else:
        shown = (
            bench.say("Then I run it.", "然后运行它。")
            if program == "sh"
            else bench.say("I read it back.", "我把它读回来。")
        )
        result = yield from bench.run(f"{program} {quote(path)}", shown, f"Run {path}")
    is_right = result.is_success and (
        text is None or "".join(result.output.split()) == "".join(text.split())
    )
    yield from bench.close_plan(None if is_right else 2)
    output = f"\n\n{result.outline()}" if result.output.strip() else ""
    if not is_right:
        return (
            written
            + bench.say(
                (f" But the run failed (exit code {result.exit_code})."),
                f" 但是运行失败了（退出码 {result.exit_code}）。",
            )
            + output
        )
    if program == "cat":
        return written + bench.say(" It contains:", " 内容是：") + output
    if not output:
        return written + bench.say(
            (" I ran it; it printed nothing and ended with exit code 0."),
            " 我运行了它；它没有输出，退出码为 0。",
        )
    return written + bench.say(" I ran it, and it printed:", " 我运行了它，输出是：") + output


_COMMON = (
    "hello[ -]?world|hello|world|program|programme|script|app|application|prints?|printing|says?|"
    "saying|outputs?|displays?|shows?|text|message|words?|line|lines|one[- ]line|one[- ]liner|the text|"
    "the words|the message|out|greeting|greets?|with|content|contents|contain(?:s|ing)?|reads?|"
    "echo(?:e?s)?|echoes|"
    "my first|first|classic|to the (?:console|screen|terminal)|put|note|notes|back|it back|read it "
    "back|it|that|and|cat|take a|markdown|text file|plain|txt|"
    "你好,? ?世界|世界|经典的?|打印|输出|显示|说|文字|文本|内容|一句话?|一行|句|字|写着|写入|包含|到|"
    "屏幕|第一个|笔记|记事|并显示|读出|读回|一个"
)
SAY = Task(
    key="say",
    title=Text("a file that prints or contains a text", "打印或包含一段文字的文件"),
    needs=(
        (
            f"{_VERB}|hello[ -]?world|你好,? ?世界|hello,? world|with (?=⟦t)|write (?=⟦t)|put (?=⟦t)|"
            f"save (?=⟦t)|store "
            f"(?=⟦t)|把(?=⟦t)|将(?=⟦t)"
        ),
        (
            f"(?=⟦t)|hello[ -]?world|hello,? world|你好,? ?世界|{_VERB}:? {_GREETING}|{_VERB}(?:你好|您好)|"
            f"(?:print|say|echo|output) {_GREETING}"
        ),
        "(?=⟦f)|hello[ -]?world|hello,? world|program|script|page|python|世界|程序|脚本|file",
    ),
    words=_COMMON,
    parameters=(
        f"{_VERB}:? (?P<said>{_GREETING})!?",
        f"(?:打印出?|输出|显示|说)[:：]?(?P<said>{_GREETING})",
        "(?P<hello>hello,?[ -]?world!?|你好,? ?世界!?)",
        (
            "(?P<shell>bash|shell|sh) (?:script|program)|(?:in|with|using) (?P<shell2>bash|shell|sh)|"
            "shell脚本|bash脚本"
        ),
        "(?P<page>(?:html|web) ?page|web ?site|in html|html file|html|网页|页面)",
    ),
    outputs=("py", "sh", "txt", "md", "text", "html", "htm"),
    max_texts=1,
    check=_check_say,
    is_exact=True,
    carry_out=_do_say,
)

_LANGUAGES = {
    "": "py",
    "python": "py",
    "py": "py",
    "python3": "py",
    "sh": "sh",
    "bash": "sh",
    "shell": "sh",
    "text": "txt",
    "txt": "txt",
    "html": "html",
    "markdown": "md",
    "md": "md",
    "json": "json",
    "csv": "csv",
}


def _check_code(order: Order) -> Order:
    language, content = order.codes[0] if order.codes else ("", "")
    if not content.strip():
        raise Declined
    extension = _LANGUAGES.get(language)
    if order.output is None and extension is None:
        raise Declined(
            Text("Name the file to save the code in, please.", "请写出保存代码的文件名。")
        )
    return replace(order, output=order.output or f"program.{extension}")


def _do_code(order: Order, bench: Bench) -> Report:
    _, content = order.codes[0]
    extension = str(order.output).rpartition(".")[2].lower()
    program = {"py": "python", "sh": "sh"}.get(extension, "cat")
    return (
        yield from _write_and_show(
            order,
            bench,
            content=content,
            program=program,
            text=None if program != "cat" else content,
        )
    )


CODE = Task(
    key="code",
    title=Text("a file with the code of your message", "保存消息里的代码"),
    needs=(
        "(?=⟦c)",
        "save|saves|store|put|write|create|make|run|execute|保存|存|写|运行|执行|创建",
    ),
    words=(
        "code|following|below|above|this|content|contents|with|snippet|text|exactly|as|is|:|以下|下面|"
        "代码|内容|这段|如下"
    ),
    outputs=(
        "py",
        "sh",
        "txt",
        "md",
        "html",
        "htm",
        "css",
        "js",
        "json",
        "csv",
        "toml",
        "yaml",
        "yml",
        "ini",
        "cfg",
        "sql",
        "xml",
    ),
    max_codes=1,
    check=_check_code,
    is_exact=True,
    carry_out=_do_code,
)
