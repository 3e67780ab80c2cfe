"""Small functions in Python that the demo model knows: it writes one with its checks, and runs the checks."""

from collections.abc import Generator
from functools import cache
from pathlib import Path
from typing import Any

from billing.gateway.demo.order import Order, Task
from billing.gateway.demo.tasks.examples import NUMBERS, PAIR, WORDS, check_examples, write_examples
from billing.gateway.demo.tasks.programs import quote
from billing.gateway.demo.workbench import Bench, Result, Text
from billing.gateway.script import Step

FOLDER = Path(__file__).parent.parent / "material" / "functions"
_WORDS = (
    "func|fn|def|gives?(?: it| that| them)? back|back|fill (?:it )?in|pls fill in|handles?|functions?|"
    "method|routine|helper|define|defines|that|takes?|accepts?|given|input|argument|"
    "parameter|returns?|returning|whether|if|or not|"
    "checks?|checking|tests?|testing|detects?|detect|determines?|tells?|finds?|computes?|calculates?|"
    "print|prints|examples?|with (?:some )?(?:unit )?(?:tests|examples|checks|asserts?)|"
    "with (?:a )?few examples|together with|including tests|"
    "(?:with |plus |and |show )*(?:an?|one|1|2|2 or 3|some|a few|a couple of) (?:sample|demo|example|test)s?"
    " ?(?:invocations?|calls?|runs?|usages?|uses?)?|thingy|"
    "says?|telling|reports?|counter|算|求|函数|方法|判断|检查|检测|计算|求|是否|是不是|为|的|返回|输入|"
    "传入|接收|给定|打印|输出|能|可以|"
    "示例|例子|带测试|并测试|测试|加上?测试|附带测试"
)


@cache
def _read(name: str) -> str:
    return (FOLDER / f"{name}.py").read_text(encoding="utf-8")


def _do_function(order: Order, bench: Bench) -> Generator[Step, Any, str]:
    name = order.task.key
    name_asked = order.output or f"{name}.py"
    yield from bench.plan(
        bench.say("Look around", "查看工作目录"),
        bench.say(f"Write {name_asked}", f"写 {name_asked}"),
        *([bench.say("Run its checks", "运行检查")] if order.is_run else []),
    )
    yield from bench.look(name_asked.rpartition("/")[0])
    end = '    print("All checks passed.")\n'
    program = _read(name).replace(end, write_examples(order) + end)
    path = yield from bench.create(name_asked, program)
    title = order.task.title
    written = bench.say(
        f"I wrote `{path}`: {title.english}.{bench.tell_name(name_asked, path)}",
        f"我写了 `{path}`：{title.chinese}。{bench.tell_name(name_asked, path)}",
    )
    if not order.is_run:
        yield from bench.close_plan()
        return written + bench.say(
            " I did not run it, as you asked.", " 按你的要求，我没有运行它。"
        )
    result: Result = yield from bench.run_python(
        quote(path),
        bench.say("It contains checks, so I run it.", "文件里有检查，我运行它。"),
        f"Run {path}",
    )
    is_right = result.is_success and result.output.rstrip().endswith("All checks passed.")
    yield from bench.close_plan(None if is_right else 2)
    if is_right:
        return written + bench.say(
            f" Its checks pass:\n\n{result.outline()}", f" 检查全部通过：\n\n{result.outline()}"
        )
    return written + bench.say(
        f" But its checks fail (exit code {result.exit_code}):\n\n{result.outline()}",
        f" 但是检查没有通过（退出码 {result.exit_code}）：\n\n{result.outline()}",
    )


def _make(
    key: str,
    english: str,
    chinese: str,
    *needs: str,
    words: str = "",
    stems: str = "",
    parameters: tuple[str, ...] = (),
    forbids: str = "every|each|all|per|每个|所有|全部",
) -> Task:
    return Task(
        key=key,
        title=Text(english, chinese),
        needs=needs,
        words=f"{_WORDS}|{words}" if words else _WORDS,
        parameters=parameters,
        max_texts=2 if parameters == WORDS else 0,
        check=check_examples if parameters else None,
        outputs=("py",),
        stems=stems or f"^{key}$",
        forbids=forbids,
        carry_out=_do_function,
    )


FUNCTIONS = (
    _make(
        "is_prime",
        "a function that checks whether a number is prime",
        "判断一个数是不是素数的函数",
        "prime|素数|质数",
        (
            "checks?|checking|check|tests? (?:if|whether)|whether|is prime|is a prime|if a|if the|if|"
            "determines?|checker|function|judge|判断|是否|检测|检查|是不是|函数"
        ),
        words="numbers?|integers?|numbers|given|checker|a prime|primality|整数|数字|一个数|数",
    ),
    _make(
        "reverse_string",
        "a function that reverses a string",
        "反转字符串的函数",
        "turns? (?:an? |the |any |my )?(?:strings?|words?|texts?) (?:a?round|about)|last letter first|"
        "end to beginning|首尾颠倒|从尾到头|"
        "revers(?:e|es|ing|al)|backwards?|back to front|flips?|反过来|翻过来|倒着|反着|反转|翻转|倒序|"
        "颠倒|逆序|倒过来|逆转",
        "strings?|texts?|words?|sentences?|字符串|文本|单词|字符",
        words=(
            "reverse_string(?:\\([a-z]+\\))?|turns?|turning|spells?|characters?|letters?|order|"
            "the order of|变|成|写"
        ),
        forbids="word order|order of (?:the )?words?|every|each|all|per|words|每个|所有|全部",
        parameters=WORDS,
    ),
    _make(
        "palindrome",
        ("a function that checks whether a text is a palindrome"),
        "判断回文的函数",
        (
            "is[_-]palindrome|same (?:when )?(?:read )?backwards?|palindromes?|palindromic|(?:reads?|"
            "spelled|spelt|is|are|"
            "be|looks?)? ?(?:the )?same (?:from |in |on )?(?:both "
            "(?:sides?|ways|directions|ends)|(?:forwards?|front) (?:and|as|or) (?:backwards?|back)|"
            "backwards? (?:and|as|or) "
            "forwards?)|正(?:着|过来)?读?(?:和|跟|与)?[倒反](?:着|过来)?读?(?:都|是)*一样的?|回文"
        ),
        forbids="numbers?|integers?|数字|整数",
        parameters=WORDS,
        words=(
            "reads?|same|is_palindrome(?:\\([a-z]+\\))?|(?:ignor(?:e|es|ing)|regardless of|"
            "no matter the) (?:the )?(?:upper[- ]?(?:and |or |/)?lower[- ]?)?(?:case|spaces|"
            "punctuation)(?:(?:,| and| or)+ (?:case|spaces|punctuation))*|case[- ]insensitive(?:ly)?|"
            "(?:忽略|不区分|不管|不考虑)(?:大小写|空格|标点)(?:(?:和|、)(?:大小写|空格|"
            "标点))*(?:就更好了?)?|正着读?|倒着读?|反着读?|读|一样|是不是|和|"
            "(?:they )?(?:always )?asks?(?: about)?|for|strings?|texts?|words?|checker|phrases?|字符串|"
            "文本|单词|数"
        ),
    ),
    _make(
        "factorial",
        "a function that computes the factorial of a number",
        "计算阶乘的函数",
        "factorials?|阶乘|n!|\\d{1,3}! ?= ?\\d{1,20}(?=.*(?:any number|python|function))",
        words=(
            "factorial(?:\\([a-z]+\\))?|iterative(?:ly)?|(?:raises?|raising|throws?) (?:a |"
            "an )?valueerror|(?:when|if|for) (?:n|it|the number|the input|number)(?: is|'s)?(?: a)?|"
            "negative|numbers?|integers?|of a number|calculator|any|how do i make python do that|n|的|"
            "整数|数字|数|多少"
        ),
        parameters=NUMBERS,
    ),
    _make(
        "count_vowels",
        ("a function that counts the vowels of a text"),
        "统计元音字母的函数",
        "vowels?|count_vowels|元音",
        "counts?|counter|count_vowels|counting|how many|number of|统计|数|多少|个数|计数",
        words=(
            "count_vowels(?:\\([a-z]+\\))?|(?:upper|lower)[- ]?case|both cases|strings?|texts?|words?|"
            "letters?|sentences?|phrases?|has|字符串|文本|单词|字母|句子|一句话|字"
        ),
        parameters=WORDS,
    ),
    _make(
        "greatest_common_divisor",
        "a function that computes the greatest common divisor of two numbers",
        "求最大公约数的函数",
        "(?:greatest|biggest|largest) common (?:divisors?|factors?)|highest common factor|gcd|最大公约数|"
        "最大公因数",
        words="numbers?|integers?|2|of 2|两|个|整数|数字|数",
        parameters=(*NUMBERS, PAIR),
    ),
    _make(
        "leap_year",
        ("a function that checks whether a year is a leap year"),
        "判断闰年的函数",
        "leap[ -]?years?|is (?:a )?leap|闰年",
        words="checker|years?|年份|年",
        parameters=NUMBERS,
    ),
    _make(
        "temperature",
        "functions that convert Celsius to Fahrenheit and back",
        "摄氏度和华氏度互相转换的函数",
        "celsius|centigrade|摄氏度?",
        "fahrenheit|华氏度?",
        words=(
            "(?:and )?(?:the )?other way (?:a)?round|转|"
            "temperatures?|convert(?:s|er|ing|or)?|conversion|degrees?|between|back|vice versa|from|温度|"
            "转换|互转|转为|转成|换算|互相|度|到|器|相互"
        ),
    ),
    _make(
        "bubble_sort",
        "a function that sorts a list by bubble sort",
        "冒泡排序函数",
        "bubble[ -]?sort(?:s|ing)?|冒泡(?:排序)?",
        words="algorithm|lists?|arrays?|numbers?|sorts?|sorting|integers|算法|排序|列表|数组|数字",
    ),
    _make(
        "binary_search",
        "a function that finds a value in a sorted list by binary search",
        "二分查找函数",
        "binary[ -]?search(?:es|ing)?|二分(?:查找|搜索|法)?",
        words="algorithm|lists?|sorted|arrays?|numbers?|values?|算法|有序|列表|数组|查找",
    ),
)
