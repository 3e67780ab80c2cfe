"""The task of prime numbers: the first ones, or those of a range."""

from dataclasses import replace

from billing.gateway.demo.order import Declined, Order, Task
from billing.gateway.demo.tasks.programs import (
    BELOW,
    MAX_LIMIT,
    RANGES,
    SEPARATORS,
    UP_TO,
    Report,
    read_range,
    read_separator,
    write_and_run,
    write_text,
)
from billing.gateway.demo.workbench import Bench, Text


def find_primes(limit: int) -> list[int]:
    """Return the primes up to a limit, by the sieve of Eratosthenes."""
    is_prime = bytearray([1]) * (limit + 1)
    is_prime[:2] = bytes(min(2, limit + 1))
    for number in range(2, int(limit**0.5) + 1):
        if is_prime[number]:
            is_prime[number * number :: number] = bytes(
                len(range(number * number, limit + 1, number))
            )
    return [number for number, flag in enumerate(is_prime) if flag]


_FIRST_PRIMES = '''"""Print the first {first} prime numbers."""


def first_primes(count):
    """Return a list with the first `count` primes, found by trial division."""
    primes = []
    number = 2
    while len(primes) < count:
        # A number is prime if no smaller prime up to its square root divides it.
        for prime in primes:
            if prime * prime > number:
                primes.append(number)
                break
            if number % prime == 0:
                break
        else:
            primes.append(number)
        number += 1
    return primes


if __name__ == "__main__":
    print(*first_primes({first}), sep={separator!r})
'''
_RANGE_PRIMES = '''"""Print the prime numbers from {low} to {high}."""


def primes_up_to(limit):
    """Return a list with the primes up to and including `limit`, by the sieve of Eratosthenes."""
    is_prime = [False, False] + [True] * (limit - 1)
    for number in range(2, int(limit**0.5) + 1):
        if is_prime[number]:
            for multiple in range(number * number, limit + 1, number):
                is_prime[multiple] = False
    return [number for number in range(limit + 1) if is_prime[number]]


if __name__ == "__main__":
    print(*[prime for prime in primes_up_to({high}) if prime >= {low}], sep={separator!r})
'''


def _check_primes(order: Order) -> Order:
    span = read_range(order, default=20, most=MAX_LIMIT)
    if "sieve" in order.values and "first" in span:
        raise Declined(
            Text(
                ("I use the sieve only for primes up to a limit, not for the first N primes."),
                "只有求某个上限以内的素数时，我才用筛法。",
            )
        )
    return replace(order, values=order.values | {"span": span})


def _do_primes(order: Order, bench: Bench) -> Report:
    span, separator = order.values["span"], read_separator(order)
    if "first" in span:
        primes = find_primes(max(20, span["first"] * 14))[: span["first"]]
        program = _FIRST_PRIMES.format(first=span["first"], separator=separator)
        about = Text(
            f"it prints the first {span['first']} primes", f"打印前 {span['first']} 个素数"
        )
        listed = Text(f"the first {span['first']} primes", f"前 {span['first']} 个素数")
    else:
        low, high = span["low"] or 2, span["high"]
        primes = [prime for prime in find_primes(high) if prime >= low]
        program = _RANGE_PRIMES.format(low=low, high=high, separator=separator)
        about = Text(f"it prints the primes from {low} to {high}", f"打印 {low} 到 {high} 的素数")
        listed = Text(f"the primes from {low} to {high}", f"{low} 到 {high} 的素数")
    text = separator.join(map(str, primes))
    if order.output and not order.output.lower().endswith(".py"):
        return (
            yield from write_text(
                order, bench, text=text.replace(" ", "\n").replace(",\n", "\n") + "\n", about=listed
            )
        )
    return (
        yield from write_and_run(
            order, bench, name="primes.py", program=program, expected=text, about=about
        )
    )


PRIMES = Task(
    key="primes",
    title=Text("a program that prints prime numbers", "打印素数的程序"),
    needs=(
        (
            "numbers (?:that |which |what )?(?:nobody|no ?one|nothing) can (?:divide|split)(?: evenly)?|"
            "only divide by (?:themselves and 1|1 and themselves)|"
            "(?:numbers )?(?:that are |which are |that can be |which can be )?(?:only )?(?:divisible|"
            "divided) (?:only )?by "
            "(?:1|one) and (?:themselves|itself)|只能被(?:1|一)和(?:它)?(?:自己|自身|本身)整除的?数?|"
            "primes?(?: numbers?)?|prime[- ]numbers?|primenumbers?|素数|质数"
        ),
    ),
    words=(
        "check(?:s|ing)? (?:all|every|each|the) (?:of the )?numbers?|numbers?|numbers|list|lists|listing|"
        "all|all the|every|find|finds|finding|calculate|calculates|"
        "calculating|compute|computes|computing|determine|"
        "print|prints|printing|printed|output|outputs|outputting|outputs|return|returns|that|values?|"
        "sequence|series|what are|what're|which are|who|tool|"
        "display|displays|enumerate[sd]?|how about|efficient|efficiently|fast|starting (?:at|from|with) 2|screen|to "
        "the screen|(?:to )?stdout|generator|"
        "范围(?:是|为)?|打印|输出|列出|找出|求出|求|计算|找到|找|所有的?|全部的?|的|数字|列表|显示|哪些|"
        "数|清单|屏幕|到屏幕"
    ),
    parameters=(
        "(?P<either>(?:the )?sieve,? ?(?:or )?trial division)",
        "(?:numbers? )?{m} (?:or|and) (?:less|below|under|smaller|lower|fewer)",
        f"(?:{UP_TO}|with|for|to) {{n}} (?=primes?|prime numbers?)",
        *RANGES,
        f"(?:that are |which are |numbers? )*(?P<below>{BELOW})(?: the number)? {{m}}",
        f"(?:that are |which are |numbers? )*(?:{UP_TO})(?: the number)? ?{{m}}(?: \\(?inclusive\\)?)?",
        "(?:上限(?:为|是)?|小于等于|不大于|不超过|直到|最大(?:到|为)?|到|至){m}(?:为止|以内)*",
        "(?P<below>小于|低于|少于|不到|不足){m}",
        "{m}个?(?:数)?(?:以内|之内|以下|内|之前|为止)",
        "(?:maximum|max|limit)(?: is| of|:)? {m}|{m} (?:max|maximum)",
        "(?:the )?(?:very )?(?:first|initial|smallest|lowest) {n}|{n} (?:first|smallest)",
        "(?:前面?|最小的?|头|开头){n}个?",
        "{n} ?(?=primes?|prime numbers?|of them)",
        "{n}个",
        *SEPARATORS,
        (
            "(?P<sieve>(?:with|using|by|use)?(?: the| a)? ?sieve(?: of eratosthenes)?(?: algorithm| "
            "method)?|(?:用|使用)?(?:埃氏|埃拉托斯特尼)?筛法?)"
        ),
    ),
    forbids=(
        "(?:happy|lucky|good|cousin|safe|strong|weak|super|regular|long|full|home|cute|sexy|circular|balanced) primes?|"
        "the (?:next |last |first )?prime(?: number)? (?:before|below|under|after|above)|(?:adds?|tots?) "
        "(?:[a-z]+ )*?up|adding up|totting up|come to|"
        "有几个|几个[素质]数|多少个"
    ),
    outputs=("py", "txt"),
    stems="prime|素数|质数",
    check=_check_primes,
    carry_out=_do_primes,
)
