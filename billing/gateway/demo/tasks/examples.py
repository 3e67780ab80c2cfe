"""Examples that a request for a small function gives: "hello -> olleh", "for 5 and 10", "2024 yes 2023 no".

An example with a result must be right, or the request is declined; all examples become lines of the program.
"""

import math
import re
from collections.abc import Callable
from typing import Any

from billing.gateway.demo import wording
from billing.gateway.demo.order import Declined, Order
from billing.gateway.demo.workbench import Text

MAX_NUMBER = 1_000
_WORD = (
    r"(?:⟦t\d+⟧|(?!(?:and|or|it|that|this|the|an?|to|which|function|string|word|text|back|you|me|in|of|"
    r"for)\b)[a-z]{1,30})"
)
_LEAD = r"(?:(?:for |an )?examples?|for instance|e\.g\.|eg|like|such as|比如说?|例如|像|譬如)[:：,，]? ?"
_TRY = (
    r"(?:(?:please |then |and |also )*(?:test|tested|try|run|call|show|"
    r"demonstrate)(?: it)?(?: out)? (?:with|for|on)"
    r"|(?:show|give|print|tell)(?: me)? (?:the |its )?(?:results?|output|answer|value) (?:for|of|with)"
    rf"|{_LEAD}|(?:再|并|然后|顺便|最后)*(?:用|算|计算|测试|试|求)(?:一?下|出)?)"
)
WORDS = (
    rf"(?:{_LEAD})?(?P<input>{_WORD}) ?(?:->|=>|→|becomes|gives|变成|变为|得到) ?(?P<output>{_WORD})",
    rf"(?:{_LEAD})?(?P<input>{_WORD}) (?:has|=|->|=>) ?(?P<output>\d{{1,3}})(?: vowels)?",
    r"(?:in|of|for) (?P<inputs>⟦t\d+⟧)",
    (
        rf"(?:{_LEAD}|{_TRY} ?)(?P<inputs>{_WORD}(?:(?:,| or| and|, and|、|和|"
        rf"或者?) ?{_WORD})*)(?= ?[,.;:!?，。；！？¦]|$)"
    ),
)
"""Patterns of examples of a function of a text."""
NUMBERS = (
    r"(?P<input>\d{1,4})! ?(?:=|->|is) ?(?P<output>\d{1,20})",
    r"(?P<yes>\d{4}) ?(?:->|=>|:|is)? ?(?:yes|true|是)[, ]*(?P<no>\d{4}) ?(?:->|=>|:|is)? ?(?:no|false|不是)",
    (
        r"(?:compute|calculate|like|for|of|work out|do|算)? ?(?P<numbers>\d{1,2})! ?(?:thing|and the like)?(?=[ .,]|$)|"
        rf"{_TRY} ?(?P<numbers>\d{{1,4}}(?:(?:,| or| and|, and|、|和|跟) ?\d{{1,4}})*)(?:的阶乘|"
        rf"的最大公约数)?(?:是多少|等于多少)?"
    ),
)
"""Patterns of examples of a function of numbers."""
PAIR = (
    r"(?:of|for|try|test|with|求|算|试)(?: it)?(?: with| on)?(?: the numbers)? ?"
    r"(?P<numbers>\d{1,9}(?: and | with |, ?|和|跟|与)\d{1,9})"
)
"""The pattern of an example of a function of two numbers."""
CALLS: dict[str, tuple[str, Callable[..., Any]]] = {
    "reverse_string": ("reverse_string", lambda text: text[::-1]),
    "palindrome": ("is_palindrome", lambda text: _letters(text) == _letters(text)[::-1]),
    "count_vowels": (
        "count_vowels",
        lambda text: sum(letter in "aeiou" for letter in text.lower()),
    ),
    "factorial": ("factorial", math.factorial),
    "leap_year": (
        "is_leap_year",
        lambda year: year % 4 == 0 and (year % 100 != 0 or year % 400 == 0),
    ),
    "greatest_common_divisor": ("greatest_common_divisor", math.gcd),
}
"""The functions that take examples, by the key of their task: name in the program, and what it must return."""


def check_examples(order: Order) -> Order:
    """Raise ``Declined`` for an example that is not right."""
    languages = wording.read_group("# Languages and programs", "other_work")
    for arguments, result in _find(order):
        _, compute = CALLS[order.task.key]
        if isinstance(arguments[0], str) and arguments[0].lower() in languages:
            raise _decline(arguments[0])  # "in Kotlin" is no example
        if result is not None and compute(*arguments) != result:
            raise _decline(", ".join(map(str, arguments)))
    return order


def write_examples(order: Order) -> str:
    """Return the lines of a program that print the examples of a request."""
    if order.task.key not in CALLS:
        return ""
    name, _ = CALLS[order.task.key]
    lines = []
    for arguments, _ in _find(order):
        call = f"{name}({', '.join(map(repr, arguments))})"
        lines.append(f'    print({call!r}, "=", {call})\n')
    return "".join(lines)


def _find(order: Order) -> list[tuple[tuple[Any, ...], Any]]:
    """Return the examples of an order, as (arguments, result or None)."""
    values, key = order.values, order.task.key

    def text(word: str) -> str:
        return order.reading.texts[int(word[2:-1])] if word.startswith("⟦") else word

    found: list[tuple[tuple[Any, ...], Any]] = []
    if "input" in values:
        word, result = values["input"], values["output"]
        if word.isdigit():
            found.append(((int(word),), int(result)))
        else:
            found.append(((text(word),), int(result) if result.isdigit() else text(result)))
    if "inputs" in values:
        words = re.findall(rf"(?<![a-z])(?!(?:or|and)\b){_WORD}", values["inputs"])
        found += [((text(word),), None) for word in words]
    if "yes" in values:
        found += [((int(values["yes"]),), True), ((int(values["no"]),), False)]
    if "numbers" in values:
        numbers = [int(number) for number in re.findall(r"\d+", values["numbers"])]
        if max(numbers) > MAX_NUMBER and key == "factorial":
            raise _decline(str(max(numbers)))
        if key == "greatest_common_divisor":
            if len(numbers) != 2:
                raise _decline(values["numbers"])
            found.append((tuple(numbers), None))
        else:
            found += [((number,), None) for number in numbers]
    return found


def _letters(text: str) -> list[str]:
    return [character for character in text.casefold() if character.isalnum()]


def _decline(example: str) -> Declined:
    return Declined(
        Text(
            f"The example “{example}” does not fit the function that I know.",
            f"“{example}”这个例子与我会的函数不符。",
        )
    )
