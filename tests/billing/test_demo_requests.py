r"""The understanding of the demo model: a table of requests with their meanings.

The table is ``demo_requests.txt``: a request, ``=>``, and the task with its parameters, or ``words`` with the topic, or
``declined``. A line that begins with ``>>`` follows the request before it. ``\\n`` in a request is a line break.
"""

from pathlib import Path

import pytest

from billing.gateway.demo import wording
from billing.gateway.demo.catalogue import UNDERSTANDING
from billing.gateway.demo.offers import EXAMPLES
from billing.gateway.demo.order import Declined, Order
from billing.gateway.demo.tasks.examples import write_examples

TABLE = Path(__file__).with_name("demo_requests.txt").read_text(encoding="utf-8").splitlines()
_OWN = {
    *(
        "n",
        "m",
        "low",
        "below",
        "is_script",
        "is_exact",
        "span",
        "said",
        "hello",
        "term",
        "shell2",
        "folder",
    ),
    *("defined", "inputs", "numbers", "input", "output", "yes", "no"),
}


def understand(request: str, before: Order | None = None) -> Order | None:
    try:
        return UNDERSTANDING.understand(request, before=before)
    except Declined:
        return None


def tell(order: Order | None) -> str:
    """Return an order as the table writes it."""
    if order is None:
        return "declined"
    if not order.task.uses_tools:
        return f"words {order.task.key}"
    values = order.values
    parts = [order.task.key, *order.inputs]
    span = values.get("span")
    if isinstance(span, tuple):
        parts.append(f"{span[0]}..{span[1]}")
    elif span:
        first = (
            f"first {span['first']}" if "first" in span else f"{span['low'] or ''}..{span['high']}"
        )
        parts.append(first)
    elif "n" in values:
        parts.append(str(values["n"]))
    parts += [f"“{values[name]}”" for name in ("term",) if values.get(name)]
    parts += [f"for {values[name]}" for name in ("inputs", "numbers") if name in values]
    parts += [f"in {values['folder']}"] if values.get("folder") else []
    parts += sorted(name for name in values.keys() - _OWN if name != "text")
    parts += [f"“{values['text']}”"] if "text" in values else []
    parts += [f"-> {order.output}"] if order.output else []
    parts += [] if order.is_run else ["(not run)"]
    return " ".join(parts)


def read_table() -> list[tuple[str, str | None, str]]:
    """Return the rows as (request, the request before it, meaning)."""
    rows: list[tuple[str, str | None, str]] = []
    before: str | None = None
    for line in TABLE:
        if line.startswith("#") or not line.strip():
            continue
        request, _, meaning = line.replace("\\n", "\n").rpartition(" => ")
        if request.startswith(">> "):
            rows.append((request[3:], before, meaning))
        else:
            rows.append((request, None, meaning))
            before = request
    return rows


def test_requests_mean_what_the_table_says():
    rows = read_table()
    found = [
        (request, tell(understand(request, understand(before) if before else None)))
        for request, before, _ in rows
    ]
    assert found == [(request, meaning) for request, _, meaning in rows]


def test_every_example_is_a_task_in_both_languages():
    orders = [understand(text) for example in EXAMPLES for text in example.request]
    assert all(order and order.task.uses_tools for order in orders)
    english, chinese = orders[::2], orders[1::2]
    keys = [example.key for example in EXAMPLES]
    assert [o and o.task.key for o in english] == [o and o.task.key for o in chinese] == keys


@pytest.mark.parametrize("name", ["other_work", "other_work_chinese"])
def test_words_for_other_work_are_not_harmless(name):
    words = wording.read_words(name)
    harmless = wording.read_words("harmless_chinese") | wording.read_words("making_chinese")
    assert not [word for word in words if word in harmless or wording.is_harmless(word)]


def test_examples_of_a_function_become_lines_of_the_program():
    order = understand("factorial function in python, test with 5 and 7")
    assert write_examples(order).count("\n") == 2
    assert "factorial(7)" in write_examples(order)
    assert understand("write a function that reverses a string, example hello -> hello") is None


@pytest.mark.parametrize("change", [str.upper, str.title, lambda text: f"  {text} !!!  "])
def test_case_space_and_punctuation_do_not_matter(change):
    order = understand(change("print the first 12 primes"))
    assert tell(order).startswith("primes first 12")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    [
        "a/" * 9_000, "⟦f0⟧" * 4_000, "一" * 19_000, "two hundred " * 1_500, "```" * 6_000, '"' * 19_999,
        "x" * 100_000, "./" * 9_000 + "a.py", "保存为" * 6_000 + "a.py", "first 1 " * 2_000, "\0\ud800'\"\\", "1-" * 9_000,
    ],
)  # fmt: skip
def test_hostile_text_is_declined_quickly(text):
    assert understand(text) is None
