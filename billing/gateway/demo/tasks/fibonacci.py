"""The task of Fibonacci numbers."""

from dataclasses import replace

from billing.gateway.demo.order import Declined, Order, Task
from billing.gateway.demo.tasks.primes import PRIMES
from billing.gateway.demo.tasks.programs import (
    BELOW,
    SEPARATORS,
    UP_TO,
    Report,
    read_range,
    read_separator,
    refuse_number,
    write_and_run,
    write_text,
)
from billing.gateway.demo.workbench import Bench, Text

_FIBONACCI = '''"""Print {title}."""


def fibonacci({argument}):
    """Return a list with {what}."""
    numbers = []
    current, following = 0, 1
    while {condition}:
        numbers.append(current)
        current, following = following, current + following
    return numbers


if __name__ == "__main__":
    print(*fibonacci({value}), sep={separator!r})
'''
MAX_FIBONACCI = 1_000


def _check_fibonacci(order: Order) -> Order:
    span = read_range(order, default=20, most=10**9)
    if span.get("first", 1) > MAX_FIBONACCI:
        raise Declined(refuse_number(span["first"], MAX_FIBONACCI))
    if span.get("low") not in (None, 0, 1):
        raise Declined(
            Text("I list Fibonacci numbers only from the start.", "我只从头开始列出斐波那契数。")
        )
    return replace(order, values=order.values | {"span": span})


def _do_fibonacci(order: Order, bench: Bench) -> Report:
    span, separator = order.values["span"], read_separator(order)
    numbers: list[int] = []
    current, following = 0, 1
    while len(numbers) < span["first"] if "first" in span else current <= span["high"]:
        numbers.append(current)
        current, following = following, current + following
    if "first" in span:
        value = span["first"]
        title, chinese = f"the first {value} Fibonacci numbers", f"前 {value} 个斐波那契数"
        parts = {
            "argument": "count",
            "what": "the first `count` Fibonacci numbers",
            "condition": "len(numbers) < count",
        }
    else:
        value = span["high"]
        title, chinese = f"the Fibonacci numbers up to {value}", f"不超过 {value} 的斐波那契数"
        parts = {
            "argument": "limit",
            "what": "the Fibonacci numbers up to `limit`",
            "condition": "current <= limit",
        }
    text = separator.join(map(str, numbers))
    if order.output and not order.output.lower().endswith(".py"):
        listed = "\n".join(map(str, numbers)) + "\n"
        return (yield from write_text(order, bench, text=listed, about=Text(title, chinese)))
    program = _FIBONACCI.format(title=title, value=value, separator=separator, **parts)
    about = Text(f"it prints {title}", f"打印{chinese}")
    return (
        yield from write_and_run(
            order, bench, name="fibonacci.py", program=program, expected=text, about=about
        )
    )


FIBONACCI = Task(
    key="fibonacci",
    title=Text("a program that prints Fibonacci numbers", "打印斐波那契数列的程序"),
    needs=(
        (
            "(?:那个)?后一个数等于前(?:两|2)个数(?:之和|的和|相加)的?(?:那个)?(?:数列)?|"
            "(?:sequence|series|numbers?) where (?:every|each) number is the (?:two|2) before it added (?:together|up)|"
            "(?:rabbit|bunny) (?:sequence|series|numbers?|problem)|"
            "(?:sequence|series|numbers?|list) (?:where|in which) (?:every|each)(?: new| next)? "
            "(?:number|term|one|element|value) is the sum of the (?:two |2 )?(?:previous |last |preceding )?"
            "(?:two|2)?(?: numbers| terms| ones)?(?: before(?: it)?)?|"
            "(?:数列|序列)?[，,]?(?:每个数|每一项|每项|后一个数|后一项)(?:都)?(?:是|"
            "等于)(?:它)?前面?(?:两|二|2)(?:个数?|项)"
            "(?:之和|的和|相加|加起来)|兔子数列|rabbit numbers|(?:那个)?前两个数加起来等于(?:后|"
            "下)一个数的?(?:数列)?|fibonacc?i(?:'s)?|fibonnacc?i|fibbonacci|fib (?=numbers?|"
            "sequence|series)|斐波那契|"
            "(?:0[, ] ?)?1[, ] ?1[, ] ?2[, ] ?3[, ] ?5(?:[, ] ?8(?:[, ] ?13(?:[, ] ?21)?)?)?|"
            "斐波纳契|斐波拉契|费波那契|菲波那契|费氏"
        ),
    ),
    words=(
        f"(?:where|in which|with) (?:you|we|i) (?:keep )?add(?:ing)? (?:up )?the (?:last |previous )(?:2|two)"
        f"(?: numbers?)?(?: together)?(?: to get the next(?: one)?)?|{PRIMES.words}|sequence|series|"
        f"numbers?|terms?|elements?|members?|数列|序列|项|位|starting (?:at|"
        f"from|with) 0(?: and 1)?"
    ),
    parameters=(
        f"(?:{UP_TO}|with|for|to) {{n}} (?:terms?|numbers?|elements?|items|members|entries|values)",
        f"(?P<below>{BELOW}) {{m}}",
        f"(?:{UP_TO}|from (?:0|1) to) ?{{m}}",
        "(?P<below>小于|低于|少于|不到){m}",
        "(?:小于等于|不大于|不超过|直到){m}",
        "{m}(?:以内|之内|以下)",
        "(?:the )?(?:very )?(?:first|initial|opening) {n}",
        "{n} (?=fib|terms|numbers|elements)",
        "(?:前面?|头){n}(?:个|项|位)?",
        "{n} (?:pieces?|of (?:them|those|these))",
        "{n}(?:个|项|位)",
        *SEPARATORS,
    ),
    outputs=("py", "txt"),
    stems="^fib",
    check=_check_fibonacci,
    carry_out=_do_fibonacci,
)
