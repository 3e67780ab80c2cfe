"""Tasks that only look at files: list them, show one, explain one, count lines."""

import re
from collections.abc import Generator
from dataclasses import replace
from typing import Any

from billing.gateway.demo import vocabulary
from billing.gateway.demo.order import Declined, Order, Task
from billing.gateway.demo.tasks.programs import quote
from billing.gateway.demo.workbench import Bench, Result, Text
from billing.gateway.script import Step

Report = Generator[Step, Any, str]
KINDS = {
    "py": "python|py|python源?",
    "js": "javascript|js|javascript源?",
    "html": "html|web",
    "css": "css",
    "md": "markdown|md",
    "txt": "text|txt|plain text|文本",
    "csv": "csv",
    "json": "json",
}
KIND = "|".join(f"(?P<kind_{key}>(?:{pattern}))" for key, pattern in KINDS.items())
HERE = (
    "here|in here|current|current working|working|workspace|project|repo|repository|this|directory|"
    "directories|folders?|dir|root|sandbox|my|codebase|source|code|the|"
    "当前|这里|这儿|工作|目录|文件夹|项目|仓库|下面|下|里面|里|本|此|工作区|代码"
)


def find_kind(order: Order) -> str | None:
    return next((name[5:] for name in order.values if name.startswith("kind_")), None)


def _check_folder(order: Order) -> Order:
    text = order.reading.text
    if re.search(r"\b(?:folders|directories)\b|多少个?(?:文件夹|目录)", text) and not re.search(
        r"\bfiles?\b|文件(?!夹)|sub-?(?:folders|directories)", text
    ):
        raise Declined
    folder = order.values.get("folder") or (order.inputs[0].rstrip("/") if order.inputs else "")
    if (
        folder
        and order.inputs
        and not order.inputs[0].endswith("/")
        and "." in folder.rpartition("/")[2]
    ):
        raise Declined(
            Text(
                f"`{folder}` looks like a file, not a folder.",
                f"`{folder}` 看起来是文件，不是文件夹。",
            )
        )
    return replace(
        order,
        values=order.values | {"folder": "" if folder in {".", "this", "current"} else folder},
    )


def _do_list(order: Order, bench: Bench) -> Report:
    folder, kind = order.values["folder"], find_kind(order)
    where = quote(folder) if folder else "."
    find = f"find {where} -type f -not -path '*/.git/*'" + (f" -name '*.{kind}'" if kind else "")
    if "many" in order.values:
        command = f"{find} | wc -l"
    elif "largest" in order.values:
        command = f"{find} -exec ls -l {{}} + | sort -k5,5nr | head -n {order.values.get('n', 10)}"
    elif kind or "deep" in order.values:
        command = f"{find} | sort | head -n 200"
    else:
        command = f"ls -la {where}"
    if folder:
        command = f"test -d {where} && {command}"
    result: Result = yield from bench.run(
        command, bench.say("I look.", "我看一下。"), "List the files"
    )
    place = f"`{folder}`" if folder else bench.say("the working directory", "工作目录")
    if not result.is_success:
        return bench.say(
            f"I cannot list {place}: there is no such folder.", f"列不出{place}：没有这个文件夹。"
        )
    sort = f"`.{kind}` " if kind else ""
    if "many" in order.values:
        count = result.output.strip()
        return bench.say(
            f"There are {count} {sort}files in {place} and its folders (without `.git`).",
            f"{place}及其子文件夹里有 {count} 个 {sort}文件（不含 `.git`）。",
        )
    if not result.output.strip():
        return bench.say(f"There are no {sort}files in {place}.", f"{place}里没有 {sort}文件。")
    return (
        bench.say(f"The {sort}files in {place}:", f"{place}里的{sort and f' {sort}'}文件：")
        + f"\n\n{result.outline()}"
    )


LIST = Task(
    key="list",
    title=Text("a list of the files", "列出文件"),
    needs=(
        (
            "lying around|peek|poke around|look around|looking around|rummage|rundown|inventory|take stock|"
            "瞅瞅|瞧瞧|瞄一?眼|列一?下|列列|都有些?啥|有些?啥|啥情况|什么情况|"
            "list|lists|listing|show|shows|what|which|whats|what's|ls|dir|display|see|print|how many|count|"
            "documents|number of|give|tell|look|enumerate|view|check|find|get|contents?|"
            "largest|biggest|列出|列|显示|有哪些|哪些|有什么|什么|查看|看看|看一下|看|展示|多少|几个|最大|"
            "打印|罗列|数一下|统计|告诉|啥|what's here|what is here|what's in here|what is in here|"
            "what do we have here|what have we got here"
        ),
        (
            "dir|documents|files?|filenames?|file names?|director(?:y|ies)|folders?|contents?|ls|workspace|文件|"
            "目录|文件夹|内容|东西|what's here|what is here|what's in here|what is in here|"
            "what do we have here|what have we got here"
        ),
    ),
    words=(
        f"a number will do|just a number|{HERE}|lying around|sitting around|rundown|inventory|情况|些|看看都|"
        f"including(?: the)?(?: hidden)?(?: ones| files)?|overview|in total|total|altogether|"
        f"names?|all|all of|every|everything|available|existing|"
        f"do i have|do we have|i have|we "
        f"have|have|there|exist|exists|exist here|contained|contains?|content|"
        "is in|are in|what|which|inside|within|of|list|stored|present|me what|you see|can you see|"
        "currently|does|at|sizes?|with (?:their )?(?:sizes?|details)|details|detailed|long|including "
        "hidden(?: (?:ones|files))?|hidden|their|dates?|permissions|"
        "所有的?|全部的?|都|名称|名|清单|列表|有|在|里|的|大小|详细信息?|包括隐藏文件|隐藏|我|现在|存在|"
        "什么|哪些|吗"
    ),
    parameters=(
        (
            "(?P<many>how many|count(?: the)?(?: number of)?(?: all)?(?: the)?|(?:the )?(?:total "
            ")?number of|有?多少个?|几个|统计|数一下|数量|个数)"
        ),
        (
            "(?P<largest>(?:the )?{n} (?:largest|biggest))|(?P<largest>(?:the )?(?:largest|biggest))|"
            "(?P<largest>(?:sort(?:ed)? by|by|order(?:ed)? by) (?:file )?size)"
        ),
        "(?P<largest>最大的?{n}个?)|(?P<largest>最大|按大小排序?)",
        (
            "(?P<deep>(?:directory |folder |file |project )?(?:structure|hierarchy|tree)|目录结构|"
            "文件结构|recursive(?:ly)?|(?:and|including|with) (?:all )?(?:sub-?folders?|"
            "sub-?directories)|(?:all )?(?:sub-?folders?|sub-?directories)|as a tree|tree|递归|(?:包括|"
            "和)?(?:所有)?子(?:目录|文件夹))"
        ),
        (
            "(?:in|of|inside|under|from) (?:the )?(?:folder|directory|subfolder) (?P<folder>(?!(?:at|m8|"
            "mate|on|for|of|to|now|right|please|pls|today|where|which|that|with|you|we|i|so|as|if|it|"
            "currently)\\b|is|are|"
            "and|this|here)[a-z0-9_][a-z0-9_.-]{0,60})"
        ),
        (
            "(?:in|of|inside|under|from) (?:the |my )?(?P<folder>(?!the|my|this|current|working|same|"
            "project|our|home|other|parent|downloads|documents|desktop|workspace|root|sandbox|that|whole|"
            "entire|a|repo|"
            "repository)[a-z0-9_][a-z0-9_.-]{0,60}) (?:folder|directory|subfolder|dir)"
        ),
        f"(?:{KIND})(?: source| code)?(?= ?(?:files?|scripts?|ones|documents|文件))",
    ),
    forbids=(
        "(?:n|and|then) (?:chuck|bin|scrap|toss|trash|ditch|nuke|lose|zap)|hidden (?:files |ones )?only|"
        "only (?:the )?hidden|只[^，。]{0,4}隐藏|"
        "(?:only|just)(?: the)? (?:directories|folders)|(?:today|yesterday|recent|recently|old|oldest|"
        "new(?! (?:on|to|in|here|at))|newest|"
        "last|latest|since|before|after|ago|weeks?|months?)|why|important|useful|relevant|interesting|"
        "funny|about|你是|您是|今天|昨天|最近|之前|以前|之后|以后|没动过|不关心"
    ),
    inputs=("*",),
    check=_check_folder,
    carry_out=_do_list,
)


# --- One file -----------------------------------------------------------------------


def _check_file(order: Order) -> Order:
    if not order.inputs or order.inputs[0].endswith("/"):
        raise Declined(
            Text(
                "Name the file, please; for example: explain app.py",
                "请写出文件名，例如：解释 app.py",
            )
        )
    return order


def _do_explain(order: Order, bench: Bench) -> Report:
    (path,) = order.inputs
    found = yield from find_file(path, bench)
    if found is None:
        return tell_missing(path, bench)
    path = found
    result: Result = yield from bench.measure(
        "describe_file.py",
        quote(path),
        bench.say("Now I read it.", "现在我读它。"),
        f"Describe {path}",
    )
    if not result.is_success:
        return (
            bench.say(f"I could not read `{path}`:", f"读不了 `{path}`：")
            + f"\n\n{result.outline()}"
        )
    return bench.say(
        (
            f"What I can say about `{path}`:\n\n{result.outline()}\n\nThese are facts about its "
            f"structure. What the code means, a real model can explain."
        ),
        f"关于 `{path}`，我能说的是：\n\n{result.outline()}\n\n这些是结构上的事实。代码的含义需要真正的模型来解释。",
    )


def find_file(path: str, bench: Bench) -> Generator[Step, Any, str | None]:
    """Return the path of a file that is there, or None. A name like "readme" means a file like ``README.md`` too."""
    # A file that a link leads to may be outside of the working directory, so links are not followed.
    command = f"test -f {quote(path)} && test ! -L {quote(path)} && ls -l {quote(path)}"
    folder = path.rpartition("/")[0]
    if folder:
        yield from bench.look(folder)
    text = bench.say(f"First I check that `{path}` is there.", f"我先看看 `{path}` 在不在。")
    result: Result = yield from bench.run(command, text, "Look for the file")
    if result.is_success:
        return path
    if not path.isalpha():
        return None
    yield from bench.look()
    names = (f"{path}{end}".casefold() for end in ("", ".md", ".txt", ".rst"))
    name = next((name for name in names if name in bench.names), None)
    return None if name is None else (yield from _spell(name, bench))


def _spell(name: str, bench: Bench) -> Generator[Step, Any, str | None]:
    """Return the name of a file that is there, as it is written, or None. ``name`` is in lower case."""
    result: Result = yield from bench.run(
        f"find . -maxdepth 1 -type f -iname {quote(name)}",
        bench.say(f"How is `{name}` written?", f"`{name}` 的名字怎么写？"),
        "Look for the file",
    )
    found = [line.removeprefix("./") for line in result.output.splitlines()]
    return found[0] if len(found) == 1 else None


def tell_missing(path: str, bench: Bench) -> str:
    """Return the report for a file that is not there."""
    return bench.say(
        (
            f"There is no file `{path}` in the working directory (or it is a link), so I have nothing "
            f"to read. I changed nothing."
        ),
        f"工作目录里没有文件 `{path}`（或者它是一个链接），所以没有可读的内容。我没有改动任何东西。",
    )


THIS_FILE = (
    "the file|this file|file|contents?|content of|of|code|script|source|module|program|text|document|"
    "里面|内容|代码|这个文件|文件|脚本|程序|模块"
)
EXPLAIN = Task(
    key="explain",
    title=Text("an overview of a file", "介绍一个文件"),
    needs=(
        (
            "brief(?: me)?(?: on)?|story (?:with|of|behind)|the deal with|"
            "eli5|(?:cliff|cliff's) ?notes|(?:make )?(?:heads?(?: or| nor|/) tails?)|讲解|说人话|捋捋不?|"
            "看得我头大|头大|"
            "eli5|(?:talk|walk|guide|take|lead|run) (?:me|us|him|her|them) (?:through|over)|(?:go|"
            "going) (?:through|over)|"
            "break(?:s|ing)? (?:it |this |that )?down|breakdown|unpack|decipher|dissect|demystify|make sense of|"
            "clarify|elaborate on|shed (?:some )?light on|enlighten|get my head around|lowdown|low-down|skinny|"
            "tl;?dr|teach me|high[- ]level|in charge of|responsible for|up to|the deal with|point of|purpose|"
            "what (?:on earth|in the world|the hell|the heck|exactly|actually|even|kind of thing|"
            "all) (?:does|is|do)|"
            "讲给我听|捋一?捋|梳理(?:一下)?|解读(?:一下)?|剖析|剖一下|拆解(?:一下)?|科普(?:一下)?|过一遍|走一遍|"
            "讲讲课|干吗|干嘛使|做什么用|派什么用场|啥意思|思路|逻辑|原理|"
            "what do|(?:what|which) (?:functions|classes|methods|imports)|有哪些函数|哪些函数|干嘛|"
            "explain|explains|explaining|explanation|describe|description|summari[sz]e|summary|overview|"
            "walk me through|what does|what do|what is|what's|whats|tell me|tell|understand|about|"
            "analy[sz]e|analysis|inspect|how does|structure|outline|"
            "rundown|gist|what exactly|干啥|做啥|是啥|解释|说明|讲解|介绍|分析|概括|总结|是什么|什么|"
            "干什么|做什么|结构|概述|讲讲|说说|讲一讲|"
            "描述|理解|看懂|功能"
        ),
        (
            "(?=⟦f)|(?:this|the|my|a) (?:file|code|script|program|source code)|(?:这个|这段|这份|"
            "我的)?(?:代码|文件|脚本|程序)"
        ),
    ),
    words=(
        f"{THIS_FILE}|{HERE}|go through|going through|go over|happens?|happening|going on|"
        f"(?:the )?story(?: with| of| behind)|{vocabulary.PLAINLY}|can't make heads or tails of|"
        f"(?:用来)?干嘛用|说人话|写了些|不|up to|all|point|deal|through|over|down|on earth|in the world|"
        f"the hell|the heck|even|"
        f"python|coding|programming|code|responsible|in charge|留下(?:来)?的?|写的|丢给我的?|"
        f"someone who (?:has )?never [a-z]+(?: before)?|(?:the )?(?:main )?(?:ideas?|logic|parts|"
        f"building blocks|moving "
        f"parts)(?: behind)?|step by step|line by line|(?:a )?high[- ]level|each part|every part|"
        f"(?:and )?how it works|what (?:each|every) (?:part|function) does|"
        "思路|逻辑|原理|大意|意图|内在|这段|那段|"
        f"do|does|is|in|inside|contains?|about|me about|what|how|works?|purpose of|"
        f"purpose|structure of|it does|does it do|mean|means|its|briefly|short|which|methods|are|"
        f"functions?|classes|"
        f"imports?|"
        "读一下|读|写了|写的|功能|讲的|讲了|写的|做啥|干啥|的|干嘛|有哪些|作用|用途|意思|含义|干|做|里|"
        "有|一下|是|了|用来|什么|"
        "功能|怎么|工作|它|主要|结构|函数"
    ),
    forbids=(
        "(?:最后|前|后|末尾|头)\\d+行|"
        "(?:show|print|display)(?: me)? (?:what(?:'s|s| is) (?:in|inside)|the (?:contents?|code))|"
        "(?:show|print|display)(?: me)? ⟦f\\d+⟧|(?:just|only)(?: explain)? the (?:[a-z]+ )?(?:functions?|"
        "class|method|loop|part|"
        "top|beginning|end)|(?:the|its) (?:first|second|third|last|main|other|next) (?:functions?|class|"
        "method|loop|part|half)|"
        "(?:output|results?) of|的(?:运行)?(?:输出|结果)"
    ),
    inputs=("*",),
    yields=True,
    check=_check_file,
    carry_out=_do_explain,
)


def _do_show(order: Order, bench: Bench) -> Report:
    (path,) = order.inputs
    found = yield from find_file(path, bench)
    if found is None:
        return tell_missing(path, bench)
    path = found
    if "n" in order.values:
        end = "tail" if "tail" in order.values else "head"
        command = f"{end} -n {order.values['n']} {quote(path)}"
    else:
        command = f"head -c 20000 {quote(path)}"
    result: Result = yield from bench.run(
        command, bench.say("Now I read it.", "现在我读它。"), f"Show {path}"
    )
    if not result.is_success:
        return (
            bench.say(f"I could not read `{path}`:", f"读不了 `{path}`：")
            + f"\n\n{result.outline()}"
        )
    if not result.output.strip():
        return bench.say(f"`{path}` is empty.", f"`{path}` 是空的。")
    return (
        bench.say(
            f"`{path}` begins with:" if len(result.output) > 1500 else f"This is in `{path}`:",
            f"`{path}` 的内容：",
        )
        + f"\n\n{result.outline()}"
    )


SHOW = Task(
    key="show",
    title=Text("the content of a file", "显示文件内容"),
    needs=(
        (
            "eyes? (?:on|over)|(?:up )?on (?:the |my )?screen|displayed|peek|glance|skim|pull up|bring up|"
            "cough(?:s)? up|spit out|dump|type out|paste|"
            "reveal|hand me|"
            "chuck me|瞧一?瞧|瞅一?瞅|瞄一?眼|亮出来|贴出来|念叨|"
            "show|shows|cat|print|open|read|display|view|see|head|tail|content|contents|what's in|what "
            "is in|what exactly is|rundown|what did i write|say|says|what is written|what's written|"
            "行是什么|行是啥|写了什么|写了些?啥|都写了些?什么|都写了些?啥|写的什么|"
            "写的啥|写了些什么|有啥|写着什么|output|give|"
            "let me see|look at|查看|显示|打开|读取|读|看看|看一下|看|打印|输出|内容"
        ),
        "(?=⟦f)",
    ),
    words=(
        f"{THIS_FILE}|{HERE}|contains?|does|says?|written|what|what's|is|inside|in|of|me|lines?|whole|entire|"
        f"complete|full|里|的|写了|"
        f"有|行|全部|完整|什么|是"
    ),
    parameters=(
        "(?:the )?(?:first|top) {n} lines(?: of)?|前{n}行",
        "(?P<tail>(?:the )?last {n} lines(?: of)?)|(?P<tail>(?:最后|末尾|后){n}行)",
    ),
    forbids=(
        "(?:just|only) (?:the|its) (?:comments?|functions?|[a-z]+ (?:part|half))|(?:just|only) (?:the|"
        "its) (?!file|contents?|whole|text|first|last|top)|how it was|(?:was|were) last|"
        "as of|at (?:commit|revision|version)|(?:from|since|before|of) (?:last|yesterday)\\b(?! \\d)|"
        "what (?:it|this|that|they|the (?:code|program|script|file)) (?:does|do|is (?:doing|for|about))|"
        "does(?! ⟦f\\d+⟧ say)|"
        "上周|昨天|以前|的样子|捋|讲|思路|原理|逻辑|说人话|"
        "功能|(?:output|results?) of|的(?:运行)?(?:输出|结果)|干什么|做什么|干嘛|干啥|做啥"
    ),
    inputs=("*",),
    check=_check_file,
    carry_out=_do_show,
)
