"""The summary of CSV files, computed by a helper program or by a script that stays in the working directory."""

from collections.abc import Generator
from dataclasses import replace
from typing import Any

from billing.gateway.demo import vocabulary
from billing.gateway.demo.order import Declined, Order, Task
from billing.gateway.demo.tasks.files import tell_missing
from billing.gateway.demo.tasks.programs import quote
from billing.gateway.demo.workbench import MATERIAL, Bench, Result, Text
from billing.gateway.script import Step

MAX_FILES = 5


def _check_csv(order: Order) -> Order:
    is_script = "script" in order.values or (order.output or "").endswith(".py")
    if order.output and not order.output.endswith((".py", ".txt", ".md")):
        raise Declined(
            Text(
                f"I cannot write the summary to `{order.output}`.",
                f"我不能把摘要写到 `{order.output}`。",
            )
        )
    return replace(order, values=order.values | {"is_script": is_script})


def _do_csv(order: Order, bench: Bench) -> Generator[Step, Any, str]:
    is_script = order.values["is_script"]
    script = (order.output if is_script else None) or "csv_summary.py"
    yield from bench.plan(
        bench.say("Find the data", "找到数据"),
        bench.say("Summarize it", "做摘要"),
        *(
            [bench.say(f"Write {order.output}", f"写 {order.output}")]
            if order.output and not is_script
            else []
        ),
    )
    yield from bench.look((order.output or "").rpartition("/")[0])
    paths = list(order.inputs)
    note = ""
    if paths:
        for path in paths:
            found: Result = yield from bench.run(
                f"test -f {quote(path)} && test ! -L {quote(path)}",
                bench.say(f"Is `{path}` there?", f"`{path}` 在吗？"),
                "Look for the file",
            )
            if not found.is_success:
                yield from bench.close_plan(0)
                return tell_missing(path, bench)
    else:
        found = yield from bench.run(
            "find . -maxdepth 1 -type f -iname '*.csv' | sort",
            bench.say("Which CSV files are here?", "这里有哪些 CSV 文件？"),
            "Look for CSV files",
        )
        paths = [
            line.removeprefix("./") for line in found.output.splitlines() if line.startswith("./")
        ]
        if len(paths) > MAX_FILES:
            yield from bench.close_plan(0)
            return (
                bench.say(
                    (f"There are {len(paths)} CSV files here. Name one of them, please."),
                    f"这里有 {len(paths)} 个 CSV 文件，请写出其中一个的名字。",
                )
                + f"\n\n{found.outline()}"
            )
        if not paths:
            sample = (MATERIAL / "sample.csv").read_text(encoding="utf-8")
            folder = (order.output or "").rpartition("/")[0]
            if folder:
                yield from bench.look()
            path = yield from bench.create(
                "sample.csv",
                sample,
                bench.say(
                    ("There is no CSV file here, so I make a small sample."),
                    "这里没有 CSV 文件，所以我做一个小样本。",
                ),
            )
            paths = [path]
            note = bench.say(
                (
                    f"There was no CSV file here, so I made a small sample, `{path}`, and summarized that. "
                ),
                f"这里没有 CSV 文件，所以我做了一个小样本 `{path}`，摘要是它的。",
            )
    arguments = " ".join(map(quote, paths))
    run = bench.say("Now I summarize the data.", "现在我做摘要。")
    written = ""
    if is_script:
        path = yield from bench.create(
            script, (MATERIAL / "summarize_csv.py").read_text(encoding="utf-8")
        )
        written = bench.say(
            (f"I wrote the script `{path}`.{bench.tell_name(script, path)} "),
            f"我写了脚本 `{path}`。{bench.tell_name(script, path)} ",
        )
        if not order.is_run:
            yield from bench.close_plan()
            return (
                note
                + written
                + bench.say("I did not run it, as you asked.", "按你的要求，我没有运行它。")
            )
        result: Result = yield from bench.run_python(
            f"{quote(path)} {arguments}", run, "Summarize the data"
        )
    else:
        result = yield from bench.measure("summarize_csv.py", arguments, run, "Summarize the data")
    if not result.is_success:
        yield from bench.close_plan(1)
        return (
            note
            + written
            + bench.say("The summary failed:", "摘要失败了：")
            + f"\n\n{result.outline()}"
        )
    if order.output and not is_script:
        path = yield from bench.create(order.output, result.output + "\n")
        written = bench.say(
            (f"I wrote the summary to `{path}`.{bench.tell_name(order.output, path)} "),
            f"我把摘要写到了 `{path}`。{bench.tell_name(order.output, path)} ",
        )
    yield from bench.close_plan()
    return note + written + bench.say("The summary:", "摘要：") + f"\n\n{result.outline()}"


def _check_named(order: Order) -> Order:
    if not order.inputs and "csv" not in order.reading.text and "表格" not in order.reading.text:
        raise Declined
    return _check_csv(order)


CSV = Task(
    key="csv",
    title=Text("a summary of a CSV file", "CSV 文件的摘要"),
    needs=(
        "csv|csvs|(?=⟦f)|表格",
        (
            "brief(?: me)?(?: on)?|crunch|digest|boil (?:it |this )?down|rundown|tl;?dr|breakdown|break "
            "(?:it |this )?down|"
            "basics|size up|"
            "peek|glance|eyeball|dig into|make sense of|lowdown|gist|numbers|figures|avg|about|瞧瞧|瞅瞅|瞧一?眼|"
            "看一?眼|过一遍|梳理|捋|盘点|"
            "summar(?:y|ies)|summari[sz]e[sd]?|summari[sz]ing|analy[sz]e[sd]?|analysis|analyzing|"
            "analysing|statistics|statistical|stats|overview|describe|description|explore|profile|"
            "insights?|report|columns?|rows?|look|what's in(?:side)?|what is in(?:side)?|tell|explain|"
            "情况|how big|contains?|averages?|means?|minimum|maximum|min|max|what do (?:i|we) have|平均值?|"
            "均值|最大|最小|算|啥|多少|"
            "统计|汇总|总结|分析|概括|摘要|"
            "概要|概述|描述|看看|什么|列|行|报告"
        ),
    ),
    words=(
        "说说|讲讲|念叨|看看|"
        f"brief(?: me)?(?: on)?|{vocabulary.PLAINLY}|(?:take|apart|takes?)|crunch|digest|boil down|rundown|breakdown|"
        f"break down|basics|size up|dig into|avg|"
        "make sense of|numbers in it|basic numbers|gist|"
        "csv|data|datas|dataset|data set|table|file|files|spreadsheet|content|contents|summary|"
        "summari[sz]e|statistics|stats|analysis|columns?|rows?|each|every|all|per|what|what's|is|are|"
        "about|inside|tell|me|short|brief|quick|basic|key|main|"
        "statistical|descriptive|overview|report|counts?|count|number of|how many|mean|means|average|"
        "averages|median|min|minimum|max|maximum|sum|sums|totals?|missing values|missing|empty cells|"
        "range|ranges|types?|load|loads|read|reads|reading|parse|parses|opens?|takes?|process|compute|"
        "computes|calculate|calculates|find|finds|show|print|prints|that|from|"
        "(?:column|field|header) names|names of (?:the |all |all the )?(?:columns|fields)|headers?|fields|"
        "quick look|first look|at a glance|whatever is numeric|(?:everything|anything) numeric|"
        "numeric (?:columns?|ones|fields|values)|数字列|数值列|列名|表头|字段|字段名|都有哪些列|一共|总共|"
        "numbers|figures|stuff|average values?|mean values?|average of each column|smallest|largest|"
        "lowest|highest|numeric|"
        "check|min ?/ ?max|max ?/ ?min|big|large|size|looks? like|sent|如何|怎么样|条|几条|记录|"
        "这?张?表里?|算算|算一算|算一下|"
        "算下|算|啥|有啥|平均数|"
        "最大最小值?|最高|最低|几行|几列|每行|数值|csv|数据|表格|文件|内容|统计|汇总|总结|分析|概括|摘要|"
        "概要|信息|列|行|每列?|每一列|各列|数|"
        "多少|平均值|平均|均值|中位数|最大值?|最小值?|总和|缺失值|类型|"
        "基本|读取|读|情况|里|有|一下|的|结果|数据集|报告|描述性?|计算|打印|是|什么"
    ),
    forbids=(
        "(?:add|insert|append|put|write|create|make) (?:a |an |the |one |another |new )*(?:rows?|columns?|lines?|"
        "records?)|per (?!columns?|fields?|numeric)[a-z]+|(?:each|every|by) (?:months?|years?|days?|"
        "weeks?|hours?|quarters?)|"
        "(?:which|what) (?:columns?|rows?) (?:has|is|are)|最[大小高低多少]的?是?哪|explain what|"
        "what (?:is )?an? csv|people|persons?|who|whose|加一?行|加一?列|新增|谁"
    ),
    parameters=(
        "(?P<script>(?:python )?(?:script|program|programme|code|tool)|python脚本|脚本|程序|代码)",
    ),
    inputs=("csv", "tsv"),
    max_inputs=MAX_FILES,
    may_ask=True,
    outputs=("py", "txt", "md"),
    check=_check_named,
    carry_out=_do_csv,
)
