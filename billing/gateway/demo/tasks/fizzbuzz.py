"""The task FizzBuzz, with its usual rules."""

import re
from dataclasses import replace

from billing.gateway.demo.order import Declined, Order, Task
from billing.gateway.demo.tasks.programs import (
    BELOW,
    MAX_COUNT,
    RANGES,
    SEPARATORS,
    UP_TO,
    Report,
    read_range,
    write_and_run,
    write_text,
)
from billing.gateway.demo.workbench import Bench, Text

_FIZZBUZZ = '''"""Play FizzBuzz with the numbers from {low} to {high}."""


def fizzbuzz(number):
    """Return "Fizz" for multiples of 3, "Buzz" for multiples of 5, "FizzBuzz" for both, else the number."""
    word = ("Fizz" if number % 3 == 0 else "") + ("Buzz" if number % 5 == 0 else "")
    return word or str(number)


if __name__ == "__main__":
    for number in range({low}, {high} + 1):
        print(fizzbuzz(number))
'''


def _say_fizzbuzz(number: int) -> str:
    return ("Fizz" * (number % 3 == 0) + "Buzz" * (number % 5 == 0)) or str(number)


def _check_fizzbuzz(order: Order) -> Order:
    words = "".join(order.texts).lower().replace(" ", "").replace("!", "")
    text = order.reading.text
    for index, quoted in enumerate(order.reading.texts):
        text = text.replace(f"⟦t{index}⟧", quoted.lower())
    plain = _without_both(text)
    swapped = [
        pair
        for pair in (("buzz", "fizz"), ("5", "3"))
        if 0 <= plain.find(pair[0]) < plain.find(pair[1])
    ]
    if words.replace("fizz", "").replace("buzz", "") or swapped:
        raise Declined(
            Text(
                "I know FizzBuzz only with its usual rules: Fizz for 3, Buzz for 5.",
                ("我只会标准规则的 FizzBuzz：3 的倍数是 Fizz，5 的倍数是 Buzz。"),
            )
        )
    span = read_range(order, default=100, most=MAX_COUNT)
    low, high = (1, span["first"]) if "first" in span else (span["low"] or 1, span["high"])
    return replace(order, values=order.values | {"span": (low, high)})


def _without_both(text: str) -> str:
    text = re.sub(r"fizz[ -]?buzz", " ", text)
    return re.sub(r"(?:3|15)(?: and | & |和|与)5|15|\d{2,}|\b1\b", " ", text)


def _do_fizzbuzz(order: Order, bench: Bench) -> Report:
    low, high = order.values["span"]
    program = _FIZZBUZZ.format(low=low, high=high)
    expected = "\n".join(map(_say_fizzbuzz, range(low, high + 1)))
    about = Text(f"FizzBuzz from {low} to {high}", f"{low} 到 {high} 的 FizzBuzz")
    if order.output and not order.output.lower().endswith(".py"):
        return (yield from write_text(order, bench, text=expected + "\n", about=about))
    return (
        yield from write_and_run(
            order, bench, name="fizzbuzz.py", program=program, expected=expected, about=about
        )
    )


_MULTIPLES = (
    "(?:all |any |each |every |if |when |the |a |is |are |it's |that are |numbers? )*(?:multiples? of|"
    "divisible by|(?:can be )?divided by)(?: both)?"
)
FIZZBUZZ = Task(
    key="fizzbuzz",
    title=Text("FizzBuzz", "FizzBuzz"),
    needs=("fizz[ -]?buzz(?:es)?|fizz(?=.*buzz)|菲兹巴兹",),
    words=(
        "(?:3|5|15) says? (?:fizz|buzz|both)|that way|drinking game|"
        "fizz on (?:the )?(?:threes|3s?)|buzz on (?:the )?(?:fives|5s?)|threes|fives|children's|"
        "(?:sit(?:ting)?|go(?:ing)?|count(?:ing)?) (?:a)?round (?:the|a) (?:table|circle)|"
        "(?:swap(?:s|ping)?|turn(?:s|ing)?|switch(?:es|ing)?) (?:the |every |all )*(?:threes|3s) (?:for|"
        "into|with|by) fizz"
        "(?:,? and)?(?: the)? (?:fives|5s) (?:for|into|with|by) buzz|count up|俩都占|都占|两个都占|"
        "就?一块儿?喊|从(?=1数到)|1数到|(?:an? )?version|going to|"
        "riddle|brain ?teaser|silly|good old|3(?:-| )and(?:-| )5|i was asked|fizz|buzz|classic|famous|"
        "standard|well[- ]known|usual|traditional|game|problem|"
        "challenge|puzzle|exercise|kata|interview|solution|solve|solves|solving|version|"
        "numbers?|print|prints|printing|play|plays|playing|loop|loops|counting|count|counts|outputs?|"
        "rules?|list|replace|replaces|replaced|instead|instead of|"
        "number|both|otherwise|else|if|when|or|all|each|every|the number itself|itself|programming|"
        f"{_MULTIPLES} (?:3s? (?:and|&|or) 5s?|3|5|15)|"
        "(?:should|must|will) (?:be|become|print|say)|multiples of both|divisible by both|(?:fizz|"
        "buzz)(?: for| on| if| when| at| every|,|:| =| ->| =>)* ?(?:all |the |every |multiples of )*(?:3|"
        "5|15)s?|"
        "同时是|同时满足|两者都是|(?:逢|遇到?|碰到)(?:[35三五]|15)(?:的?倍数)?(?:就)?(?:报|说|喊|输出|"
        "打印|显示|写)?|报|喊|数数|"
        "(?:(?:they|people|interviewers?) )?(?:always |often )?(?:asks?|asked)(?: me| us)?(?: for)?|"
        "(?:能|可以)?(?:同时)?(?:被)?(?:3和5|3与5|15|3|5)(?:的)?(?:公?倍数|整除)(?:的)?(?:数字?)?|"
        "范围|经典的?|著名的?|游戏|题目|题|打印|输出|数字|的|如果|遇到|则|否则|替换|代替|其他|其余|原样|数|"
        "从|所有|规则|面试|练习|写|问题|时|倍数"
    ),
    parameters=(
        *RANGES,
        f"(?P<below>{BELOW}) {{m}}",
        f"(?:{UP_TO}|to|for) ?{{m}}(?: numbers?)?",
        "(?:小于等于|不大于|不超过|直到|最大(?:到|为)?|到|至){m}(?:为止|以内)*",
        "{m}(?:以内|之内|以下)",
        "(?:the )?(?:first|initial) {n}(?: numbers?)?",
        "{n} (?:numbers?|lines?|rounds|values|steps|entries|items)",
        "前{n}个?|{n}个数?",
        *SEPARATORS[:1],
    ),
    forbids="几次|次数|how (?:many|often)|"
    "只(?:要|打印|输出|显示|看|保留|列)(?=.{0,3}(?:fizz|buzz))|only (?:the )?(?:fizz|buzz)(?:es)?(?![a-z])",
    outputs=("py", "txt"),
    max_texts=4,
    stems="fizz",
    check=_check_fizzbuzz,
    carry_out=_do_fizzbuzz,
)
