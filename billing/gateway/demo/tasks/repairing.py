"""The bug of the sample project: write a small project, run its tests, repair the bug and run the tests again."""

from collections.abc import Generator
from typing import Any

from billing.gateway.demo import vocabulary
from billing.gateway.demo.order import Order, Task
from billing.gateway.demo.tasks.programs import quote
from billing.gateway.demo.workbench import MATERIAL, Bench, Result, Text
from billing.gateway.script import Step

_WRONG = "return sum(price for name, price, quantity in self.lines)"
_RIGHT = "return sum(price * quantity for name, price, quantity in self.lines)"


def _do_repair(order: Order, bench: Bench) -> Generator[Step, Any, str]:
    yield from bench.plan(
        bench.say("Write the sample project", "写示例项目"),
        bench.say("Run its tests", "运行测试"),
        bench.say("Fix the bug", "修复错误"),
        bench.say("Run the tests again", "再次运行测试"),
    )
    yield from bench.look()
    folder = next(
        name
        for name in ("shop", *(f"shop_{n}" for n in range(2, 1_000)))
        if name not in bench.names
    )
    # `mkdir` fails if the folder exists, so that no other files are in it.
    made: Result = yield from bench.run(
        f"mkdir {folder}",
        bench.say("The sample project gets a new folder.", "示例项目放在一个新文件夹里。"),
        f"Make {folder}",
    )
    if not made.is_success:
        yield from bench.close_plan(0)
        return (
            bench.say((f"The folder `{folder}` could not be made:"), f"无法创建文件夹 `{folder}`：")
            + f"\n\n{made.outline()}"
        )
    bench.names, bench.has_folder = set(), True
    for path in sorted((MATERIAL / "shop").glob("*.*")):
        yield from bench.create(f"{folder}/{path.name}", path.read_text(encoding="utf-8"))
    text = bench.say("I run its tests.", "我运行它的测试。")
    before = yield from _run_tests(folder, text, bench)
    if before.is_success or "FAILED" not in before.output:
        yield from bench.close_plan(1)
        return (
            bench.say(
                ("The tests of the sample project did not run as they should:"),
                "示例项目的测试没有按预期运行：",
            )
            + f"\n\n{before.outline()}"
        )
    result: Result = yield from bench.call(
        bench.say(
            "A test fails: three apples for 50 must cost 150. `total` forgets the quantity, so I repair that line.",
            "有一个测试失败：三个 50 分的苹果应该是 150。`total` 忘了乘以数量，我修复这一行。",
        ),
        "Fix the bug",
        "file_editor",
        command="str_replace",
        path=f"{bench.cwd}/{folder}/basket.py",
        old_str=_WRONG,
        new_str=_RIGHT,
    )
    if "has been edited" not in result.raw:
        yield from bench.close_plan(2)
        return (
            bench.say("The file could not be edited:", "文件无法编辑：") + f"\n\n{result.outline()}"
        )
    after = yield from _run_tests(
        folder, bench.say("I run the tests again.", "我再次运行测试。"), bench
    )
    yield from bench.close_plan(None if after.is_success else 3)
    if not after.is_success:
        return (
            bench.say("After the repair the tests still fail:", "修复后测试仍然失败：")
            + f"\n\n{after.outline()}"
        )
    return bench.say(
        f"I wrote the sample project into `{folder}`. Its tests failed because `Basket.total` in "
        f"`{folder}/basket.py` did not multiply the price by "
        f"the quantity. I fixed that line, and all tests pass:\n\n{after.outline()}",
        f"我把示例项目写到了 `{folder}`。测试失败的原因是 `{folder}/basket.py` 里的 `Basket.total` "
        f"没有把价格乘以数量。"
        f"我修复了这一行，现在所有测试都通过：\n\n{after.outline()}",
    )


def _run_tests(folder: str, text: str, bench: Bench) -> Generator[Step, Any, Result]:
    for program in ("python3", "python"):
        result: Result = yield from bench.run(
            f"(cd {quote(folder)} && {program} -B -m unittest -v)", text, "Run the tests"
        )
        if result.exit_code != 127:
            break
    return result


REPAIR = Task(
    key="repair",
    title=Text("the bug of the sample project", "示例项目里的错误"),
    needs=(
        (
            "(?:comes?|came|ships?|shipped|included|bundled|delivered) with (?:it|this|the (?:demo|server|"
            "thing|tool|app)|you)|"
            "(?:you|this|the demo) (?:ship|ships|come|comes) with|provided|supplied|preinstalled|"
            "例子|sample|demo|example|bundled|built[- ]?in|included|sandbox's|示例|样例|演示|自带|内置|例子|示范"
        ),
        (
            "工程|样板|defects?|faults?|bugs?|repo(?:sitory)?|project|broken|failing|codebase|code base|app|"
            "debug(?:ging)?|错误|仓库|项目|"
            "测试|缺陷|bug|问题|漏洞|故障|代码库"
        ),
        (
            "rectify|remedy|fix(?:es|ing)?|repairs?|repairing|squash(?:es|ing)?|patch(?:es|ing)?(?: up)?|mend|"
            "sort (?:it |that )?out|put right|"
            "cure|heal|putting (?:it |that |this )?right|off|毛病|揪出来|修一?修|整好|弄好|搞好|bugs?|"
            "debug(?:ging)?|broken|failing|fails?|wrong|"
            "does not work|doesn't work|not working|correct|solve|"
            "resolve|错误|缺陷|bug|问题|漏洞|故障|修|改好|算错|调试|失败"
        ),
    ),
    words=(
        f"{vocabulary.PLAINLY}|squash(?:es|ing)?|patch(?:es|ing)?(?: (?:it )?up)?|mend|put (?:it )?right|"
        f"cure|heal|rectify|remedy|defects?|faults?|ship|"
        "(?:that |which )?(?:you|this|the demo) (?:ship|ships|come|comes|provide|provides|bring|brings|include|"
        "includes)(?: with| along)?|provided|supplied|preinstalled|pin (?:it )?down|nail|went wrong|"
        "揪出来?|修了|整好|弄好|搞好|跑不过|没过|不过|"
        "(?:which |that )?(?:comes?|came|ships?|shipped) with (?:it|this|the (?:demo|server|thing|tool|app)|you)|"
        "(?:that |which )?(?:comes|ships) (?:with|along)|(?:wrong|incorrect|bad|strange|odd) (?:numbers?|results?|"
        "totals?|values?|answers?|output)|returns?|gives?|track(?:ing|s)? (?:it )?down|hunt(?:ing)? (?:it )?down|"
        "(?:a bit |a little |something's |something is )*off|(?:doesn't|does not) (?:quite |really |"
        "actually )?do what it "
        "(?:says|should|is supposed to|claims|is meant to)(?: do)?(?: on the tin)?|putting (?:it|that|"
        "this) right|poke around|毛病|"
        "culprits?|root cause|sort (?:it|that) out|"
        "(?:in|with) (?:a few|a couple of|one or two|1 or 2|one or 2|\\d|one|"
        "some)(?: or \\d)?(?: to \\d)? (?:short |plain )?(?:sentences?|words|lines)|"
        "(?:check|confirm|verify|make sure|see|prove)(?: that| if| whether)? (?:it|they|everything|all|"
        "the tests?|the fix)"
        "(?: really| actually| now)? (?:works?|runs?|pass|passes)(?: now| again)?|what (?:was|is|went) wrong|"
        "where (?:it|the (?:bug|error|problem|mistake)) is|工程|样板|有个错|有错|出了错|跑出来|哪儿|哪里|"
        "code base|挂了?|at least one|改好|改完|算错了?|有个地方|过不去|找出来|例子|fails?|failed|wrong|"
        "what's wrong|"
        "what is wrong|why|does not work|doesn't work|not working|won't run|crashes|"
        "crashing|red|green|一直过不了|过不了|跑不通|不通过|通不过|没通过|跑不起来|运行不了|运行不通|"
        "坏了?|修一下|修修|修下|"
        "好像|出错|报错|不对|哪里不对|哪里错了|take|project's|repo's|repository's|sample|demo|example|"
        "bundled|built[- ]?in|included|fix|"
        "fixes|fixing|fixed|repair|repairs|"
        "repairing|correct|solve|resolve|find|finds|finding|locate|debug|debugging|look for|spot|hunt|"
        "bugs?|error|errors|problem|issue|defect|failing|broken|tests?|test|passes|pass|"
        "repo|repository|repositories|project|code|codebase|shop|basket|one|that|its|with|from|run|"
        "again|make|all|the tests pass|until|you have|you know|comes with you|you come with|your|show "
        "how you|how you|demonstrate|explain|what was wrong|before and after|"
        "修复|修好|修|改正|解决|找出|找到|找|调试|排查|定位|错误|缺陷|问题|bug|测试|失败|通过|仓库|"
        "项目|代码|里|中|的|示例|样例|演示|自带|内置|那个|并|让|使|全部|直到|试试|捆绑|附带"
    ),
    forbids=(
        "(?:like|as) you (?:fix|did|do)|the same way|"
        "only (?:locate|find|show|tell|point)|hands off|(?:do not|don't|without) (?:fix|touch|repair|chang)[a-z]*|"
        "(?:add|make|create|write|explain|describe|introduce|insert)(?: me)? (?:an?|the|another|"
        "some) (?:new )?(?:bug|error|"
        "sample|example|demo)|(?:what|where) (?:is|are|was) the (?:bug|error|problem)s?"
    ),
    makes=True,
    carry_out=_do_repair,
)
